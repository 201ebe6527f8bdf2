"""Weights of classes in a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from polytask.errors import UserError
from polytask.tasks.target import named_weights


def class_weight_tensor(
    given: Literal["balanced"] | Mapping[str, float] | None,
    classes: Sequence[str],
    counts: Sequence[int] | None,
    task: str,
) -> Tensor | None:
    """A weight for each class, float32 `[C]`; None: all count the same.

    Args:
        given: Weights by name, or `balanced`: n / (C n_c) for a class with n_c of n, C being the number of classes that
            occur; 1 for one that does not.
        classes: The classes.
        counts: How often each occurs in the training part, where that is known.
        task: The task's name, for messages.

    Raises:
        UserError: A name is no class, a weight is negative, all are 0, or balanced ones lack the counts.
    """
    if given is None:
        return None
    if given != "balanced":
        if isinstance(given, str):
            raise UserError(f"Task '{task}': class_weights is '{given}'. Allowed: 'balanced', or weights by class.")
        weights = torch.tensor(named_weights(given, classes, task=task, parameter="class_weights"))
        if not weights.any():
            raise UserError(f"Task '{task}': class_weights are all 0, so there is nothing to learn.")
        return weights
    if counts is None:
        raise UserError(f"Task '{task}': balanced class_weights need counts, how often each class occurs in training.")
    found = torch.tensor(counts, dtype=torch.float64)
    balanced = found.sum() / ((found > 0).sum() * found)
    return balanced.where(found > 0, 1.0).float()
