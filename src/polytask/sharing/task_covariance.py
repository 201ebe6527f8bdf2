"""The covariance of several tasks' weights: its closed form, and the penalty that it makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_TINY = 1e-30


class TaskCovariance(nn.Module):
    """Ω of K tasks, with groups of tasks whose weights can be compared; between groups it is 0.

    Args:
        tasks: K.
        ridge: What keeps Ω from being singular, as a share of the mean squared length of a task's weights.

    Attributes:
        omega: `[K, K]`, Ω as of the last penalty; the trace of each group's block is 1.
    """

    omega: Tensor

    def __init__(self, tasks: int, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        self.register_buffer("omega", torch.eye(tasks) / tasks)

    def penalty(self, weights: Sequence[Sequence[Tensor]]) -> Tensor:
        """`tr(W Ω^-1 W^T)` summed over groups, with Ω made new from the weights, as a constant.

        Args:
            weights: For each task its weight tensors, as many as it likes (none: it is left out). Tasks whose tensors
                have the same shapes are a group.
        """
        groups = groups_of(weights)
        omega = torch.zeros_like(self.omega)
        found = []
        for group in groups:
            if len(group) == 1:
                # There is nothing to compare: the length of its weights is weight decay's business.
                omega[group[0], group[0]] = 1
                continue
            products = _inner_products([weights[task] for task in group])
            block, inverse = closed_form(products.detach(), self.ridge)
            places = torch.tensor(group, device=omega.device)
            omega[places[:, None], places] = block.to(omega)
            found.append((inverse.to(products) * products).sum())
        self.omega.copy_(omega)
        return torch.stack(found).sum() if found else omega.new_zeros(())

    def correlations(self) -> Tensor:
        """`[K, K]`, `Ω_ij / sqrt(Ω_ii Ω_jj)`; a task that is in no group is correlated with itself alone."""
        spread = self.omega.diagonal().clamp(min=_TINY).sqrt()
        return (self.omega / (spread[:, None] * spread)).fill_diagonal_(1.0)


def groups_of(weights: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    """The tasks whose weights have the same shapes, by number; those without weights are in no group."""
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for task, tensors in enumerate(weights):
        if tensors:
            groups.setdefault(tuple(tensor.shape for tensor in tensors), []).append(task)
    return list(groups.values())


def closed_form(products: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Ω and its inverse, `[K, K]` in double precision on the CPU.

    `A = W^T W + ridge tr(W^T W) / K I`, `Ω = A^(1/2) / tr(A^(1/2))`.

    Args:
        products: `W^T W`, `[K, K]`.
        ridge: See above.
    """
    products = products.cpu().double()
    count = len(products)
    if not products.isfinite().all():
        # As in all else that follows from such weights; the losses say where it began.
        unknown = torch.full_like(products, torch.nan)
        return unknown, unknown
    added = ridge * products.trace().item() / count + _TINY
    values, vectors = torch.linalg.eigh(products + added * torch.eye(count, dtype=torch.float64))
    roots = values.clamp(min=added).sqrt()
    total = roots.sum()
    return (vectors * (roots / total)) @ vectors.T, (vectors * (total / roots)) @ vectors.T


def _inner_products(weights: Sequence[Sequence[Tensor]]) -> Tensor:
    """`W^T W`: the inner products of the tasks' weights, all tensors of a task taken together."""
    found: list[Tensor] = []
    device = weights[0][0].device.type
    with torch.autocast(device, enabled=False):
        for tensors in zip(*weights, strict=True):
            rows = torch.stack([tensor.flatten() for tensor in tensors])
            found.append(rows @ rows.T)
        return torch.stack(found).sum(0)
