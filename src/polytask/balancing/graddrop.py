"""Gradients of one sign at each coordinate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.task_values import TaskValues
from polytask.errors import UserError


class GradDrop(JacobianBalancer):
    """GradDrop: at each coordinate keep the positive or the negative gradients, by chance, and drop the others.

    From Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, "Just Pick a Sign: Optimizing Deep Multitask Models
    with Gradient Sign Dropout", NeurIPS 2020. The positive ones are kept with the probability `P = (1 + sum_k g_k /
    sum_k |g_k|) / 2`, else the negative ones. Of what is dropped, task k still lets through the share `leak_k`. Where
    all signs agree, the update is the sum of the gradients. With one leak for all, its expectation is the sum
    everywhere: the method adds noise where tasks conflict, and no more.

    The paper works on the gradients of the activations, summed over the batch with the activations' signs. Here it is
    the gradients of the shared parameters, as in other libraries. The scale is that of the sum.

    Args:
        leak: What is let through, from 0 (nothing) to 1 (everything: the plain sum), one number for all tasks or one
            for each.
        seed: For the random numbers. They are drawn on the gradient's device, from seeds that a generator on the CPU
            gives, one for each step; so the state can be loaded on any device, but another kind of device draws other
            numbers.

    Raises:
        UserError: A leak is below 0 or above 1.
    """

    paper = (
        "Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, Just Pick a Sign: Optimizing Deep Multitask Models "
        "with Gradient Sign Dropout, NeurIPS 2020"
    )
    year = 2020

    def __init__(self, leak: float | Mapping[str, float] = 0.0, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        for value in leak.values() if isinstance(leak, Mapping) else [leak]:
            if not 0 <= value <= 1:
                raise UserError(f"graddrop: leak is {value}, but must be from 0 to 1.")
        self._leak = TaskValues("graddrop", "leak", leak, minimum=0.0) if isinstance(leak, Mapping) else float(leak)
        self._seeds = torch.Generator().manual_seed(seed)

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: The leak is given by task, and a task has none.
        """
        if isinstance(self._leak, TaskValues):
            self._leak.prepare(tasks)

    def combine(self, jacobian: Tensor) -> Tensor:
        """See `JacobianBalancer.combine`."""
        total, size = jacobian.sum(0), _sizes(jacobian, torch.ones_like(jacobian[:, 0]))
        probability = (1 + total / size.where(size > 0, 1.0)) / 2
        seed = int(torch.randint(2**62, (), generator=self._seeds))
        generator = torch.Generator(jacobian.device).manual_seed(seed)
        keeps = torch.rand(size.shape, dtype=size.dtype, device=size.device, generator=generator) < probability
        # The sum of the positive numbers is (total + size) / 2, that of the negative ones (total - size) / 2.
        if not isinstance(self._leak, TaskValues):
            return (1 - self._leak) * (total + torch.where(keeps, size, -size)) / 2 + self._leak * total
        rest = 1 - self._leak.read(self.tasks_of(jacobian), jacobian)
        drawn, size = rest @ jacobian, _sizes(jacobian, rest)
        return (drawn + torch.where(keeps, size, -size)) / 2 + (total - drawn)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"seeds": self._seeds.get_state()}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of the generator back."""
        self._seeds.set_state(state["seeds"].cpu())


def _sizes(jacobian: Tensor, weights: Tensor) -> Tensor:
    """`[P]`, `weights @ jacobian.abs()`, without that matrix."""
    sizes = torch.zeros_like(jacobian[0])
    for row, weight in zip(jacobian, weights, strict=True):
        sizes += weight * row.abs()
    return sizes
