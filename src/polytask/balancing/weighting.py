"""What can be done to any method's weights: normalisation, and smoothing over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from polytask.balancing.per_task import PerTask
from polytask.errors import UserError

Normalize = Literal["none", "sum_to_one", "sum_to_k"]


class Weighting(nn.Module):
    """Normalises weights and averages them over the steps.

    Smoothing weights makes the stochastic forms of MGDA and its relatives converge (Zhou, Zhang, Jiang, Zhong, Gu and
    Zhu, "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022): `w_t = a
    w_(t-1) + (1 - a) w`, and the first time `w` itself.

    Args:
        normalize: What the weights' absolute values sum to: 1, the number of tasks, or whatever the method gives.
        smoothing: The share `a` of the old weights that stays, from 0 (no smoothing) to below 1.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(self, normalize: Normalize = "none", smoothing: float = 0.0) -> None:
        super().__init__()
        if normalize not in ("none", "sum_to_one", "sum_to_k"):
            raise UserError(f"normalize is '{normalize}', but must be 'none', 'sum_to_one' or 'sum_to_k'.")
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing}, but must be from 0 (none) to below 1.")
        self.normalize = normalize
        self.smoothing = smoothing
        self.state = PerTask({"weight": 0.0, "share": 0.0}) if smoothing else None

    @property
    def changes(self) -> bool:
        """Whether weights come out other than they went in."""
        return self.normalize != "none" or self.state is not None

    def apply(self, weights: Tensor, tasks: Sequence[str]) -> Tensor:  # type: ignore[override]
        """The weights `[K]` to use in place of `weights` `[K]` of `tasks`."""
        if self.normalize != "none":
            size = weights.abs().sum()
            target = 1.0 if self.normalize == "sum_to_one" else float(len(weights))
            # Weights that are all 0 stay so.
            weights = weights * (target / size.where(size > 0, 1.0))
        if self.state is None:
            return weights
        share = self.state.read("share", tasks, weights.device).to(weights.dtype)
        before = self.state.read("weight", tasks, weights.device).to(weights.dtype)
        smooth = before + (1 - share * self.smoothing) * (weights - before)
        self.state.write("weight", tasks, smooth.to(self.state.get_buffer("weight").dtype))
        self.state.write("share", tasks, (share * 0 + 1).to(self.state.get_buffer("share").dtype))
        return smooth


class Held(nn.Module):
    """Weights that stay as they are for some steps.

    Args:
        every: Weights are found anew at each n-th step.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self._age = 0
        self.state = PerTask({"weight": 0.0}) if every > 1 else None

    def weights(self, tasks: Sequence[str]) -> Tensor | None:
        """`[K]`, the weights that still hold; None: it is time for new ones."""
        if self.state is None:
            return None
        new = self._age == 0 or any(task not in self.state.tasks for task in tasks)
        self._age = 1 % self.every if new else (self._age + 1) % self.every
        return None if new else self.state.read("weight", tasks, torch.device("cpu")).double()

    def forget(self) -> None:
        """Ask for new weights at the next step."""
        self._age = 0

    def keep(self, tasks: Sequence[str], weights: Tensor) -> None:
        """Hold new weights `[K]`."""
        if self.state is not None:
            self.state.add(tasks)
            self.state.write("weight", tasks, weights.detach().cpu().to(torch.float32))

    def get_extra_state(self) -> int:
        """The number of steps since the last new weights."""
        return self._age

    def set_extra_state(self, state: int) -> None:
        """Take it back."""
        self._age = state
