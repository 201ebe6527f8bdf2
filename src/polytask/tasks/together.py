"""Tasks of one kind, computed together: heads as one linear map, losses in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.tasks.task import Task


def is_plain_linear(head: nn.Module) -> bool:
    """Whether a head is a linear map in which nothing else happens, so that it can be computed with others."""
    if type(head) is not nn.Linear:
        return False
    return not (head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks)


def outputs_together(heads: Sequence[nn.Linear], features: Tensor) -> Tensor:
    """`[B, K, O]`, what K linear heads of O outputs each make of the same features `[B, width]`."""
    weight = torch.cat([head.weight for head in heads])
    bias = torch.cat([head.bias for head in heads])
    return F.linear(features, weight, bias).view(len(features), len(heads), -1)


def losses_together(
    tasks: Sequence[Task],
    output: Tensor,
    targets: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    weights: Sequence[Tensor | None],
    totals: Sequence[Tensor] | None = None,
) -> Tensor:
    """`[K]`, what `Task.loss` gives for each of K tasks of one `kin`.

    Args:
        tasks: The tasks.
        output: `[B, K, outputs]`.
        targets: For each task, as in `Batch.targets`; all of one shape.
        masks: For each task, where its target has a label; None: everywhere.
        weights: For each task, `[B]`, what each row counts in the mean; None: all the same.
        totals: For each task, what its sum of losses is divided by, where other rows belong to the same mean.
    """
    target = _side_by_side(targets)
    entries = tasks[0].entries_of_kin(tasks, output, target)
    mask = _side_by_side(_filled(masks)) if any(each is not None for each in masks) else None
    weight = _side_by_side(_filled(weights)) if any(each is not None for each in weights) else None
    if mask is None and weight is None and totals is None:
        return entries.mean(dim=(0, 2))
    if mask is not None:
        # Filled, not multiplied: what is computed where there is no label may be infinite.
        entries = entries.masked_fill(~mask, 0.0)
    if weight is not None:
        entries = entries * weight
    total = _counted(entries, mask, weight) if totals is None else torch.stack(list(totals))
    return entries.sum(dim=(0, 2)) / total.where(total > 0, 1)


def _counted(entries: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor:
    """`[K]`, what the labelled entries of each task count together."""
    if weight is None:
        assert mask is not None
        return mask.sum(dim=(0, 2))
    counts = weight.expand_as(entries)
    return (counts if mask is None else counts.masked_fill(~mask, 0.0)).sum(dim=(0, 2))


def _side_by_side(values: Sequence[Tensor]) -> Tensor:
    """K tensors `[B]` or `[B, E]` as one, `[B, K, E]`, E being 1 where it is not there."""
    stacked = torch.stack(list(values), dim=1)
    return stacked if stacked.ndim == 3 else stacked.unsqueeze(2)


def _filled(values: Sequence[Tensor | None]) -> list[Tensor]:
    """True, or 1, for those that are not given."""
    like = next(value for value in values if value is not None)
    ones = torch.ones_like(like)
    return [ones if value is None else value for value in values]
