"""The metrics that tasks are judged by: their names, their direction and their best value."""

from __future__ import annotations

from typing import Literal

from polytask.errors import UserError, closest, listing

ClassMetric = Literal[
    "accuracy", "balanced_accuracy", "precision", "recall", "f1_macro", "f1_micro", "auroc", "average_precision"
]
"""Metrics of classes and of labels.

- `accuracy`: share of the rows (for labels: of the single yes/no entries) that are right.
- `balanced_accuracy`: mean recall over the classes that the targets have; for labels, mean over the labels of the mean
  of the recalls of yes and of no.
- `precision`, `recall`, `f1_macro`: means over the classes that the targets or the predictions have.
- `f1_micro`: from the counts of all classes together.
- `auroc`: mean over the classes, each against the rest, that the targets have and do not consist of.
- `average_precision`: area under the precision-recall curve, mean over the classes that the targets have.
"""

NumberMetric = Literal["mae", "rmse", "r2"]
"""Metrics of numbers, in the user's units; over several outputs, their unweighted mean.

- `mae`: mean absolute error.
- `rmse`: root of the mean squared error.
- `r2`: coefficient of determination, `1 - sum (y - p)² / sum (y - mean of y)²`.
"""

_OPTIMA: dict[str, float] = {
    "accuracy": 1.0,
    "balanced_accuracy": 1.0,
    "precision": 1.0,
    "recall": 1.0,
    "f1_macro": 1.0,
    "f1_micro": 1.0,
    "auroc": 1.0,
    "average_precision": 1.0,
    "r2": 1.0,
    "mae": 0.0,
    "rmse": 0.0,
    "loss": 0.0,
}
_ERRORS = frozenset({"mae", "rmse", "loss"})


def optimum(metric: str) -> float:
    """The best value that `metric` can have: 1 for scores, 0 for errors and for `loss`.

    Raises:
        UserError: There is no such metric.
    """
    if metric not in _OPTIMA:
        raise UserError(f"There is no metric '{metric}'.{closest(metric, _OPTIMA)} Allowed: {listing(_OPTIMA)}.")
    return _OPTIMA[metric]


def direction(metric: str) -> Literal["max", "min"]:
    """Whether `metric` is to be made large (`max`: scores) or small (`min`: errors and `loss`).

    Raises:
        UserError: There is no such metric.
    """
    optimum(metric)
    return "min" if metric in _ERRORS else "max"
