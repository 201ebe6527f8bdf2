"""What single tasks do by themselves in a training: their rates, their clipping, their end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.optimization.running import RunningSchedule
from polytask.training.selection import Best, Scores

logger = logging.getLogger("polytask")

WhenStopped = Literal["freeze_head", "leave_loss"]


class Rates(NamedTuple):
    """How fast some parameters learn, beside the others.

    Attributes:
        lr_scale: What the learning rate is multiplied by.
        weight_decay: Their weight decay; None: the optimiser's.
    """

    lr_scale: float = 1.0
    weight_decay: float | None = None


class Slowing(NamedTuple):
    """How a task's rate falls when its metric gets no better.

    Attributes:
        factor: What the rate is multiplied by.
        patience: Epochs without a better value that are tolerated.
    """

    factor: float
    patience: int


class Stopping(NamedTuple):
    """When a task has learned enough.

    Attributes:
        patience: Epochs without a better value.
        metric: The metric that is watched.
        min_delta: How much better a value has to be to count.
    """

    patience: int
    metric: str
    min_delta: float = 0.0


_COMMON = Rates()


@dataclass(frozen=True)
class TaskRecipe:
    """How one task is trained, where it differs from the others.

    Attributes:
        rates: Of its own parameters.
        gradient_clip: Greatest norm of the gradient of its own parameters; None: as it is.
        slowing: How its rate falls; None: as all others.
        stopping: When it stops; None: with all others.
        when_stopped: What stopping means; see `OwnTraining`.
    """

    rates: Rates = _COMMON
    gradient_clip: float | None = None
    slowing: Slowing | None = None
    stopping: Stopping | None = None
    when_stopped: WhenStopped = "freeze_head"


class OwnTraining:
    """Follows each task's own progress, and does what its recipe says.

    A task's own parameters are those that no other task's loss reaches: its head, and its own stages. A task that has
    stopped leaves the losses (`leave_loss`), or its own parameters stay as they are while its loss goes on shaping what
    is shared (`freeze_head`); where it shares nothing, that is the same.

    Args:
        model: The network.
        recipes: For the tasks that differ from the others.

    Attributes:
        best: For each task, its best epoch by its main metric.
        improved: The tasks for which the last epoch was the best so far.
        stopped: The tasks that have stopped, and after which epoch, counted from 0.
    """

    def __init__(self, model: MultiTaskModel, recipes: Mapping[str, TaskRecipe]) -> None:
        self._model = model
        self._recipes = dict(recipes)
        self.best = {name: Best(f"{name}/valid/{task.metric}") for name, task in model.tasks.items()}
        self.improved: tuple[str, ...] = ()
        self.stopped: dict[str, int] = {}
        self._factors = {name: own.slowing.factor for name, own in self._recipes.items() if own.slowing is not None}
        self._slowing = {
            name: Best(self.best[name].criterion, own.slowing.patience + 1)
            for name, own in self._recipes.items()
            if own.slowing is not None
        }
        self._stopping = {
            name: Best(f"{name}/valid/{own.stopping.metric}", own.stopping.patience, own.stopping.min_delta)
            for name, own in self._recipes.items()
            if own.stopping is not None
        }
        self._modules = own_modules(model)
        shared = [part.tasks for part in model.parts() if len(part.tasks) > 1 and list(part.module.parameters())]
        self._sharing = {task for tasks in shared for task in tasks}

    @property
    def left(self) -> set[str]:
        """The tasks that have stopped and whose losses are left out."""
        return {
            name
            for name in self.stopped
            if self._recipes[name].when_stopped == "leave_loss" or name not in self._sharing
        }

    @property
    def all_stopped(self) -> bool:
        """Whether there is nothing left to train for."""
        return len(self.stopped) == len(self.best)

    def begin_epoch(self) -> None:
        """Freeze the own parameters of the tasks that have stopped, after all else has been frozen or unfrozen."""
        for name in self.stopped:
            for module in self._modules[name]:
                module.requires_grad_(False)
                module.eval()  # its statistics stay, too

    def batches(self, batches: Sequence[Batch]) -> list[Batch]:
        """Batches without the labels of tasks that have left the losses."""
        left = self.left
        return [batch.without(left) for batch in batches] if left else list(batches)

    def clip(self) -> None:
        """Clip the gradients of the tasks' own parameters."""
        for name, recipe in self._recipes.items():
            if recipe.gradient_clip is not None:
                own = [parameter for module in self._modules[name] for parameter in module.parameters()]
                nn.utils.clip_grad_norm_(own, recipe.gradient_clip)

    def epoch_end(self, scores: Scores, trained: Sequence[str], epoch: int, schedule: RunningSchedule) -> None:
        """Take in an epoch.

        Args:
            scores: Each task's metrics on validation data.
            trained: The tasks that took part in the epoch: the patience of others does not run out.
            epoch: Its number, counted from 0.
            schedule: Lowers the rates of tasks that get no better.
        """
        values = {f"{name}/valid/{metric}": value for name, found in scores.items() for metric, value in found.items()}

        def update(best: Best) -> bool:
            return best.update(values.get(best.criterion, math.nan), epoch)

        self.improved = tuple([name for name, best in self.best.items() if name in scores and update(best)])
        for name in trained:
            if name not in scores or name in self.stopped:
                continue
            slowing, stopping = self._slowing.get(name), self._stopping.get(name)
            if slowing is not None:
                update(slowing)
                if slowing.exhausted:
                    schedule.slow_down(name, self._factors[name])
                    slowing.waited = 0
                    scale = schedule.scale_of(name)
                    logger.info("Task '%s': its learning rate falls to %.3g of what it was at first.", name, scale)
            if stopping is not None:
                update(stopping)
                if stopping.exhausted:
                    self.stopped[name] = epoch
                    how = "its loss is left out" if name in self.left else "its own parameters stay as they are"
                    logger.info("Task '%s' has stopped after epoch %d: %s.", name, epoch + 1, how)

    def rates(self, schedule: RunningSchedule) -> dict[str, float]:
        """For the tasks whose rates can fall by themselves, those of their heads: entries of an epoch's record."""
        return {
            f"{name}/train/lr": schedule.lr * self._recipes[name].rates.lr_scale * schedule.scale_of(name)
            for name in self._slowing
        }

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {
            "best": {name: best.state_dict() for name, best in self.best.items()},
            "slowing": {name: best.state_dict() for name, best in self._slowing.items()},
            "stopping": {name: best.state_dict() for name, best in self._stopping.items()},
            "stopped": dict(self.stopped),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for key, followed in (("best", self.best), ("slowing", self._slowing), ("stopping", self._stopping)):
            for name, best in state[key].items():
                followed[name].load_state_dict(best)
        self.stopped = dict(state["stopped"])


def own_modules(model: MultiTaskModel) -> dict[str, list[nn.Module]]:
    """For each task, the modules that no other task's loss reaches."""
    found: dict[str, list[nn.Module]] = {name: [] for name in model.task_names}
    for part in model.parts():
        if len(part.tasks) == 1:
            found[part.tasks[0]].append(part.module)
    return found
