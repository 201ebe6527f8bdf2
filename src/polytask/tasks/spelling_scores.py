"""The computation of the metrics of texts; imported when first used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


def edits(found: Sequence[object], wanted: Sequence[object]) -> int:
    """The least number of insertions, deletions and substitutions that make one sequence the other (Levenshtein)."""
    numbers: dict[object, int] = {}
    first, second = (
        np.array([numbers.setdefault(each, len(numbers)) for each in row], dtype=np.int64) for row in (found, wanted)
    )
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for symbol in first:
        # Deletion, or substitution; then any number of insertions, each one step to the right.
        cheapest = np.minimum(row[1:] + 1, row[:-1] + (second != symbol))
        row = np.minimum.accumulate(np.concatenate([[row[0] + 1], cheapest]) - steps) + steps
    return int(row[-1])


class SpellingMetric(Metric):
    """A metric of texts, from counts over words, characters and rows.

    Args:
        kind: `wer`, `cer` or `accuracy`.
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        # Edits and number of words; the same of characters; right texts and texts.
        self.add_state("counts", torch.zeros(6, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, found: Sequence[str], wanted: Sequence[str]) -> None:
        """Count texts."""
        total = np.zeros(6, dtype=np.int64)
        for one, other in zip(found, wanted, strict=True):
            words, known = one.split(), other.split()
            total += [edits(words, known), len(known), edits(one, other), len(other), one == other, 1]
        self.counts = self.counts + torch.from_numpy(total).to(self.counts.device)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        start = {"wer": 0, "cer": 2, "accuracy": 4}[self._kind]
        part, whole = self.counts[start : start + 2].cpu().double()
        return part / whole if whole > 0 else torch.tensor(torch.nan)


def spelling_metrics() -> MetricCollection:
    """Metrics of texts; fed with texts and those that they should be."""
    kinds = ["wer", "cer", "accuracy"]
    return MetricCollection({kind: SpellingMetric(kind) for kind in kinds}, compute_groups=[kinds])
