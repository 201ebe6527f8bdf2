"""Gradients brought to the cosines that each pair of tasks usually has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.random_orders import RandomOrders
from polytask.errors import UserError

# A cosine of 1 would need an endless share of the other gradient.
GREATEST = 1 - 1e-8

# A sum of gradients below this share of its parts has cancelled: what is left of it is rounding.
CANCELLED = 1e-6


class GradVac(GramianBalancer):
    """Gradient vaccine: add to each task gradient of the others until their cosines are at least the usual ones.

    From Wang, Tsvetkov, Firat and Cao, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in
    Massively Multilingual Models", ICLR 2021. Each `g_i` meets the original gradients of the other tasks in a random
    order. Where the cosine c of the changed `g_i` with `g_j` is below the target t of this pair, `g_i <- g_i + |g_i| (t
    sqrt(1 - c²) - c sqrt(1 - t²)) / (|g_j| sqrt(1 - t²)) g_j`, which makes it t. The targets start at 0, where the rule
    is that of PCGrad, and follow the cosines: `t_ij <- (1 - beta) t_ij + beta c`. The update is the sum of the changed
    gradients; all of it is in the coefficients of the K gradients, for which their Gramian is enough.

    The scale is that of the sum of the gradients, and above it where cosines are below their targets. A pair that
    agrees on most batches is held to it on the others, by however much of `g_j` it takes. LibMTL moves a target only
    where the cosine was below it, so that targets never rise above 0; this follows the paper, which moves it each time.
    The paper treats the layers one by one, here it is all shared parameters at once. Targets are kept by the names of
    the tasks; a gradient of 0 leaves them as they are.

    Args:
        beta: How much of a new cosine goes into the target, from 0 (PCGrad) to 1. The paper takes 0.01, LibMTL 0.5.
        seed: For the random orders.

    Raises:
        UserError: `beta` is out of range.
    """

    paper = (
        "Wang, Tsvetkov, Firat and Cao, Gradient Vaccine: Investigating and Improving Multi-task Optimization in "
        "Massively Multilingual Models, ICLR 2021"
    )
    year = 2021

    def __init__(self, beta: float = 0.5, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= beta <= 1:
            raise UserError(f"gradvac: beta is {beta}, but must be from 0 to 1.")
        self.beta = beta
        self.orders = RandomOrders(seed)
        self.targets = PairTargets()

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        self.targets.add(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        return self._vaccinated(gramian).weights

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """See `GramianBalancer.observe`: move the targets, and go on to other orders."""
        found = self._vaccinated(gramian)
        tasks = self.tasks_of(gramian)
        targets = self.targets.read(tasks, gramian.device)
        moved = torch.lerp(targets, found.cosines.to(targets.dtype), self.beta)
        self.targets.write(tasks, moved.where(found.met, targets))
        self.orders.advance(len(gramian))

    def _vaccinated(self, gramian: Tensor) -> Vaccinated:
        targets = self.targets.read(self.tasks_of(gramian), gramian.device)
        return vaccinated(gramian, targets, self.orders.draw(len(gramian)))


class Vaccinated(NamedTuple):
    """What came of changing the gradients.

    Attributes:
        weights: `[K]`, those of the sum of the changed gradients.
        cosines: `[K, K]`, of each gradient with each other when they met, before the change.
        met: `[K, K]`, whether there was such a cosine.
    """

    weights: Tensor
    cosines: Tensor
    met: Tensor


def vaccinated(gramian: Tensor, targets: Tensor, orders: Tensor) -> Vaccinated:
    """Bring the cosine of each gradient with each other up to its target, one after the other.

    Args:
        gramian: `[K, K]`.
        targets: `[K, K]`, the cosine wanted of the changed gradient i with the original gradient j.
        orders: `[K, K - 1]`, for each gradient the numbers of the others, in the order in which it meets them.
    """
    import numpy as np

    known = gramian.detach().cpu().double().numpy()
    goals = targets.detach().cpu().double().numpy().clip(-GREATEST, GREATEST)
    slopes = 1 / np.sqrt(1 - goals * goals)
    lengths = np.sqrt(known.diagonal().clip(min=0))
    there = lengths > 0
    lengths = np.where(there, lengths, 1.0)
    unit = known / lengths / lengths[:, None]
    rows = np.arange(len(known))
    # The changed gradients by row, each of length 1 at the start, and in multiples of the unit gradients.
    coefficients, products = np.eye(len(known)), unit.copy()
    squares, parts = there.astype(float), there.astype(float)
    cosines, met = np.zeros_like(unit), np.zeros(unit.shape, dtype=bool)
    for others in orders.T.numpy():
        valid = there[others] & (squares > (CANCELLED * parts) ** 2)
        length = np.sqrt(np.where(valid, squares, 1.0))
        product, goal = products[rows, others], goals[rows, others]
        cosine = (product / length).clip(-1, 1)
        share = length * (goal * slopes[rows, others] * np.sqrt(1 - cosine * cosine) - cosine)
        share = np.where(valid & (cosine < goal), share, 0.0)
        coefficients[rows, others] += share
        squares += share * (2 * product + share)
        parts += share
        products += share[:, None] * unit[others]
        cosines[rows, others], met[rows, others] = cosine, valid
    weights = (lengths @ coefficients) / lengths
    return Vaccinated(
        torch.from_numpy(weights).to(gramian),
        torch.from_numpy(cosines).to(gramian.device),
        torch.from_numpy(met).to(gramian.device),
    )


class PairTargets(nn.Module):
    """A number for each ordered pair of tasks, found by their names; 0 at the start.

    Tasks can come at any time. The state dictionary holds the names, so that loading it needs no preparation.
    """

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._where: dict[str, int] = {}
        self.register_buffer("value", torch.zeros(0, 0))

    def add(self, tasks: Sequence[str]) -> None:
        """Make room for tasks; the pairs that are there already stay as they are."""
        for task in tasks:
            self._where.setdefault(task, len(self._where))
        more = len(self._where) - len(self.value)
        if more:
            self.value = nn.functional.pad(self.value, (0, more, 0, more))

    def read(self, tasks: Sequence[str], device: torch.device) -> Tensor:
        """`[K, K]`, the numbers of the pairs of some tasks, on `device`."""
        self.add(tasks)
        if self.value.device != device:
            self.to(device)
        positions = self._positions(tasks)
        return self.value[positions[:, None], positions]

    def write(self, tasks: Sequence[str], values: Tensor) -> None:
        """Put `[K, K]` numbers in the place of those of some tasks that were read."""
        positions = self._positions(tasks)
        self.value = self.value.index_put((positions[:, None], positions), values)

    def get_extra_state(self) -> dict[str, list[str]]:
        """The tasks' names."""
        return {"tasks": list(self._where)}

    def set_extra_state(self, state: Mapping[str, Sequence[str]]) -> None:
        """Take the names back; `_load_from_state_dict` has made room for the numbers."""
        self._where = {task: index for index, task in enumerate(state["tasks"])}

    def _positions(self, tasks: Sequence[str]) -> Tensor:
        return torch.tensor([self._where[task] for task in tasks], device=self.value.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        loaded = state_dict.get(f"{prefix}value")
        if loaded is not None:
            self.value = torch.empty_like(loaded, device=self.value.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
