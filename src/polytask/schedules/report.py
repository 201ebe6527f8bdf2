"""What passes between a training and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Turn = tuple[str, ...]
"""The tasks of one step, in the model's order. It draws rows that are labelled for at least one of them."""


@dataclass(frozen=True)
class EpochReport:
    """What a schedule learns at the end of an epoch.

    Attributes:
        losses: Mean training loss of each task that took part.
        scores: Each task's validation metrics by name; empty where there was no validation.
        gains: How much of the constant baseline's error each task removes on validation data; see `selection`.
        higher_is_better: The direction of each metric in `scores`, by the metric's name.
        cosines: `[K, K]`, the cosines between the tasks' gradients for what they share, in the model's order, NaN where
            a pair was not measured; None where nothing was. See `Schedule.probes`.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    cosines: np.ndarray | None = None
