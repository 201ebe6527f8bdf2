import numpy as np
import pytest
import torch

from polytask.errors import UserError
from polytask.tasks import Normals


def turned(degrees):
    """Unit vectors that many degrees from z, `[1, 3, 1, N]`."""
    angle = np.deg2rad(degrees)
    return torch.tensor(np.stack([np.sin(angle), 0 * angle, np.cos(angle)])).float().view(1, 3, 1, -1)


def test_angles_and_shares():
    task = Normals("t")
    degrees = np.array([0.005, 2, 11, 12, 22.4, 23, 29, 31, 90, 180])
    target = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 1, 10)
    metrics = task.metrics()
    task.update_metrics(metrics, task.condensed(3 * turned(degrees)), target, torch.ones(1, 1, 10, dtype=torch.bool))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["mean_angle"] == pytest.approx(degrees.mean(), rel=1e-4)
    assert found["median_angle"] == pytest.approx(22.4, abs=0.02), "the lower of the two in the middle"
    assert (found["within_11"], found["within_22"], found["within_30"]) == (0.3, 0.5, 0.7)


def test_the_loss_is_one_minus_the_cosine():
    task = Normals("t")
    target = turned(np.zeros(3))
    losses = task.entries(5 * turned(np.array([0.0, 60, 180])), target)
    torch.testing.assert_close(losses, torch.tensor([[[0.0, 0.5, 2.0]]]), atol=1e-6, rtol=0)


def test_answers_are_unit_vectors_and_the_baseline_is_the_mean_direction():
    task = Normals("t", mean=[0.0, 0.3, 0.4], image_size=[2, 3])
    found = task.decode(task.baseline(2))[""]
    assert len(found) == 2 and found[0].vectors and found[0].values.shape == (2, 3, 3)
    np.testing.assert_allclose(found[0].values[0, 0], [0, 0.6, 0.8], rtol=1e-5)
    assert Normals("t", mean=[0, 0, 0]).baseline(1)[0, :, 0, 0].tolist() == [0, 0, 1]


def test_wrong_parameters_are_named():
    with pytest.raises(UserError, match="y is 'left'"):
        Normals("t", y="left")
    with pytest.raises(UserError, match="a normal has three numbers"):
        Normals("t", mean=[1, 2])
    assert Normals.target_spec({"target": "t", "y": "up"}).upwards
