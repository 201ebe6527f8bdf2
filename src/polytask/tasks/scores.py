"""The metrics' computation, on torchmetrics' states; imported when first used.

Differences to torchmetrics' own classes, on purpose: classes without a target do not lower a mean over classes, entries
can be masked one by one, and what is not defined is NaN, without a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_stat_scores,
    multilabel_stat_scores,
)
from torchmetrics.utilities.data import dim_zero_cat

NO_LABEL = -1
"""What marks a missing entry in a target given to a metric of labels."""


class Counts(NamedTuple):
    """True and false positives and negatives of each class: `[C]`, float64 on the CPU."""

    tp: Tensor
    fp: Tensor
    tn: Tensor
    fn: Tensor

    def mean(self, values: Tensor, counted: Tensor) -> Tensor:
        """Mean of `values` over the classes that are counted, NaN if none is."""
        return values[counted].mean()

    @property
    def wanted(self) -> Tensor:
        """Which classes the targets have."""
        return self.tp + self.fn > 0

    @property
    def seen(self) -> Tensor:
        """Which classes the targets or the predictions have."""
        return self.tp + self.fp + self.fn > 0


Formula = Callable[[Counts], Tensor]


class CountMetric(Metric):
    """A function of the true and false positives and negatives of each class.

    Args:
        formula: From the counts to the value.
        classes: C.
        labels: Whether a row can have several classes (scores are logits `[N, C]`, targets `[N, C]` of 0, 1 and
            `NO_LABEL`) or has one (scores `[N, C]` of any scale, targets `[N]`).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    tp: Tensor
    fp: Tensor
    tn: Tensor
    fn: Tensor

    def __init__(self, formula: Formula, classes: int, labels: bool) -> None:
        super().__init__()
        self._formula, self._classes, self._labels = formula, classes, labels
        for name in ("tp", "fp", "tn", "fn"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Count `[N, C]` scores against their targets."""
        if len(scores) == 0:
            return
        if self._labels:
            counts = multilabel_stat_scores(
                (scores > 0).long(), target, self._classes, average=None, ignore_index=NO_LABEL, validate_args=False
            )
        else:
            predicted = scores.argmax(dim=1)
            counts = multiclass_stat_scores(predicted, target, self._classes, average=None, validate_args=False)
        tp, fp, tn, fn, _ = counts.reshape(self._classes, 5).unbind(dim=1)
        self.tp, self.fp, self.tn, self.fn = self.tp + tp, self.fp + fp, self.tn + tn, self.fn + fn

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        return self._formula(Counts(*(count.cpu().double() for count in (self.tp, self.fp, self.tn, self.fn))))


class RankMetric(Metric):
    """A function of the order of the scores, mean over the classes, each against the rest.

    Args:
        curve: Area under a curve, from scores in [0, 1] and targets 0 or 1.
        needs_negatives: Whether the area is defined only where there is a negative as well as a positive.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, curve: Callable[[Tensor, Tensor], Tensor], needs_negatives: bool) -> None:
        super().__init__()
        self._curve, self._needs_negatives = curve, needs_negatives
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Keep `[N, C]` scores and their targets (`[N]`, or `[N, C]` of 0, 1 and `NO_LABEL`)."""
        self.scores.append(scores)
        self.targets.append(target)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        if not self.scores:
            return torch.tensor(torch.nan)
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        values = []
        for index in range(scores.shape[1]):
            column, target = scores[:, index], (targets == index).long() if targets.ndim == 1 else targets[:, index]
            if targets.ndim > 1:
                known = target != NO_LABEL
                column, target = column[known], target[known]
            positives = int(target.sum())
            if positives == 0 or (self._needs_negatives and positives == len(target)):
                continue
            # Ranks instead of scores: torchmetrics would squash logits, and squashing makes ties.
            order = torch.unique(column, return_inverse=True)[1].to(scores.dtype)
            values.append(self._curve(order / order.max().clamp(min=1), target))
        return torch.stack(values).mean() if values else torch.tensor(torch.nan)


class ErrorMetric(Metric):
    """An error of numbers, mean over the outputs that have a label.

    All sums are over standardised values, so that none loses its digits whatever the user's units are.

    Args:
        kind: `mae`, `rmse`, `r2` or `pearson`.
        std: `[M]`, the user's units of one standardised unit of each output.
    """

    is_differentiable = False
    full_state_update = False
    count: Tensor
    absolute: Tensor
    squared: Tensor
    total: Tensor
    total_squared: Tensor
    predicted: Tensor
    predicted_squared: Tensor
    product: Tensor

    def __init__(self, kind: str, std: Tensor) -> None:
        super().__init__()
        self._kind = kind
        self._std = std.detach().cpu().double()
        self.add_state("count", torch.zeros(len(std), dtype=torch.long), dist_reduce_fx="sum")
        for name in (*_ERROR_SUMS, *_PREDICTION_SUMS):
            self.add_state(name, torch.zeros(len(std)), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add `[N, M]` standardised predictions, targets and the mask of what is labelled."""
        # Apple's GPUs have no float64; their sums stay in float32.
        wide = target.dtype if target.device.type == "mps" else torch.float64
        target = target.masked_fill(~mask, 0.0).to(wide)
        prediction = prediction.masked_fill(~mask, 0.0).to(wide)
        error = prediction - target
        self.count = self.count + mask.sum(dim=0)
        self.absolute = self.absolute + error.abs().sum(dim=0)
        self.squared = self.squared + error.square().sum(dim=0)
        self.total = self.total + target.sum(dim=0)
        self.total_squared = self.total_squared + target.square().sum(dim=0)
        self.predicted = self.predicted + prediction.sum(dim=0)
        self.predicted_squared = self.predicted_squared + prediction.square().sum(dim=0)
        self.product = self.product + (prediction * target).sum(dim=0)

    def compute(self) -> Tensor:
        """The value in the user's units, NaN where it is not defined."""
        count, absolute, squared, total, total_squared = map(self._sum, ("count", *_ERROR_SUMS))
        known = count > 0
        if self._kind == "mae":
            return (self._std * absolute / count)[known].mean()
        if self._kind == "rmse":
            return (self._std * (squared / count).sqrt())[known].mean()
        spread = total_squared - total.square() / count
        # A spread within the rounding of the sums is that of a constant, whose R² is not defined.
        rounding = 1e-6 if self.total.dtype == torch.float32 else 1e-12
        if self._kind == "pearson":
            predicted, predicted_squared, product = map(self._sum, _PREDICTION_SUMS)
            spread_predicted = predicted_squared - predicted.square() / count
            defined = (spread > rounding * total_squared) & (spread_predicted > rounding * predicted_squared)
            together = product - predicted * total / count
            return (together / (spread * spread_predicted).sqrt())[(count >= 2) & defined].mean()
        return (1 - squared / spread)[(count >= 2) & (spread > rounding * total_squared)].mean()

    def _sum(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name)
        return found.cpu().double()


_ERROR_SUMS = ("absolute", "squared", "total", "total_squared")
_PREDICTION_SUMS = ("predicted", "predicted_squared", "product")


class SpearmanMetric(Metric):
    """Correlation of the ranks of predictions and targets, mean over the outputs where it is defined."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]
    masks: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("predictions", "targets", "masks"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Keep `[N, M]` predictions, targets and the mask of what is labelled."""
        self.predictions.append(prediction)
        self.targets.append(target)
        self.masks.append(mask)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        if not self.predictions:
            return torch.tensor(torch.nan)
        kept = (dim_zero_cat(each) for each in (self.predictions, self.targets, self.masks))
        predictions, targets, masks = (each.cpu() for each in kept)
        values = []
        for output in range(predictions.shape[1]):
            known = masks[:, output]
            first, second = (_ranks(each[known, output]) for each in (predictions, targets))
            first, second = first - first.mean(), second - second.mean()
            size = (first.square().sum() * second.square().sum()).sqrt()
            if size > 0:
                values.append((first * second).sum() / size)
        return torch.stack(values).mean() if values else torch.tensor(torch.nan)


def _ranks(values: Tensor) -> Tensor:
    """The ranks of some values, float64: equal ones have the mean of theirs."""
    _, place, times = torch.unique(values, return_inverse=True, return_counts=True)
    last: Tensor = times.cumsum(0).double()
    ranks: Tensor = (last - (times - 1) / 2)[place]
    return ranks


def class_metrics(classes: int, labels: bool) -> MetricCollection:
    """Metrics of C classes, one a row or (`labels`) any number a row; fed with scores and targets."""
    counted = _LABEL_FORMULAS if labels else _CLASS_FORMULAS
    ranked = {
        "auroc": RankMetric(_auroc, needs_negatives=True),
        "average_precision": RankMetric(_average_precision, needs_negatives=False),
    }
    metrics = {name: CountMetric(formula, classes, labels) for name, formula in counted.items()}
    return _collection({**metrics, **ranked}, [list(metrics), list(ranked)])


def number_metrics(std: Tensor) -> MetricCollection:
    """Metrics of M numbers; fed with standardised predictions, standardised targets and a mask."""
    metrics = {kind: ErrorMetric(kind, std) for kind in ("mae", "rmse", "r2", "pearson")}
    return _collection({**metrics, "spearman": SpearmanMetric()}, [list(metrics), ["spearman"]])


def _collection(metrics: Mapping[str, Metric], groups: Sequence[Sequence[str]]) -> MetricCollection:
    return MetricCollection(dict(metrics), compute_groups=[list(group) for group in groups])


def _auroc(scores: Tensor, target: Tensor) -> Tensor:
    return binary_auroc(scores, target, validate_args=False)


def _average_precision(scores: Tensor, target: Tensor) -> Tensor:
    return binary_average_precision(scores, target, validate_args=False)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def _accuracy(counts: Counts) -> Tensor:
    return counts.tp.sum() / (counts.tp + counts.fn).sum()


def _entry_accuracy(counts: Counts) -> Tensor:
    return (counts.tp + counts.tn).sum() / torch.stack(counts).sum()


def _recalls(counts: Counts) -> Tensor:
    return _ratio(counts.tp, counts.tp + counts.fn)


def _balanced_accuracy(counts: Counts) -> Tensor:
    return counts.mean(_recalls(counts), counts.wanted)


def _balanced_entry_accuracy(counts: Counts) -> Tensor:
    negatives = counts.tn + counts.fp
    both = (_recalls(counts) + _ratio(counts.tn, negatives)) / 2
    return counts.mean(both, counts.wanted & (negatives > 0))


def _precision(counts: Counts) -> Tensor:
    return counts.mean(_ratio(counts.tp, counts.tp + counts.fp), counts.seen)


def _recall(counts: Counts) -> Tensor:
    return counts.mean(_recalls(counts), counts.seen)


def _f1_macro(counts: Counts) -> Tensor:
    return counts.mean(_ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn), counts.seen)


def _f1_micro(counts: Counts) -> Tensor:
    return 2 * counts.tp.sum() / (2 * counts.tp + counts.fp + counts.fn).sum()


def _mcc(counts: Counts) -> Tensor:
    rows, right = (counts.tp + counts.fn).sum(), counts.tp.sum()
    wanted, given = counts.tp + counts.fn, counts.tp + counts.fp
    spreads = (rows.square() - given.square().sum()) * (rows.square() - wanted.square().sum())
    return torch.where(rows > 0, _ratio(right * rows - (wanted * given).sum(), spreads.sqrt()), torch.nan)


def _entry_mcc(counts: Counts) -> Tensor:
    tp, fp, tn, fn = counts
    spreads = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return counts.mean(_ratio(tp * tn - fp * fn, spreads.sqrt()), counts.wanted & (tn + fp > 0))


_SHARED_FORMULAS: dict[str, Formula] = {
    "precision": _precision,
    "recall": _recall,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
}
_CLASS_FORMULAS = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    **_SHARED_FORMULAS,
    "mcc": _mcc,
}
_LABEL_FORMULAS = {
    "accuracy": _entry_accuracy,
    "balanced_accuracy": _balanced_entry_accuracy,
    **_SHARED_FORMULAS,
    "mcc": _entry_mcc,
}
