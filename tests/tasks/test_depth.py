import math

import numpy as np
import pytest
import torch
from tests.tasks.dense import SIZE, output_of, target_of

from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.tasks import Depth


def test_silog_forgives_a_common_factor():
    task = Depth("t", loss="silog", forgiven=1.0, mean=[0.0], std=[1.0])
    target, mask = target_of(task)
    exact = target.where(mask[:, None], 1.0).log()
    assert float(task.loss(exact, target, mask)) == pytest.approx(0, abs=1e-6)
    assert float(task.loss(exact + 0.7, target, mask)) == pytest.approx(0, abs=1e-5)
    half = Depth("t", loss="silog", mean=[0.0], std=[1.0])
    assert float(half.loss(exact + 0.7, target, mask)) == pytest.approx(0.5 * 0.49, rel=1e-4)


def test_silog_is_the_formula_of_each_image():
    task = Depth("t", loss="silog", forgiven=0.85, mean=[1.0], std=[0.3])
    target, mask = target_of(task, rows=3)
    output = output_of(task, rows=3)
    total, pixels = 0.0, 0
    for row in (1, 2):
        known = mask[row]
        d = (output[row, 0] * 0.3 + 1.0)[known] - target[row, 0][known].log()
        total += float((d.square().mean() - 0.85 * d.mean() ** 2) * known.sum())
        pixels += int(known.sum())
    assert float(task.loss(output, target, mask)) == pytest.approx(total / pixels, rel=1e-4)


def test_berhu_is_linear_for_small_errors_and_square_for_large_ones():
    task = Depth("t", loss="berhu", mean=[0.0], std=[1.0])
    target = torch.full((1, 1, 1, 3), 5.0)
    output = target + torch.tensor([0.5, 2.0, 10.0])
    expected = (0.5 + 2.0 + (100 + 4) / 4) / 3
    assert float(task.loss(output, target, torch.ones(1, 1, 3, dtype=torch.bool))) == pytest.approx(expected)


def test_metrics_are_those_of_the_paper():
    task = Depth("t", mean=[3.0], std=[1.0])
    numbers = np.random.default_rng(0)
    truth, predicted = numbers.uniform(1, 5, (4, 1, 5, 6)), numbers.uniform(1, 5, (4, 1, 5, 6))
    mask = numbers.random((4, 5, 6)) < 0.6
    metrics = task.metrics()
    for rows in (slice(0, 1), slice(1, 4)):
        output = torch.from_numpy(predicted[rows] - 3).float()
        target = torch.from_numpy(truth[rows]).float()
        task.update_metrics(metrics, task.condensed(output), target, torch.from_numpy(mask[rows]))
    y, p = truth[:, 0][mask], predicted[:, 0][mask]
    ratio = np.maximum(y / p, p / y)
    expected = {
        "abs_error": np.abs(y - p).mean(),
        "rel_error": (np.abs(y - p) / y).mean(),
        "rmse": math.sqrt(((y - p) ** 2).mean()),
        **{f"delta{k}": (ratio < 1.25**k).mean() for k in (1, 2, 3)},
    }
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["l1", "silog"])
def test_depths_are_in_the_users_units_and_above_nought(loss):
    summary = TargetSummary(labelled=3, mean=(2.0,), std=(0.5,), image_size=SIZE)
    task = Depth(**Depth.complete({"target": "t", "loss": loss}, summary))
    found = task.decode(torch.tensor([0.0, 2.0, -100.0]).view(1, 1, 1, 3))[""][0].values
    centre = math.exp(2.0) if loss == "silog" else 2.0
    assert found[0, 0] == pytest.approx(centre) and (found > 0).all() and found.dtype == np.float32
    spec = Depth.target_spec({"target": "t", "loss": loss, "scale": 0.001})
    assert (spec.meaning, spec.logarithm, spec.scale, spec.invalid) == ("depth", loss == "silog", 0.001, (0.0,))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "l3"}, "no loss 'l3'"),
        ({"forgiven": 2}, "forgiven is 2"),
        ({"delta": 0}, "delta is 0"),
        ({"scale": 0}, "scale is 0"),
        ({"mean": [1, 2], "std": [1, 2]}, "one number each"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(UserError, match=message):
        Depth("t", **parameters)
