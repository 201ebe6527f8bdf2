"""The epochs of a training: their numbers, which one is the best, and whether to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from polytask.training.epoch_results import EpochResults
from polytask.training.learned_numbers import LearnedNumber
from polytask.training.selection import Best


class EpochSink(Protocol):
    """Is told of each epoch's numbers when they are complete."""

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        """Take in the record of one epoch; `improved` says whether it is the best so far."""


class Choice(NamedTuple):
    """What an epoch means for the training.

    Attributes:
        value: The value that the best epoch is chosen by; NaN where it is not defined.
        improved: Whether this epoch is the best so far.
        anew: Whether the choice begins anew, as the epochs before are no measure for this one.
        stop: Whether patience has run out.
    """

    value: float
    improved: bool
    anew: bool
    stop: bool


class Epochs:
    """Keeps what each epoch came to, and chooses.

    Args:
        best: The criterion of selection.
        stopping: The criterion of early stopping; None: train for all epochs.

    Attributes:
        history: The record of each epoch: its numbers by name.
        learned: What the sharing scheme had learned by the end of each.
        best: Which one is the best.
    """

    def __init__(self, best: Best, stopping: Best | None) -> None:
        self.best = best
        self._stopping = stopping
        self.history: list[dict[str, float]] = []
        self.learned: list[LearnedNumber] = []

    @property
    def last_record(self) -> Mapping[str, float]:
        """The record of the last epoch; empty before the first one has ended."""
        return self.history[-1] if self.history else {}

    @property
    def best_record(self) -> Mapping[str, float]:
        """The record of the best epoch; empty before the first one has ended."""
        return self.history[self.best.epoch] if self.history else {}

    def add(
        self,
        epoch: int,
        record: dict[str, float],
        results: EpochResults,
        learned: Sequence[LearnedNumber],
        *,
        hold: bool,
    ) -> Choice:
        """Take in an epoch.

        Args:
            epoch: Its number, counted from 0.
            record: Its numbers by name.
            results: What the tasks came to.
            learned: What the sharing scheme has learned.
            hold: Whether the patience of early stopping has not begun to run out yet.
        """
        value, stage = results.value(self.best.criterion), results.stage(self.best.criterion)
        anew = bool(self.history) and stage > self.best.stage
        improved = self.best.update(value, epoch, stage=stage)
        if math.isnan(self.best.value):  # there is nothing to choose by, so the last epoch stands
            self.best.epoch, improved = epoch, True
        self.history.append(record)
        self.learned += learned
        stopping, stop = self._stopping, False
        if stopping is not None and results.scores:
            watched, stage = results.value(stopping.criterion), results.stage(stopping.criterion)
            stopping.update(watched, epoch, stage=stage, hold=hold)
            stop = stopping.exhausted
        return Choice(value, improved, anew, stop)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, as plain values."""
        return {
            "history": self.history,
            "learned": [tuple(number) for number in self.learned],
            "best": self.best.state_dict(),
            "stopping": None if self._stopping is None else self._stopping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.history = state["history"]
        self.learned = [LearnedNumber(*number) for number in state["learned"]]
        self.best.load_state_dict(state["best"])
        if self._stopping is not None and state["stopping"] is not None:
            self._stopping.load_state_dict(state["stopping"])
