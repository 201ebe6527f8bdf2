"""Stand-ins for losses whose gradients are known: scalars that a balancer takes for losses, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node


class _StandIn(torch.autograd.Function):
    """A value with given gradients: linear in its inputs, whatever these are."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        rows: tuple[Tensor, ...],
        last: tuple[Tensor, ...] | None,
        *parameters: Tensor,  # noqa: ARG004 (autograd looks at them)
    ) -> Tensor:
        # Not as saved tensors: these are freed after one backward pass, and a balancer makes several.
        ctx.rows, ctx.last = rows, last
        return value.clone()

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        # In differentiable operations, so that there is a second derivative, for the seed.
        return (None, None, None, *(row * seed.to(row.device, non_blocking=True) for row in ctx.rows))


def stand_in(
    value: Tensor,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    last: Sequence[Tensor] | None = None,
) -> Tensor:
    """A scalar with the value of a loss whose backward pass gives known gradients.

    It can be scaled, transformed and passed backward as often as one likes.

    Args:
        value: The loss, a scalar.
        parameters: What the loss depends on.
        gradients: The gradient for each.
        last: The parameters of the last shared layer, where they are known: no graph of a network tells them.

    Returns:
        The scalar; without a graph if there are no parameters.
    """
    chosen = None if last is None else tuple(last)
    result: Tensor = _StandIn.apply(value.detach(), tuple(gradients), chosen, *parameters)
    return result


def stand_ins_behind(losses: Sequence[Tensor]) -> list[Any] | None:
    """The graph's nodes of the stand-ins that losses are made of.

    Returns:
        The nodes, whose attribute `last` is that of `stand_in`; None where a loss also depends on a parameter by
        itself, as the losses of a network do.
    """
    kind = _StandIn._backward_cls
    found: list[Any] = []
    seen: set[Node] = set()
    waiting: list[Node] = []
    for loss in losses:
        if loss.grad_fn is not None:
            waiting.append(loss.grad_fn)
        elif loss.requires_grad:
            return None
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, kind):
            found.append(node)
        elif type(node).__name__ == "AccumulateGrad":
            return None
        else:
            waiting += [child for child, _ in node.next_functions if child is not None]
    return found or None
