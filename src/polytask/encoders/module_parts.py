"""Taking a foreign network apart without copying its weights."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def part_of(model: M, keep: Collection[str]) -> M:
    """The same model with only some of its children and parameters, the rest set to None.

    What is kept is not copied. The part still has the model's methods and plain attributes, so that each of its steps
    can be run by the model's own code.

    Args:
        model: Is left as it is.
        keep: Names of direct children, parameters and buffers.
    """
    part = copy.copy(model)
    for kind in ("_modules", "_parameters", "_buffers"):
        members = getattr(model, kind)
        part.__dict__[kind] = {name: member if name in keep else None for name, member in members.items()}
    return part
