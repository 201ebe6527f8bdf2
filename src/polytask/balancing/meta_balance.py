"""Auxiliary gradients as long as the main task's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.main_tasks import MainTasks
from polytask.balancing.per_task import PerTask
from polytask.balancing.task_vectors import TaskVectors
from polytask.errors import UserError, listing

Adjust = Literal["both", "reduce", "enlarge"]


class MetaBalance(JacobianBalancer):
    """MetaBalance: brings the gradient of each auxiliary task near the length of the main task's, layer by layer.

    From He, Feng, Cheng, Ji, Guo and Caverlee, "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
    Magnitudes of Auxiliary Tasks", WWW 2022. With `m_k` a moving average of the length of task k's gradient, for each
    shared parameter tensor by itself, `g_k <- r (m_main / m_k) g_k + (1 - r) g_k`; the update is the sum over the
    tasks. Directions stay, so that it does nothing about conflicts.

    The averages are corrected for their start at 0 (divided by `1 - beta^t`, t the steps of the task). With all tasks
    in each step this changes nothing, as it cancels; else a task that comes late would be blown up. Where the average
    of the main task is 0, as in a tensor that it does not use, the others stay as they are. In a step without the main
    task its last average counts; before its first step the update is the plain sum.

    The scale is that of the sum, where each gradient is about as long as the main task's.

    Args:
        main: The name of the main task; None: in a configuration, the one that is not auxiliary.
        relax: The strength r, from 0 (the plain sum) to 1 (the lengths become the same).
        beta: How much of the average length stays in a step, from 0 to below 1.
        adjust: Which gradients to adjust: `both`, only to `reduce` longer ones than the main task's, or only to
            `enlarge` shorter ones (the paper's strategies C, A and B).

    Raises:
        UserError: A parameter is out of range, or, in a step, the shared parameters are other ones than before.
    """

    paper = (
        "He, Feng, Cheng, Ji, Guo and Caverlee, MetaBalance: Improving Multi-Task Recommendations via Adapting "
        "Gradient Magnitudes of Auxiliary Tasks, WWW 2022"
    )
    year = 2022

    def __init__(
        self, main: str | None = None, relax: float = 0.7, beta: float = 0.9, adjust: Adjust = "both", **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 <= relax <= 1:
            raise UserError(f"meta_balance: relax is {relax}, but must be from 0 to 1.")
        if not 0 <= beta < 1:
            raise UserError(f"meta_balance: beta is {beta}, but must be from 0 to below 1.")
        if adjust not in ("both", "reduce", "enlarge"):
            raise UserError(f"meta_balance: adjust is '{adjust}', but must be 'both', 'reduce' or 'enlarge'.")
        self.relax, self.beta, self.adjust = relax, beta, adjust
        if main is not None and not isinstance(main, str):
            raise UserError(
                f"meta_balance: the main tasks are {listing(main)}, but it goes by the gradient of one. Name it "
                "(main=...)."
            )
        self._main = MainTasks("meta_balance", main)
        self.lengths = TaskVectors("meta_balance", ["average"], unit="tensors")
        self.progress = PerTask({"steps": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: The main task is no task.
        """
        self._main.prepare(tasks)

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        tasks = self.tasks_of(jacobian)
        self._main.among(tasks)
        blocks = torch.split(jacobian, list(self.sizes) or jacobian.shape[1], dim=1)
        lengths = torch.stack([torch.linalg.vector_norm(block, dim=1) for block in blocks], dim=1)
        valid = lengths.sum().isfinite()
        steps = self.progress.read("steps", tasks, jacobian.device)
        self.lengths.add(tasks, lengths)
        self.lengths.follow("average", tasks, lengths, torch.full_like(steps, 1 - self.beta), valid)
        self.progress.write("steps", tasks, steps + valid)
        if not set(self._main.names) <= set(self.lengths.tasks):
            return jacobian.sum(0)
        own, main = self._average(tasks), self._average(self._main.names)
        ratios = (main / own.where(own > 0, 1.0)).where(main > 0, 1.0)
        if self.adjust == "reduce":
            ratios = ratios.clamp(max=1)
        elif self.adjust == "enlarge":
            ratios = ratios.clamp(min=1)
        factors = self.relax * ratios + (1 - self.relax)
        return torch.cat([factors[:, index] @ block for index, block in enumerate(blocks)])

    def _average(self, tasks: Sequence[str]) -> Tensor:
        """`[K, B]`, the average lengths of tasks that were met."""
        averages = self.lengths.read("average", tasks)
        steps = self.progress.read("steps", tasks, averages.device).to(averages.dtype)
        # A task can have been met in a step that was not finite alone, and then has 0.
        return averages / (1 - self.beta ** steps.clamp(min=1))[:, None]
