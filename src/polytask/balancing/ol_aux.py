"""Weights of auxiliary tasks that grow with their help for the main task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.main_tasks import MainTasks
from polytask.balancing.per_task import PerTask
from polytask.errors import UserError


class OLAux(GramianBalancer):
    """OL-AUX: auxiliary weights learned online, from how far each task's gradients led the main loss down.

    From Lin, Baweja, Kantor and Held, "Adaptive Auxiliary Task Weighting for Reinforcement Learning", NeurIPS 2019. The
    main task has the weight 1. The weights of the others start at 1, and after each `horizon` steps go by gradient
    descent on the main loss: `w_i <- max(0, w_i + lr sum_t g_main,t · g_i,t)` over these steps, as a step along `g_i`
    lowers the main loss by `g_main · g_i` times the learning rate.

    As in the paper it runs on the logarithms of the losses, so that their scales play no part. `lr` is the paper's β
    times the learning rate of the model; the authors take 5 times 0.001. It has to fit the size of the gradients: watch
    the weights. They are not bounded above. The authors' code also averages the gradients over a few steps before it
    multiplies them, which takes the gradients themselves. A task's own parameters get its plain gradient. The horizon
    counts, for each task, the steps in which it and a main task took part. With several main tasks it is the sum of
    their gradients.

    Args:
        main: The name of the main task, or the names of several; None: in a configuration, the tasks that are not
            auxiliary.
        lr: Learning rate of the weights.
        horizon: After how many steps they move.
        log_losses: See `Balancer`; True in the paper.

    Raises:
        UserError: A parameter is out of range; `main` is empty or, where the tasks are known, none of them.
    """

    paper = "Lin, Baweja, Kantor and Held, Adaptive Auxiliary Task Weighting for Reinforcement Learning, NeurIPS 2019"
    year = 2019

    def __init__(
        self,
        main: str | Sequence[str] | None = None,
        lr: float = 0.005,
        horizon: int = 5,
        log_losses: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(log_losses=log_losses, **options)
        if not 0 < lr < math.inf:
            raise UserError(f"ol_aux: lr is {lr}, but must be above 0.")
        if horizon < 1:
            raise UserError(f"ol_aux: horizon is {horizon}, but must be at least 1.")
        self.main = MainTasks("ol_aux", main)
        self.lr, self.horizon = lr, horizon
        self.auxiliary = PerTask({"weight": 1.0, "help": 0.0, "steps": 0.0})

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A main task is no task.
        """
        self.main.prepare(tasks)
        self.auxiliary.add(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        tasks = self.tasks_of(gramian)
        main = self.main.among(tasks).to(gramian.device)
        return self.auxiliary.read("weight", tasks, gramian.device).to(gramian.dtype).where(~main, 1.0)

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """See `GramianBalancer.observe`: add up the help, and after the horizon move the weights."""
        tasks = self.tasks_of(gramian)
        main = self.main.among(tasks).to(gramian.device)
        if not main.any():
            return
        weight, help_, steps = (
            self.auxiliary.read(field, tasks, gramian.device) for field in ("weight", "help", "steps")
        )
        help_ = help_ + gramian[main].sum(0).to(help_.dtype)
        steps = steps + 1
        over = steps >= self.horizon
        weight = torch.where(over, (weight + self.lr * help_).clamp(min=0), weight).where(~main, 1.0)
        self.auxiliary.write("weight", tasks, weight)
        self.auxiliary.write("help", tasks, help_.where(~over, 0.0))
        self.auxiliary.write("steps", tasks, steps.where(~over, 0.0))
