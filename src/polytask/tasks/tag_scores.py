"""The computation of the metrics of tags; imported when first used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from polytask.sequences import Sequences, padded
from polytask.tasks.spans import Tagset, spans


class TagMetric(Metric):
    """A metric of tags, from counts over words and over spans.

    Args:
        kind: `accuracy`, `f1_macro` or `span_f1`.
        known: What the classes mean.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    tp: Tensor
    predicted: Tensor
    wanted: Tensor
    spans: Tensor

    def __init__(self, kind: str, known: Tagset) -> None:
        super().__init__()
        self._kind, self._tags = kind, known
        for name in ("tp", "predicted", "wanted"):
            self.add_state(name, torch.zeros(len(known.marks), dtype=torch.long), dist_reduce_fx="sum")
        # Right ones, predicted ones, those of the targets.
        self.add_state("spans", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Sequences, target: Sequences, mask: Tensor) -> None:
        """Count int64 `[B, W]` tags; one alone stands for those of all words of a row."""
        tags = target.values[mask]
        found = predicted.values[mask]
        found = found.expand(-1, tags.shape[1]) if found.shape[1] == 1 else padded(found, tags.shape[1])
        labelled = tags >= 0
        wanted, given = tags[labelled], found[labelled]
        classes = len(self._tags.marks)
        self.tp = self.tp + torch.bincount(wanted[wanted == given], minlength=classes)
        self.predicted = self.predicted + torch.bincount(given, minlength=classes)
        self.wanted = self.wanted + torch.bincount(wanted, minlength=classes)
        self.spans = self.spans + self._count_spans(tags, found.masked_fill(~labelled, -1)).to(self.spans.device)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        if self._kind == "span_f1":
            right, predicted, wanted = self.spans.cpu().double()
            return 2 * right / (predicted + wanted) if wanted + predicted > 0 else torch.tensor(torch.nan)
        tp, predicted, wanted = (count.cpu().double() for count in (self.tp, self.predicted, self.wanted))
        if self._kind == "accuracy":
            return tp.sum() / wanted.sum()
        seen = predicted + wanted > 0
        return (2 * tp / (predicted + wanted))[seen].mean()

    def _count_spans(self, tags: Tensor, found: Tensor) -> Tensor:
        rows, length = tags.shape
        row = np.repeat(np.arange(rows), length)
        wanted, given = (spans(each.cpu().numpy().ravel(), row, self._tags) for each in (tags, found))
        right = np.isin(_keys(given, len(row)), _keys(wanted, len(row))).sum()
        return torch.tensor([int(right), len(given), len(wanted)])


def _keys(found: np.ndarray, words: int) -> np.ndarray:
    """One number a span: spans of one text begin at different words, so two numbers tell the end and the kind."""
    keys: np.ndarray = (found[:, 2] * words + found[:, 0]) * words + found[:, 1]
    return keys


def tag_metrics(known: Tagset) -> MetricCollection:
    """Metrics of tags; fed with predicted tags, their targets, and which rows have labels."""
    kinds = ["accuracy", "f1_macro", "span_f1"]
    return MetricCollection({kind: TagMetric(kind, known) for kind in kinds}, compute_groups=[kinds])
