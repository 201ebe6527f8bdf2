"""How far apart the networks of several tasks are, as one number with its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Measure = Literal["l2", "mean", "trace_norm", "cosine"]
MEASURES: tuple[str, ...] = get_args(Measure)

Network = Sequence[Tensor]
"""The parameters of one task, in the same order for each."""

_PIECE = 2**20
"""Numbers that are taken into double precision at a time, so that memory never holds all of them so."""


def separation(networks: Sequence[Network], measure: Measure) -> Tensor:
    """The penalty of `Soft` on one stage, without its strength.

    Args:
        networks: For each of K tasks its parameters.
        measure: Which penalty.
    """
    parameters = [parameter for network in networks for parameter in network]
    found: Tensor = _Separation.apply(measure, len(networks), torch.is_grad_enabled(), *parameters)
    return found


@torch.no_grad()
def distances(networks: Sequence[Network]) -> tuple[Tensor, Tensor]:
    """`[K, K]` squared distances between networks, and their mean squared length."""
    # From the mean, so that small distances are not the difference of large numbers.
    inner = torch.stack(
        [_products(rows - rows.mean(0)) for slot in zip(*networks, strict=True) for rows in _pieces(slot)]
    )
    gram = inner.sum(0)
    own = gram.diagonal()
    apart = (own.unsqueeze(0) + own.unsqueeze(1) - 2 * gram).clamp(min=0).fill_diagonal_(0)
    mean = torch.stack([_squares(network) for network in networks]).mean()
    return apart.to(mean), mean


class _Separation(torch.autograd.Function):
    """The value and, at once, the gradient: by hand, as autograd would pass several more times over all parameters."""

    @staticmethod
    def forward(ctx: Any, measure: Measure, tasks: int, learns: bool, *parameters: Tensor) -> Tensor:
        """See the class; `learns` says whether a gradient will be wanted."""
        size = len(parameters) // tasks
        networks = [list(parameters[start : start + size]) for start in range(0, len(parameters), size)]
        scale = (_squares(parameters) / tasks).clamp(min=torch.finfo(parameters[0].dtype).tiny)
        if measure in ("l2", "mean"):
            apart = _around_mean(networks)
            factor = (tasks if measure == "l2" else 1) / scale
            ctx.gradients, ctx.factor = apart, 2 * factor
            return _squares(apart) * factor
        form = {"trace_norm": _nuclear_norms, "cosine": _angles}[measure]
        value, ctx.gradients = _by_inner_products(networks, scale, form, learns)
        ctx.factor = torch.ones_like(scale)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        return None, None, None, *torch._foreach_mul(ctx.gradients, gradient * ctx.factor)


def _squares(parameters: Sequence[Tensor]) -> Tensor:
    """The squared length of all together."""
    return torch.stack(torch._foreach_norm(list(parameters))).square().sum()


def _around_mean(networks: Sequence[list[Tensor]]) -> list[Tensor]:
    """Each network without their mean, tensor by tensor.

    Squared distances of pairs add up to K times those from the mean. Taken from the mean they are exact; as
    `K sum_k ||k||² - ||sum_k k||²` they would be the small difference of large numbers.
    """
    mean = torch._foreach_add(networks[0], networks[1])
    for network in networks[2:]:
        torch._foreach_add_(mean, network)
    torch._foreach_div_(mean, len(networks))
    return [tensor for network in networks for tensor in torch._foreach_sub(network, mean)]


def _by_inner_products(
    networks: Sequence[list[Tensor]], scale: Tensor, form: Callable[[Tensor, Tensor], Tensor], learns: bool
) -> tuple[Tensor, list[Tensor]]:
    """A function of the inner products of the tasks' values, for each parameter tensor.

    These are in double precision, since small distances between long vectors are to be told from none.
    """
    slots = list(zip(*networks, strict=True))
    inner = torch.stack([torch.stack([_products(rows) for rows in _pieces(slot)]).sum(0) for slot in slots])
    with torch.enable_grad():
        inner.requires_grad_(learns)
        value = form(inner, scale.to(inner))
    if not learns:
        return value.to(scale), []
    (weights,) = torch.autograd.grad(value, inner)
    gradients: list[list[Tensor]] = [[] for _ in networks]
    for slot, mix in zip(slots, weights + weights.mT, strict=True):
        rows = torch.cat([mix.to(piece) @ piece for piece in _pieces(slot)], dim=1)
        for found, row, parameter in zip(gradients, rows, slot, strict=True):
            found.append(row.view_as(parameter))
    return value.detach().to(scale), [tensor for network in gradients for tensor in network]


def _pieces(slot: Sequence[Tensor]) -> list[Tensor]:
    """The tasks' values of one tensor as rows `[K, P]`, cut into pieces along P."""
    width = max(1, _PIECE // len(slot))
    parts = [torch.split(parameter.reshape(-1), width) for parameter in slot]
    return [torch.stack(part) for part in zip(*parts, strict=True)]


def _products(rows: Tensor) -> Tensor:
    """The rows' inner products, in double precision where the device has it."""
    precise = rows if rows.device.type == "mps" else rows.double()
    return precise @ precise.T


def _nuclear_norms(inner: Tensor, scale: Tensor) -> Tensor:
    """The sum over L tensors of the nuclear norm, from the inner products `[L, K, K]`; divided by the root of `scale`.

    Directions in which the tasks do not differ count as exactly 0 and have no gradient: of the subgradients it is the
    smallest, and alike networks stay alike.
    """
    finite = inner.isfinite().all()
    # The decomposition fails on what is no number; the device is not waited for to know.
    squares: Tensor = torch.linalg.eigvalsh(inner.where(finite, torch.eye(inner.shape[-1]).to(inner)))
    limit = 100 * inner.shape[-1] * torch.finfo(inner.dtype).eps
    counts = squares > limit * squares[:, -1:].detach()
    norms = squares.where(counts, 1.0).sqrt().where(counts, 0.0).sum() / scale.sqrt()
    return norms.where(finite, torch.nan)


def _angles(inner: Tensor, scale: Tensor) -> Tensor:
    """The sum over L tensors and pairs of `1 - cos`, times the product of both lengths as a constant, over `scale`."""
    lengths = inner.diagonal(dim1=1, dim2=2).clamp(min=0)
    # Where all values are 0 there is no angle, nor a gradient.
    there = (lengths > 0).unsqueeze(1) & (lengths > 0).unsqueeze(2)
    lengths = lengths.where(lengths > 0, 1.0).sqrt()
    products = lengths.unsqueeze(1) * lengths.unsqueeze(2)
    apart = products.detach() * (1 - inner / products)
    return apart.where(there, 0.0).sum() / (2 * scale)
