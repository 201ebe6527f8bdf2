"""The metrics that tasks are judged by: their names, their direction and their best value."""

from __future__ import annotations

from typing import Literal

from polytask.errors import UserError, closest, listing

ClassMetric = Literal[
    "accuracy", "balanced_accuracy", "precision", "recall", "f1_macro", "f1_micro", "mcc", "auroc", "average_precision"
]
"""Metrics of classes and of labels.

- `accuracy`: share of the rows (for labels: of the single yes/no entries) that are right.
- `balanced_accuracy`: mean recall over the classes that the targets have; for labels, mean over the labels of the mean
  of the recalls of yes and of no.
- `precision`, `recall`, `f1_macro`: means over the classes that the targets or the predictions have.
- `f1_micro`: from the counts of all classes together.
- `mcc`: Matthews' correlation coefficient, 0 for guesses (Gorodkin, 2004, for several classes); for labels, the mean
  over those that the targets have and do not consist of.
- `auroc`: mean over the classes, each against the rest, that the targets have and do not consist of.
- `average_precision`: area under the precision-recall curve, mean over the classes that the targets have.
"""

NumberMetric = Literal["mae", "rmse", "r2", "pearson", "spearman"]
"""Metrics of numbers, in the user's units; over several outputs, their unweighted mean.

- `mae`: mean absolute error.
- `rmse`: root of the mean squared error.
- `r2`: coefficient of determination, `1 - sum (y - p)² / sum (y - mean of y)²`.
- `pearson`: correlation of predictions and targets; not defined where either is constant.
- `spearman`: correlation of their ranks.
"""

RateMetric = Literal["poisson_deviance", "d2", "mae"]
"""Metrics of counts, from the expected count; over several outputs, their unweighted mean.

- `poisson_deviance`: mean of `2 (y log(y / p) - y + p)`.
- `d2`: share of the deviance that is explained, `1 - D(y, p) / D(y, mean of y)`.
- `mae`: mean absolute error.
"""

OrderMetric = Literal["mae", "quadratic_kappa", "accuracy"]
"""Metrics of ordered classes.

- `mae`: mean of how many classes a prediction is off.
- `quadratic_kappa`: agreement beyond chance, where a prediction counts the square of how far it is off (Cohen, 1968).
- `accuracy`: share of the rows that are right.
"""

SurvivalMetric = Literal["concordance", "integrated_brier"]
"""Metrics of times until an event, of which some are known to be longer only.

- `concordance`: share of the pairs of rows of which it is known who had the event first that have the greater risk
  there (Harrell et al., 1982); equal risks count half.
- `integrated_brier`: mean over time of the squared error of the probability to be without the event, rows weighted by
  the inverse probability of being observed (Graf et al., 1999).
"""

BoxMetric = Literal["map_50", "map", "map_75"]
"""Metrics of boxes: the mean over the classes of the area under the precision-recall curve, as COCO has it.

A detection is right if its intersection over union with a box of its class that is not found yet is

- `map_50`: at least 0.5.
- `map`: at least a threshold; mean over the thresholds 0.5, 0.55 to 0.95.
- `map_75`: at least 0.75.
"""

TagMetric = Literal["accuracy", "f1_macro", "span_f1"]
"""Metrics of the tags of words.

- `accuracy`: share of the labelled words that are right.
- `f1_macro`: mean over the tags that the targets or the predictions have.
- `span_f1`: F1 of whole spans, which are right where first word, last word and kind are, by the rules of `conlleval`
  (Tjong Kim Sang and Buchholz, 2000). Where tags have no marks such as `B-`, each word is a span: the accuracy.
"""

SpellingMetric = Literal["wer", "cer", "accuracy"]
"""Metrics of texts, which are the least numbers of insertions, deletions and substitutions over the length.

- `wer`: word error rate, of all words of all rows.
- `cer`: character error rate, of all characters of all rows, spaces included.
- `accuracy`: share of the texts that are wholly right.
"""

MapMetric = Literal["mae", "rmse", "r2"]
"""Metrics of numbers for each pixel, over all labelled pixels of a part together: as `NumberMetric`."""

MaskMetric = Literal["miou", "pixel_accuracy", "mean_accuracy"]
"""Metrics of a class for each pixel, from all labelled pixels of a part together.

- `miou`: mean over the classes, those that the targets or the predictions have, of intersection over union.
- `pixel_accuracy`: share of the pixels that are right.
- `mean_accuracy`: mean over the classes that the targets have of the share of their pixels that are right.
"""

DepthMetric = Literal["abs_error", "rel_error", "rmse", "delta1", "delta2", "delta3"]
"""Metrics of depths y and predictions p, over all labelled pixels of a part together (Eigen et al., 2014).

- `abs_error`: mean of `|y - p|`, in the user's units.
- `rel_error`: mean of `|y - p| / y`.
- `rmse`: root of the mean of `(y - p)²`.
- `delta1`, `delta2`, `delta3`: share of the pixels with `max(y / p, p / y)` below 1.25, 1.25² and 1.25³.
"""

NormalMetric = Literal["mean_angle", "median_angle", "within_11", "within_22", "within_30"]
"""Metrics of normals, over all labelled pixels of a part together.

- `mean_angle`, `median_angle`: of the angle between normal and prediction, in degrees, the median to a hundredth.
- `within_11`, `within_22`, `within_30`: share of the pixels with an angle below 11.25, 22.5 and 30 degrees.
"""

EdgeMetric = Literal["best_f_score", "f_score"]
"""Metrics of edges, pixel by pixel: `2 P R / (P + R)` of the precision P and the recall R of the part's pixels.

- `best_f_score`: at the best of the thresholds 0.01, 0.02... 0.99 for all images together.
- `f_score`: where the probability is above one half.
"""

TokenMetric = Literal["accuracy", "perplexity"]
"""Metrics of hidden tokens.

- `accuracy`: share of the hidden tokens that are told right.
- `perplexity`: exponential of the mean of minus the logarithm of a hidden token's probability.
"""

RestorationMetric = Literal["error", "mse", "accuracy"]
"""Metrics of what is to be restored.

- `error`: mean loss of all columns or pixels.
- `mse`: mean squared error of numbers and pixels, standardised.
- `accuracy`: share of the categories that are right.
"""

RetrievalMetric = Literal["accuracy"]
"""Metrics of versions that are to be found again.

- `accuracy`: share of the versions that are nearest to the other version of their row, of all others in the batch.
"""

_OPTIMA: dict[str, float] = {
    "perplexity": 1.0,
    "error": 0.0,
    "mse": 0.0,
    "miou": 1.0,
    "pixel_accuracy": 1.0,
    "mean_accuracy": 1.0,
    "abs_error": 0.0,
    "rel_error": 0.0,
    "delta1": 1.0,
    "delta2": 1.0,
    "delta3": 1.0,
    "mean_angle": 0.0,
    "median_angle": 0.0,
    "within_11": 1.0,
    "within_22": 1.0,
    "within_30": 1.0,
    "best_f_score": 1.0,
    "f_score": 1.0,
    "map_50": 1.0,
    "map": 1.0,
    "map_75": 1.0,
    "accuracy": 1.0,
    "balanced_accuracy": 1.0,
    "precision": 1.0,
    "recall": 1.0,
    "f1_macro": 1.0,
    "f1_micro": 1.0,
    "span_f1": 1.0,
    "mcc": 1.0,
    "pearson": 1.0,
    "spearman": 1.0,
    "auroc": 1.0,
    "average_precision": 1.0,
    "r2": 1.0,
    "d2": 1.0,
    "quadratic_kappa": 1.0,
    "concordance": 1.0,
    "poisson_deviance": 0.0,
    "integrated_brier": 0.0,
    "mae": 0.0,
    "rmse": 0.0,
    "wer": 0.0,
    "cer": 0.0,
    "loss": 0.0,
}
_ERRORS = frozenset(
    {
        "perplexity",
        "error",
        "mse",
        "abs_error",
        "rel_error",
        "mean_angle",
        "median_angle",
        "wer",
        "cer",
        "poisson_deviance",
        "integrated_brier",
        "mae",
        "rmse",
        "loss",
    }
)


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
