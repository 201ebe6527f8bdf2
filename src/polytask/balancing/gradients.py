"""How task gradients are measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balancing.graph import Reach, reach
from polytask.errors import UserError


@dataclass(frozen=True)
class TaskGradients:
    """The gradients of K losses.

    Attributes:
        shared: The shared parameters that some loss reaches, P numbers in all.
        jacobian: `[K, P]`, the gradient of each loss for them; 0 where a loss does not reach a parameter.
        own: The other parameters, each with the gradient of a loss that reaches it; a parameter that several losses
            reach is there several times.
    """

    shared: tuple[Tensor, ...]
    jacobian: Tensor
    own: tuple[tuple[Tensor, Tensor], ...]

    def gramian(self) -> Tensor:
        """`[K, K]`, the scalar products of the tasks' gradients for the shared parameters."""
        with _true_float32():
            return self.jacobian @ self.jacobian.T

    def weighted(self, weights: Tensor) -> Tensor:
        """`[P]`, the sum of the tasks' gradients times their weights `[K]`."""
        with _true_float32():
            return weights.to(self.jacobian, non_blocking=True) @ self.jacobian

    @torch.no_grad()
    def accumulate(self, update: Tensor) -> None:
        """Add `update` `[P]` to the shared parameters' `.grad`, and to the others' their own gradients."""
        sizes = [parameter.numel() for parameter in self.shared]
        for parameter, piece in zip(self.shared, torch.split(update, sizes), strict=True):
            _accumulate(parameter, piece.view_as(parameter))
        for parameter, gradient in self.own:
            _accumulate(parameter, gradient)


def task_gradients(
    losses: Sequence[Tensor], shared: Iterable[Tensor] | None, *, own: bool = True, keep_graph: bool = False
) -> TaskGradients:
    """Measure the gradient of each loss by a backward pass of its own.

    Args:
        losses: K scalars, of which at least one requires a gradient.
        shared: The shared parameters; None: those that more than one loss reaches.
        own: Whether to measure the gradients of the other parameters too, in the same passes.
        keep_graph: Whether the graph is to be used again afterwards.

    Raises:
        UserError: A shared parameter requires no gradient.
    """
    reached = reach(losses) if own or shared is None else Reach((), ((),) * len(losses))
    wanted = reached.shared if shared is None else _checked(shared)
    # Parameters that several losses reach, but that the user does not call shared, get the plain sum.
    named = set(wanted)
    common = [leaf for leaf in reached.shared if leaf not in named]
    rows: list[Sequence[Tensor | None]] = []
    others: list[tuple[Tensor, Tensor]] = []
    last = max((index for index, loss in enumerate(losses) if loss.requires_grad), default=-1)
    for index, loss in enumerate(losses):
        specific = [*common, *(leaf for leaf in reached.own[index] if leaf not in named)] if own else []
        inputs = [*wanted, *specific]
        if not (loss.requires_grad and inputs):
            rows.append([None] * len(wanted))
            continue
        found = torch.autograd.grad(loss, inputs, retain_graph=keep_graph or index != last, allow_unused=True)
        rows.append(found[: len(wanted)])
        others += [(leaf, g) for leaf, g in zip(specific, found[len(wanted) :], strict=True) if g is not None]
    return _assembled(wanted, rows, others, losses)


def gramian(losses: Mapping[str, Tensor] | Sequence[Tensor], shared: Iterable[nn.Parameter] | None = None) -> Tensor:
    """The exact Gramian of the tasks' gradients, `G = J Jᵀ`.

    The graph is kept, and no `.grad` changes.

    Args:
        losses: K scalars, by task name or in order.
        shared: The parameters to take gradients for; None: those that more than one loss reaches.

    Returns:
        `[K, K]`, in float32 or wider.

    Raises:
        UserError: A shared parameter requires no gradient.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
    return task_gradients(values, shared, own=False, keep_graph=True).gramian()


def _checked(shared: Iterable[Tensor]) -> tuple[Tensor, ...]:
    parameters = tuple(dict.fromkeys(shared))
    for index, parameter in enumerate(parameters):
        if not parameter.requires_grad:
            raise UserError(
                f"Shared parameter {index}, of shape {tuple(parameter.shape)}, requires no gradient. Leave frozen "
                "parameters out: shared=[p for p in trunk.parameters() if p.requires_grad]."
            )
        if not parameter.is_leaf:
            raise UserError(
                f"Shared parameter {index}, of shape {tuple(parameter.shape)}, is computed from other tensors. "
                "Give the parameters themselves."
            )
    return parameters


def _assembled(
    wanted: Sequence[Tensor],
    rows: Sequence[Sequence[Tensor | None]],
    others: Sequence[tuple[Tensor, Tensor]],
    losses: Sequence[Tensor],
) -> TaskGradients:
    kept = [index for index in range(len(wanted)) if any(row[index] is not None for row in rows)]
    shared = tuple(wanted[index] for index in kept)
    if not shared:
        return TaskGradients((), losses[0].new_zeros(len(losses), 0), tuple(others))
    dtype = reduce(torch.promote_types, {parameter.dtype for parameter in shared}, torch.float32)
    jacobian = torch.empty(len(rows), sum(p.numel() for p in shared), dtype=dtype, device=shared[0].device)
    for row, filled in zip(rows, jacobian, strict=True):
        pieces = [_flat(row[index], wanted[index], dtype) for index in kept]
        torch.cat(pieces, out=filled)
    return TaskGradients(shared, jacobian, tuple(others))


def _flat(gradient: Tensor | None, parameter: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient is None:
        return torch.zeros(parameter.numel(), dtype=dtype, device=parameter.device)
    return gradient.reshape(-1).to(dtype)


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    # A copy, laid out as the parameter is: autograd may hand out one tensor as the gradient of two parameters.
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad.add_(gradient)


@contextmanager
def _true_float32() -> Iterator[None]:
    """Multiply in float32 proper, whatever faster precision the user chose for the network.

    Products of K rows cost nothing beside the passes that made them, and TensorFloat-32 would lose the Gramian's small
    eigenvalues.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
