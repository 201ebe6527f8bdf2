"""What is counted of plain targets: classes and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from polytask.data.encoded import Dense, Encoded
from polytask.data.moments import Moments
from polytask.data.target import Tally

_SHOWN = 5


class ClassTally(Tally):
    """The share of each class: of the rows (category), or of the rows where it is known (labels)."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros(len(self._classes), dtype=np.int64)
        self._known = np.zeros(len(self._classes), dtype=np.int64)

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        labels, mask = _both(values)
        if labels.ndim == 1:
            self._counts += np.bincount(labels[mask].numpy(), minlength=len(self._classes))
            self._known += int(mask.sum())
        else:
            self._counts += labels.sum(dim=0).long().numpy()
            self._known += mask.sum(dim=0).numpy()

    def __str__(self) -> str:
        shares = 100 * self._counts / np.maximum(self._known, 1)
        if len(shares) <= _SHOWN:
            return ", ".join(f"{name}: {percent(share)}" for name, share in zip(self._classes, shares, strict=True))
        least, most = int(shares.argmin()), int(shares.argmax())
        if percent(shares[least]) == percent(shares[most]):
            return f"{len(shares)} classes, each {percent(shares[least])}"
        return (
            f"{len(shares)} classes, from {percent(shares[least])} ({self._classes[least]}) to {percent(shares[most])} "
            f"({self._classes[most]})"
        )


class NumberTally(Tally):
    """Mean and standard deviation of each column."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._moments = Moments(len(self._columns))

    def add(self, values: Encoded) -> None:
        """See `Tally.add`."""
        numbers, mask = _both(values)
        self._moments.add(np.where(mask.numpy(), numbers.numpy(), np.nan).astype(np.float64))

    def __str__(self) -> str:
        texts = [
            f"mean {mean:.4g}, std {std:.4g}" for mean, std in zip(self._moments.mean, self._moments.std, strict=True)
        ]
        if len(texts) == 1:
            return texts[0]
        named = [f"{column}: {text}" for column, text in zip(self._columns, texts, strict=True)]
        more = f"; and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return "; ".join(named[:_SHOWN]) + more


def percent(share: float) -> str:
    """A share in percent as text; what is not 0 does not look like 0."""
    if 0 < share < 1:
        return "< 1 %"
    return f"{share:.0f} %"


def _both(values: Encoded) -> tuple[Tensor, Tensor]:
    """The labels and where they are known, of a plain target."""
    assert isinstance(values, Dense)
    return values.tensors["target"], values.tensors["mask"]
