"""Fair weights that favour the tasks which lag behind their single-task models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.balancer import Score
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError


class PIVRG(GramianBalancer):
    """PIVRG: a fair allocation in which tasks far below their single-task models count for more.

    From Qin, Wang and Yan, "Revisiting Fairness in Multitask Learning: A Performance-Driven Approach for Variance
    Reduction", CVPR 2025. The weights solve `G w = (p / w)^(1/2)`, `w > 0`: with `p = 1` these are FairGrad's with
    `alpha = 2`. By `p = K softmax(Δ / T)`, the gap Δ, by which a task's metric is worse than that of a model trained
    for it alone, decides how much it counts. The gaps are known from `epoch_end(scores)`; until then p is 1.

    Δ is in percent of the reference, and T in the same unit: `temperature`, and more where the greatest and the least p
    would otherwise be more than `bound` times apart. A task without a score keeps its last gap.

    The weights' own scale is `|g|^(-4/3)` for gradients of the length `|g|`: they are not of any sum, and grow without
    limit where the gradients nearly cancel. The official code multiplies the update by K, and clips it to the length 1.
    It takes the scores from validation data for two of its data sets, and from training data for two. A task with a
    gradient of 0 has the weight 0.

    Args:
        references: The main metrics of the single-task models, by task name; not 0.
        temperature: The least temperature, above 0, in percent; the higher, the more alike the tasks count.
        bound: The most that one task can count relative to another, above 1; None: no bound.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Qin, Wang and Yan, Revisiting Fairness in Multitask Learning: A Performance-Driven Approach for Variance "
        "Reduction, CVPR 2025"
    )
    year = 2025

    def __init__(
        self,
        references: Mapping[str, float],
        temperature: float = 10.0,
        bound: float | None = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for task, value in references.items():
            if value == 0:
                raise UserError(f"pivrg: the reference of task '{task}' is 0, so that no gap can be relative to it.")
        if not 0 < temperature < math.inf:
            raise UserError(f"pivrg: temperature is {temperature}, but must be above 0.")
        if bound is not None and not bound > 1:
            raise UserError(f"pivrg: bound is {bound}, but must be above 1, or null.")
        self._references = TaskValues("pivrg", "reference", references)
        self.references = dict(references)
        self.temperature, self.bound = temperature, bound
        self.gaps = PerTask({"gap": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no reference, or a reference no task.
        """
        self._references.prepare(tasks)
        self.gaps.add(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.fairness import fairness

        # With w = u / p, u solves the same equation without p, for gradients divided by p.
        counts = self._counts(gramian).double()
        scaled = gramian / counts / counts[:, None]
        return (torch.from_numpy(fairness(scaled.detach().cpu().numpy(), 0.5)).to(counts) / counts).to(gramian.dtype)

    def epoch_end(self, scores: Mapping[str, Score] | None = None) -> None:
        """See `Balancer.epoch_end`: find out how far each task lags behind."""
        for task, score in (scores or {}).items():
            reference = self.references.get(task)
            if reference is None or not math.isfinite(score.value):
                continue
            worse = reference - score.value if score.higher_is_better else score.value - reference
            self.gaps.add([task])
            gap = torch.tensor([100 * worse / abs(reference)], device=self.gaps.get_buffer("gap").device)
            self.gaps.write("gap", [task], gap)

    def _counts(self, gramian: Tensor) -> Tensor:
        """`[K]`, p."""
        gaps = self.gaps.read("gap", self.tasks_of(gramian), gramian.device).to(gramian.dtype)
        temperature = torch.full_like(gaps[0], self.temperature)
        if self.bound is not None:
            temperature = temperature.maximum((gaps.max() - gaps.min()) / math.log(self.bound))
        # Above 0 without a bound too, as the weights are divided by it.
        return len(gaps) * (gaps / temperature).softmax(0).clamp(min=1e-12)
