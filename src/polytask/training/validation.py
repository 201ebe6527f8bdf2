"""Scores on the validation data after each epoch, and once those of the best constant predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.training.processes import Processes
from polytask.training.scoring import Scorer, baseline_outputs


class Validation:
    """Scores a model batch by batch; with several processes, each has its part of every batch.

    Args:
        model: The network, in evaluation mode while batches are scored.

    Attributes:
        scores: Each task's metrics of the last epoch; empty before the first one.
        baseline: The same of the tasks' best constant predictions: the same in all epochs, and so measured once.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._model = model
        self._tasks = list(model.tasks.values())
        self._scorer: Scorer | None = None
        self._baseline_scorer: Scorer | None = None
        self.scores: dict[str, dict[str, float]] = {}
        self.baseline: dict[str, dict[str, float]] = {}

    def begin(self, processes: Processes | None) -> None:
        """Begin to collect.

        Args:
            processes: Those that train together; None: this one alone.
        """
        if self._scorer is None:
            self._scorer = Scorer(self._tasks, processes)
        self._baseline_scorer = None if self.baseline else Scorer(self._tasks, processes)

    def add(self, batch: Batch) -> None:
        """Score one batch."""
        assert self._scorer is not None
        self._scorer.update(self._model.answers(batch), batch)
        if self._baseline_scorer is not None:
            self._baseline_scorer.update(baseline_outputs(self._tasks, batch), batch)

    def end(self) -> None:
        """Turn what was collected into scores."""
        assert self._scorer is not None
        self.scores = self._scorer.compute()
        self._scorer.reset()
        if self._baseline_scorer is not None:
            self.baseline = self._baseline_scorer.compute()
        self._baseline_scorer = None

    def take(self) -> dict[str, dict[str, float]]:
        """The scores of the last epoch, which are forgotten: an epoch without validation has none."""
        scores, self.scores = self.scores, {}
        return scores

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {"baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.baseline = state["baseline"]
