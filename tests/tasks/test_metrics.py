import math
from typing import get_args

import pytest
import torch

from polytask.errors import UserError
from polytask.tasks.count_scores import rate_metrics
from polytask.tasks.metrics import (
    ClassMetric,
    NumberMetric,
    OrderMetric,
    RateMetric,
    SurvivalMetric,
    direction,
    optimum,
)
from polytask.tasks.ordinal_scores import order_metrics
from polytask.tasks.scores import class_metrics, number_metrics
from polytask.tasks.survival_scores import survival_metrics


@pytest.mark.parametrize(
    "metric",
    [*get_args(ClassMetric), "r2", "pearson", "spearman", "span_f1", "d2", "quadratic_kappa", "concordance"],
)
def test_scores_have_optimum_one_and_are_to_be_made_large(metric):
    assert (optimum(metric), direction(metric)) == (1.0, "max")


@pytest.mark.parametrize("metric", ["mae", "rmse", "wer", "cer", "poisson_deviance", "integrated_brier", "loss"])
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


def test_so_it_is_for_counts_orders_and_times():
    ranks, counts = torch.arange(3), torch.tensor([[1.0], [2.0], [4.0]])
    edges = torch.arange(1.0, 4.0)
    known = [
        (get_args(RateMetric), rate_metrics(1), (counts, counts, torch.ones(3, 1, dtype=torch.bool))),
        (get_args(OrderMetric), order_metrics(3), (ranks, ranks)),
        # Without the event up to the very end of the interval before it.
        (get_args(SurvivalMetric), survival_metrics(edges), ((edges < edges.view(-1, 1)).float(), edges)),
    ]
    for names, metrics, values in known:
        metrics.update(*values)
        found = metrics.compute()
        assert set(found) == set(names)
        for name, value in found.items():
            if name != "integrated_brier":  # which sees the time within the interval as well
                assert math.isclose(value, optimum(name), abs_tol=1e-6), name


@pytest.mark.parametrize("function", [optimum, direction])
def test_an_unknown_metric_is_named_with_the_closest_one(function):
    with pytest.raises(UserError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'\?"):
        function("acuracy")
