"""The metrics of times until an event; imported when first used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

from polytask.tasks.survival_curves import Curves


class SurvivalScore(Metric):
    """A metric of survival curves.

    Args:
        kind: `concordance` or `integrated_brier`.
        edges: `[J]`: the ends of the intervals.
    """

    is_differentiable = False
    full_state_update = False
    curves: list[Tensor]
    times: list[Tensor]

    def __init__(self, kind: str, edges: Tensor) -> None:
        super().__init__()
        self._kind = kind
        self._edges = edges.detach().cpu().double()
        self.add_state("curves", [], dist_reduce_fx="cat")
        self.add_state("times", [], dist_reduce_fx="cat")

    def update(self, curves: Tensor, target: Tensor) -> None:
        """Keep `[N, J]` probabilities of being without the event, and times `[N]`, below 0 without an event."""
        self.curves.append(curves.detach())
        self.times.append(target)

    def compute(self) -> Tensor:
        """The value, NaN where it is not defined."""
        if not self.curves:
            return torch.tensor(torch.nan)
        curves = Curves(dim_zero_cat(self.curves).cpu().double(), self._edges)
        target = dim_zero_cat(self.times).cpu().double().numpy()
        time, event = np.abs(target), target >= 0
        if self._kind == "concordance":
            return torch.tensor(concordance(curves.risks().numpy(), time, event))
        return torch.tensor(integrated_brier(curves, time, event, self._edges.numpy()))


def survival_metrics(edges: Tensor) -> MetricCollection:
    """Metrics of survival curves; fed with the curves and times, below 0 without an event."""
    names = ("concordance", "integrated_brier")
    return MetricCollection({name: SurvivalScore(name, edges) for name in names}, compute_groups=[list(names)])


def concordance(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Harrell's index, exactly: the share of comparable pairs in which who had the event first has the greater risk.

    A pair is comparable where the one had the event before the other's time, or at that time if the other had none
    until then; equal risks count half. Computed in O(N log² N): pairs are counted at the highest bit in which the
    places of their times differ.

    Args:
        risk: `[N]`: the greater, the earlier.
        time: `[N]`.
        event: bool `[N]`: whether the event happened at that time.

    Returns:
        In [0, 1]; NaN where no pair is comparable.
    """
    # Events come before those at the same time that were only observed until then, and share a place.
    place = 2 * np.unique(time, return_inverse=True)[1] + ~event
    level = np.unique(risk, return_inverse=True)[1]
    ranks = int(level.max(initial=0)) + 1
    greater = equal = pairs = 0
    for bit in range(int(place.max(initial=0)).bit_length()):
        late = (place >> bit) & 1
        group = place >> (bit + 1)
        early = event & (late == 0)
        keys, where = np.unique(group * ranks + level, return_inverse=True)
        at = np.bincount(where, weights=late, minlength=len(keys))
        up_to = np.concatenate([[0.0], np.cumsum(at)])
        first, last = (np.searchsorted(keys, (group[early] + shift) * ranks) for shift in (0, 1))
        own = where[early]
        greater += up_to[own].sum() - up_to[first].sum()
        equal += at[own].sum()
        pairs += up_to[last].sum() - up_to[first].sum()
    return float((greater + equal / 2) / pairs) if pairs else float("nan")


def integrated_brier(curves: Curves, time: np.ndarray, event: np.ndarray, edges: np.ndarray) -> float:
    """The Brier score with the inverse probability of being observed as weights, mean over time up to the last edge.

    At time t, a row with an event before or at t counts `S(t)² / G(T-)`, with T its time, one observed for longer
    `(1 - S(t))² / G(t)`, the others nothing; G is the Kaplan-Meier curve of not yet being out of observation, of these
    same rows. The mean over time is by trapezoids.

    Args:
        curves: Of N rows.
        time: `[N]`.
        event: bool `[N]`.
        edges: The ends of the intervals; those from the last time of a row on are left out.

    Returns:
        NaN where no interval ends before the last row's time.
    """
    grid = np.concatenate([[0.0], edges[edges < time.max()]])
    if len(grid) < 2:
        return float("nan")
    without = curves.at(torch.from_numpy(grid)).numpy()
    steps, left = _observed(time, event)
    before = left[np.searchsorted(steps, time, side="left")]
    now = left[np.searchsorted(steps, grid, side="right")]
    over = time[:, None] <= grid
    scores = np.where(over, np.where(event, 1 / before, 0.0)[:, None] * without**2, (1 - without) ** 2 / now)
    return float(np.trapezoid(scores.mean(axis=0), grid) / grid[-1])


def _observed(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Kaplan-Meier curve of staying under observation: its steps `[T]`, and its values around them, `[T + 1]`.

    Who has an event at a time leaves before those who go out of observation then.
    """
    steps = np.unique(time[~event])
    ends = np.sort(time)
    had_event = np.sort(time[event])
    lost = np.unique(time[~event], return_counts=True)[1]
    at_risk = len(time) - np.searchsorted(ends, steps, side="left")
    at_risk -= np.searchsorted(had_event, steps, side="right") - np.searchsorted(had_event, steps, side="left")
    return steps, np.concatenate([[1.0], np.cumprod(1 - lost / at_risk)])
