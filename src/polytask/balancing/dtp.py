"""Weights from how well the tasks do on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError


class DTP(LossBalancer):
    """Dynamic task prioritisation: `w_k = -(1 - κ_k)^γ log κ_k`, most for the task that does worst.

    From Guo, Haque, Huang, Yeung and Fei-Fei, "Dynamic Task Prioritization for Multitask Learning", ECCV 2018. `κ_k`,
    from 0 to 1, is a moving average of how well task k does, `κ <- alpha x + (1 - alpha) κ`. Here `x` is the gain of
    the task's main metric on validation data (`Score.gain`: 0 for a constant prediction, 1 for a perfect one), as it
    comes with `epoch_end(scores)`; before its first score a task has the weight 1. The paper takes accuracies of
    training batches; its focal loss within each task is not part of this.

    The weights are free: from 0 for a perfect task to `-log eps`, 4.6, for a useless one. They move the learning rate
    as training goes on, unless `normalize` is set. It fails where a task cannot be learned well: that one keeps most of
    the weight.

    Args:
        gamma: The focusing parameter γ, at least 0, one for all or one for each task: the greater, the less weight is
            left for tasks that do well.
        alpha: The share of the new score in the moving average, above 0; 1: the last score alone.
        eps: Scores are brought to between this and 1 minus this.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = "Guo, Haque, Huang, Yeung and Fei-Fei, Dynamic Task Prioritization for Multitask Learning, ECCV 2018"
    year = 2018

    def __init__(
        self, gamma: float | Mapping[str, float] = 1.0, alpha: float = 0.5, eps: float = 0.01, **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 < alpha <= 1:
            raise UserError(f"dtp: alpha is {alpha}, but must be above 0 and at most 1.")
        if not 0 < eps < 0.5:
            raise UserError(f"dtp: eps is {eps}, but must be above 0 and below 0.5.")
        if isinstance(gamma, Mapping):
            self._gamma: float | TaskValues = TaskValues("dtp", "gamma", gamma, minimum=0.0)
        elif 0 <= gamma < math.inf:
            self._gamma = float(gamma)
        else:
            raise UserError(f"dtp: gamma is {gamma}, but must be a number of at least 0.")
        self.alpha, self.eps = alpha, eps
        # 0 stands for no score: with one it is at least eps.
        self.performance = PerTask({"kpi": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: Gamma is given by task, and a task has none.
        """
        if isinstance(self._gamma, TaskValues):
            self._gamma.prepare(tasks)
        self.performance.add(tasks)

    def combine(self, losses: Tensor) -> Tensor:
        """See `LossBalancer.combine`."""
        tasks = self.tasks_of(losses)
        kpi = self.performance.read("kpi", tasks, losses.device).to(losses.dtype)
        gamma = self._gamma.read(tasks, losses) if isinstance(self._gamma, TaskValues) else self._gamma
        weights = torch.where(kpi > 0, -((1 - kpi) ** gamma) * kpi.log(), 1.0)
        return (weights * losses).sum()

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`: take in the tasks' gains; a task without a score keeps its weight."""
        gains = {task: score.gain for task, score in (scores or {}).items() if math.isfinite(score.gain)}
        if not gains:
            return
        old = self.performance.read("kpi", tuple(gains), self.performance.get_buffer("kpi").device)
        new = torch.tensor([min(max(gain, self.eps), 1 - self.eps) for gain in gains.values()]).to(old)
        self.performance.write("kpi", tuple(gains), torch.where(old > 0, torch.lerp(old, new, self.alpha), new))
