"""Optimisers as components: their parameters, and how they treat groups of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from polytask.components import Family
from polytask.errors import UserError


class Optimizer(ABC):
    """A description of an optimiser, which builds it for given parameters.

    Args:
        lr: Learning rate.
        weight_decay: Weight decay.
        decay_all: Whether vectors and scalars decay too.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(self, lr: float, weight_decay: float, decay_all: bool) -> None:
        if not lr > 0:
            raise UserError(f"The optimiser's lr is {lr}, but must be above 0.")
        if not weight_decay >= 0:
            raise UserError(f"The optimiser's weight_decay is {weight_decay}, but must be at least 0.")
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_all = decay_all

    def build(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser for groups of parameters.

        Args:
            groups: Each with `params`, and optionally `lr_scale`, which multiplies the learning rate for the group, and
                `weight_decay`, which then holds for all of the group, whatever `decay_all` says, or `own_decay`, which
                takes the place of the optimiser's for what that one holds for. Other entries stay.

        Raises:
            UserError: There are no parameters.
        """
        made = [part for group in groups for part in self._parts(group) if part["params"]]
        if not made:
            raise UserError("There are no parameters to optimise.")
        return self._make(made)

    def _parts(self, group: Mapping[str, Any]) -> list[dict[str, Any]]:
        group = dict(group)
        scale = group.get("lr_scale", 1.0)
        decay = group.pop("own_decay", self.weight_decay)
        common = {**group, "params": list(group["params"]), "lr_scale": scale, "lr": self.lr * scale}
        if "weight_decay" in group:
            return [common]
        if self.decay_all or decay == 0:
            return [{**common, "weight_decay": decay}]
        matrices = [parameter for parameter in common["params"] if parameter.ndim >= 2]
        vectors = [parameter for parameter in common["params"] if parameter.ndim < 2]
        return [
            {**common, "params": matrices, "weight_decay": decay},
            {**common, "params": vectors, "weight_decay": 0.0},
        ]

    @abstractmethod
    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser for groups with `params`, `lr` and `weight_decay`."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019).

    Args:
        lr: Learning rate.
        weight_decay: Share of a weight, times the learning rate, that is taken off at each step.
        betas: Decay of the means of the gradient and of its square.
        eps: Added to the root of the mean square.
        decay_all: Whether biases, the scales of normalisation layers and other vectors decay too.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay_all: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay, decay_all)
        self.betas, self.eps = _checked_betas(betas), eps

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=_fused(groups))


class Adam(Optimizer):
    """Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015).

    Args:
        lr: Learning rate.
        weight_decay: Share of a weight that is added to its gradient (for true weight decay use `adamw`).
        betas: Decay of the means of the gradient and of its square.
        eps: Added to the root of the mean square.
        decay_all: Whether biases, the scales of normalisation layers and other vectors decay too.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay_all: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay, decay_all)
        self.betas, self.eps = _checked_betas(betas), eps

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, betas=self.betas, eps=self.eps, fused=_fused(groups))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Args:
        lr: Learning rate.
        momentum: Share of the last update that is kept, in [0, 1).
        nesterov: Whether to look ahead (Nesterov's momentum).
        weight_decay: Share of a weight that is added to its gradient.
        decay_all: Whether biases, the scales of normalisation layers and other vectors decay too.

    Raises:
        UserError: A parameter is out of range.
    """

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_all: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay, decay_all)
        if not 0 <= momentum < 1:
            raise UserError(f"The optimiser's momentum is {momentum}, but must be at least 0 and below 1.")
        if nesterov and momentum == 0:
            raise UserError("The optimiser's nesterov needs a momentum above 0.")
        self.momentum, self.nesterov = momentum, nesterov

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)


def _fused(groups: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether to ask for the fused step: on the CPU, where it is four times as fast and PyTorch does not choose it.

    Elsewhere PyTorch's choice stands: with gradient scaling a fused step unscales too, after gradients were clipped.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    on_cpu = all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in parameters)
    return True if on_cpu else None


def _checked_betas(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"The optimiser's betas are {list(betas)}, but must be two numbers of at least 0 and below 1.")
    return betas[0], betas[1]


family: Family[Optimizer] = Family("optimiser", Optimizer, {"adam": Adam, "adamw": AdamW, "sgd": SGD})
names = family.names
create = family.create
