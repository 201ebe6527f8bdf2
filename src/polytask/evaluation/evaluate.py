"""How good a trained model is on some rows, beside a constant prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from polytask.errors import UserError, listing
from polytask.tasks import Task
from polytask.tasks.task import rows_at_once
from polytask.training.run_folder import json_number
from polytask.training.saved_model import TrainedModel
from polytask.training.scoring import Scorer, baseline_outputs
from polytask.training.selection import gain, mean_gain
from polytask.training.sources import Part

logger = logging.getLogger("polytask")


@dataclass(frozen=True)
class Evaluation:
    """Scores on one part of the data.

    Attributes:
        part: The name of the part.
        rows: Its number of rows.
        scores: `{task: {metric: value}}`, NaN where a value is not defined on these rows.
        baseline: The same for the best constant prediction, learned from the training part.
        main: Each task's main metric.
        gains: Each task's share of the baseline's error that the model removes, in its main metric.
        mean_gain: Their mean.
    """

    part: str
    rows: int
    scores: Mapping[str, Mapping[str, float]]
    baseline: Mapping[str, Mapping[str, float]]
    main: Mapping[str, str]
    gains: Mapping[str, float]
    mean_gain: float

    def as_json(self) -> dict[str, object]:
        """Plain values; null for what is not defined."""
        return {
            "part": self.part,
            "rows": self.rows,
            "mean_gain": json_number(self.mean_gain),
            "tasks": {
                task: {
                    "metric": self.main[task],
                    "gain": json_number(self.gains[task]),
                    "scores": {name: json_number(value) for name, value in scores.items()},
                    "baseline": {name: json_number(value) for name, value in self.baseline[task].items()},
                }
                for task, scores in self.scores.items()
            },
        }


@torch.no_grad()
def evaluate(
    trained: TrainedModel, part: Part, name: str, *, batch_size: int = 256, workers: int = 0, device: str = "cpu"
) -> Evaluation:
    """Score a model on the tasks whose target columns are there, and on those that need none.

    Args:
        trained: The model.
        part: The rows.
        name: What to call them.
        batch_size: Rows at a time, or fewer where the answers to so many would be too large.
        workers: Processes that prepare batches.
        device: Where to compute.

    Raises:
        UserError: The rows do not have what the model needs.
    """
    model = trained.model.to(device).eval()
    tasks = dict(model.tasks.items())
    scorer, reference = Scorer(list(tasks.values())), Scorer(list(tasks.values()))
    targets = _targets_in(part, trained)
    size = rows_at_once(tasks.values(), batch_size)
    loader = trained.preparation.loader(part.table, part.rows, batch_size=size, workers=workers, targets=targets)
    for batch in loader:
        moved = batch.to(device)
        scorer.update(model.answers(moved), moved)
        reference.update(baseline_outputs(list(tasks.values()), moved), moved)
    scores, baseline = scorer.compute(), reference.compute()
    scored: Mapping[str, Task] = {task: module for task, module in tasks.items() if task in scores}
    return Evaluation(
        part=name,
        rows=len(part),
        scores=scores,
        baseline=baseline,
        main={task: module.metric for task, module in scored.items()},
        gains={task: gain(module, scores, baseline) for task, module in scored.items()},
        mean_gain=mean_gain(scored, scores, baseline),
    )


def _targets_in(part: Part, trained: TrainedModel) -> list[str]:
    targets = trained.preparation.targets
    held = set(part.table.columns)
    there = [task for task, each in targets.items() if not each.spec.columns or set(each.spec.columns) & held]
    if not there:
        columns = (column for target in targets.values() for column in target.spec.columns)
        raise UserError(f"{part.table.source} has no target to score by. The tasks' targets: {listing(columns)}.")
    if absent := [task for task in targets if task not in there]:
        logger.info("%s has no target for %s: not scored.", part.table.source, listing(absent))
    return there
