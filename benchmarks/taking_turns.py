"""Loops by hand and Lightning's, taking turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from polytask.training.module import MultiTaskModule


class TakingTurns(Callback):
    """Before each epoch of Lightning's, an epoch of each loop by hand; all are timed.

    Args:
        by_hand: The loops, by name.
        clock: What the seconds are read from.
    """

    def __init__(self, by_hand: Mapping[str, Callable[[], None]], clock: Callable[[], float]) -> None:
        self._by_hand = by_hand
        self._clock = clock
        self.seconds: dict[str, list[float]] = {name: [] for name in (*by_hand, "polytask")}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:
        for name, epoch in self._by_hand.items():
            start = self._clock()
            epoch()
            self.seconds[name].append(self._clock() - start)
        self._start = self._clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:
        self.seconds["polytask"].append(self._clock() - self._start)
