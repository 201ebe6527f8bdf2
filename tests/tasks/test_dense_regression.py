import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from tests.tasks.dense import SIZE, output_of, target_of

from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.tasks import DenseRegression


def test_metrics_and_answers_are_in_the_users_units():
    summary = TargetSummary(labelled=3, mean=(1.0, -1.0), std=(2.0, 0.5), image_size=SIZE)
    task = DenseRegression(**DenseRegression.complete({"target": "t"}, summary))
    target, mask = target_of(task)
    output = output_of(task)
    metrics = task.metrics()
    task.update_metrics(metrics, output, target, mask)
    maps = np.stack([each.values for each in task.decode(output)[""]])
    assert maps.shape == (5, *SIZE, 2)
    y, p = target.movedim(1, -1).numpy()[mask], maps[mask]
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["mae"] == pytest.approx(np.abs(y - p).mean(), rel=1e-4)
    assert found["rmse"] == pytest.approx(np.sqrt(((y - p) ** 2).mean(0)).mean(), rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(y, p), rel=1e-4)


def test_the_loss_is_the_mean_over_labelled_pixels_and_channels():
    task = DenseRegression("t", loss="mse", mean=[1.0, -1.0], std=[2.0, 0.5])
    target, mask = target_of(task)
    output = output_of(task)
    truth = (target - torch.tensor([1.0, -1])[:, None, None]) / torch.tensor([2.0, 0.5])[:, None, None]
    expected = (output - truth).square().movedim(1, -1)[mask].mean()
    torch.testing.assert_close(task.loss(output, target, mask), expected)


def test_one_channel_is_a_plain_map():
    task = DenseRegression("t", mean=[1.0], std=[2.0])
    found = task.decode(torch.ones(1, 1, 2, 2))[""][0].values
    assert found.tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"loss": "silog"}, "no loss 'silog'"), ({"delta": -1}, "delta is -1"), ({"mean": [1], "std": [0]}, "above 0")],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(UserError, match=message):
        DenseRegression("t", **parameters)
