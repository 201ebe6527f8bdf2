import math
from typing import get_args

import pytest
import torch

from polytask.errors import UserError
from polytask.tasks.metrics import ClassMetric, NumberMetric, direction, optimum
from polytask.tasks.scores import class_metrics, number_metrics


@pytest.mark.parametrize("metric", [*get_args(ClassMetric), "r2"])
def test_scores_have_optimum_one_and_are_to_be_made_large(metric):
    assert (optimum(metric), direction(metric)) == (1.0, "max")


@pytest.mark.parametrize("metric", ["mae", "rmse", "loss"])
def test_errors_have_optimum_zero_and_are_to_be_made_small(metric):
    assert (optimum(metric), direction(metric)) == (0.0, "min")


def test_the_names_are_those_that_are_computed_and_perfect_predictions_reach_the_optimum():
    for labels in (False, True):
        metrics = class_metrics(3, labels=labels)
        target = torch.arange(3)
        metrics.update(torch.eye(3) * 2 - 1, torch.eye(3, dtype=torch.long) if labels else target)
        values = metrics.compute()
        assert set(values) == set(get_args(ClassMetric))
        assert {name: float(value) for name, value in values.items()} == {name: optimum(name) for name in values}
    metrics = number_metrics(torch.ones(1))
    y = torch.randn(4, 1)
    metrics.update(y, y, torch.ones(4, 1, dtype=torch.bool))
    assert set(metrics) == set(get_args(NumberMetric))
    assert all(math.isclose(value, optimum(name), abs_tol=1e-6) for name, value in metrics.compute().items())


@pytest.mark.parametrize("function", [optimum, direction])
def test_an_unknown_metric_is_named_with_the_closest_one(function):
    with pytest.raises(UserError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'\?"):
        function("acuracy")
