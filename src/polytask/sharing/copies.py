"""Copies of stages, alike or with other random weights."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def copies(module: M, count: int, *, fresh: bool) -> list[M]:
    """`count` modules like this one; the first is the module itself.

    Args:
        module: What to copy.
        count: How many.
        fresh: Whether the others start from other random weights, so that they can become different things. These are
            the module's own numbers in another order, matrix by matrix, so that they are spread as they were. Else all
            start alike.
    """
    made = [module, *(copy.deepcopy(module) for _ in range(count - 1))]
    for other in made[1:] if fresh else ():
        for parameter in other.parameters():
            if parameter.ndim >= 2:
                with torch.no_grad():
                    parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    return made
