"""The computation of metrics of pixels, on torchmetrics' states; imported when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from polytask.tasks.metrics import MapMetric
from polytask.tasks.scores import ErrorMetric

_ANGLE_BINS = 18_000
"""Angles are counted in hundredths of a degree, of which the median is one."""

_THRESHOLDS = 100


class MaskMetric(Metric):
    """A function of how often each class is taken for each.

    Args:
        formula: From the float64 `[C, C]` counts, a row for each true class, to the value.
        classes: C.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, formula: Callable[[Tensor], Tensor], classes: int) -> None:
        super().__init__()
        self._formula, self._classes = formula, classes
        self.add_state("counts", torch.zeros(classes, classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, mask: Tensor) -> None:
        """Count predicted classes against true ones, int64 `[B, H, W]`, where `mask` is true."""
        pairs = target[mask] * self._classes + predicted[mask]
        self.counts = self.counts + torch.bincount(pairs, minlength=self._classes**2).view(self.counts.shape)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        return self._formula(self.counts.cpu().double())


class SumMetric(Metric):
    """A function of sums over pixels.

    Args:
        sums: What is added up, by name: from predictions and targets `[N]` to one number for each pixel.
        formula: From the means to the value.
    """

    is_differentiable = False
    full_state_update = False
    count: Tensor
    totals: Tensor

    def __init__(
        self, sums: Mapping[str, Callable[[Tensor, Tensor], Tensor]], formula: Callable[[Mapping[str, Tensor]], Tensor]
    ) -> None:
        super().__init__()
        self._sums, self._formula = dict(sums), formula
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("totals", torch.zeros(len(sums)), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the values of N pixels."""
        # Apple's GPUs have no float64; their sums stay in float32.
        wide = torch.float32 if target.device.type == "mps" else torch.float64
        found = torch.stack([each(prediction.to(wide), target.to(wide)).sum() for each in self._sums.values()])
        self.totals = self.totals + found
        self.count = self.count + len(target)

    def compute(self) -> Tensor:
        """The value, NaN without any pixel."""
        means = self.totals.cpu().double() / self.count.cpu().double()
        return self._formula(dict(zip(self._sums, means, strict=True)))


class AngleMetric(Metric):
    """A function of the angles between normals, counted in hundredths of a degree.

    Args:
        formula: From the counts, float64 `[18000]`, and the mean angle in degrees, to the value.
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    total: Tensor

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._formula = formula
        self.add_state("counts", torch.zeros(_ANGLE_BINS, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, degrees: Tensor) -> None:
        """Count the angles of N pixels."""
        bins = (degrees * (_ANGLE_BINS / 180)).long().clamp(0, _ANGLE_BINS - 1)
        self.counts = self.counts + torch.bincount(bins, minlength=_ANGLE_BINS)
        # Apple's GPUs have no float64; their sums stay in float32.
        self.total = self.total + degrees.to(torch.float32 if degrees.device.type == "mps" else torch.float64).sum()

    def compute(self) -> Tensor:
        """The value, NaN without any pixel."""
        counts = self.counts.cpu().double()
        return self._formula(counts, self.total.cpu().double() / counts.sum())


class EdgeMetric(Metric):
    """F-scores of edges by threshold, from counts of probabilities in hundredths.

    Args:
        formula: From the F-scores at the thresholds 0.01, 0.02... 0.99 to the value.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._formula = formula
        self.add_state("counts", torch.zeros(2, _THRESHOLDS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Count N pixels."""
        bins = (probability * _THRESHOLDS).long().clamp(0, _THRESHOLDS - 1) + _THRESHOLDS * target
        self.counts = self.counts + torch.bincount(bins, minlength=2 * _THRESHOLDS).view(2, -1)

    def compute(self) -> Tensor:
        """The value, NaN without any edge."""
        # From the back: how many have at least so great a probability.
        found = self.counts.cpu().double().flip(1).cumsum(1).flip(1)[:, 1:]
        edges = self.counts[1].sum().cpu().double()
        scores = 2 * found[1] / (found.sum(0) + edges)
        return self._formula(scores) if edges > 0 else torch.tensor(torch.nan)


def mask_metrics(classes: int) -> MetricCollection:
    """Metrics of a class for each pixel."""
    return _collection({name: MaskMetric(formula, classes) for name, formula in _MASKS.items()})


def map_metrics(std: Tensor) -> MetricCollection:
    """Metrics of numbers; fed with standardised predictions and targets of N pixels, and a mask."""
    return _collection({kind: ErrorMetric(kind, std) for kind in get_args(MapMetric)})


def depth_metrics() -> MetricCollection:
    """Metrics of depths; fed with depths above 0 of N pixels."""
    return _collection({name: SumMetric(_DEPTH_SUMS, formula) for name, formula in _DEPTHS.items()})


def normal_metrics() -> MetricCollection:
    """Metrics of normals; fed with angles in degrees."""
    return _collection({name: AngleMetric(formula) for name, formula in _ANGLES.items()})


def edge_metrics() -> MetricCollection:
    """Metrics of edges; fed with probabilities and targets of N pixels."""
    return _collection({name: EdgeMetric(formula) for name, formula in _EDGES.items()})


def _collection(metrics: Mapping[str, Metric]) -> MetricCollection:
    return MetricCollection(dict(metrics), compute_groups=[list(metrics)])


def _miou(counts: Tensor) -> Tensor:
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    return (right / union)[union > 0].mean()


def _pixel_accuracy(counts: Tensor) -> Tensor:
    return counts.diagonal().sum() / counts.sum()


def _mean_accuracy(counts: Tensor) -> Tensor:
    wanted = counts.sum(1)
    return (counts.diagonal() / wanted)[wanted > 0].mean()


def _within(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda prediction, target: (torch.maximum(prediction / target, target / prediction) < factor).to(target)


def _value(name: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
    return lambda means: means[name]


def _share_within(degrees: float) -> Callable[[Tensor, Tensor], Tensor]:
    bins = round(degrees * _ANGLE_BINS / 180)
    return lambda counts, _: counts[:bins].sum() / counts.sum()


def _median(counts: Tensor, _: Tensor) -> Tensor:
    if counts.sum() == 0:
        return torch.tensor(torch.nan)
    place = int(torch.searchsorted(counts.cumsum(0), counts.sum() / 2))
    return torch.tensor((place + 0.5) * 180 / _ANGLE_BINS, dtype=torch.float64)


_MASKS = {"miou": _miou, "pixel_accuracy": _pixel_accuracy, "mean_accuracy": _mean_accuracy}
_DEPTH_SUMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "absolute": lambda prediction, target: (prediction - target).abs(),
    "relative": lambda prediction, target: (prediction - target).abs() / target,
    "squared": lambda prediction, target: (prediction - target).square(),
    "delta1": _within(1.25),
    "delta2": _within(1.25**2),
    "delta3": _within(1.25**3),
}
_DEPTHS: Mapping[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "abs_error": _value("absolute"),
    "rel_error": _value("relative"),
    "rmse": lambda means: means["squared"].sqrt(),
    "delta1": _value("delta1"),
    "delta2": _value("delta2"),
    "delta3": _value("delta3"),
}
_ANGLES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_angle": lambda _, mean: mean,
    "median_angle": _median,
    "within_11": _share_within(11.25),
    "within_22": _share_within(22.5),
    "within_30": _share_within(30.0),
}
_EDGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "best_f_score": lambda scores: scores.max(),
    "f_score": lambda scores: scores[_THRESHOLDS // 2 - 1],
}
