"""Random orders of the tasks, for methods that go through the other tasks of each in turn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RandomOrders(nn.Module):
    """Random orders that stay the same until the next step, so that weights can be asked for more than once.

    Args:
        seed: For the random numbers, drawn on the CPU.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._state = torch.Generator().manual_seed(seed).get_state()

    def draw(self, count: int) -> Tensor:
        """`[K, K - 1]`: for each of `count` tasks, the numbers of the others in the order of this step."""
        return self._drawn(count)[0]

    def advance(self, count: int) -> None:
        """Go on to the next step, after one with `count` tasks."""
        self._state = self._drawn(count)[1]

    def get_extra_state(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"generator": self._state}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of the generator back."""
        self._state = state["generator"].cpu()

    def _drawn(self, count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator()
        generator.set_state(self._state)
        keys = torch.rand(count, count, generator=generator)
        # A task itself comes last, and is cut off.
        return keys.fill_diagonal_(2.0).argsort(1)[:, :-1], generator.get_state()
