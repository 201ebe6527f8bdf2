"""Methods whose weights can be learned from step to step, at a cost that does not grow with the number of tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.adam import TaskAdam
from polytask.balancing.balancer import Losses, Step
from polytask.balancing.disjoint import Samples
from polytask.balancing.gradients import Plan, accumulate, clear_about_a_second_pass, plan
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.precision import without_autocast
from polytask.errors import UserError, listing


class MatrixFreeBalancer(GramianBalancer):
    """A Gramian method that can do without the Gramian.

    With `matrix_free` the weights are no longer solved for at each step, but take one step of Adam per step of training
    on the method's own objective. Its derivative needs `G v = J (Jᵀ v)` alone, where `v` are the weights: `Jᵀ v` is the
    update, one backward pass, and its scalar products with the task gradients come from one more pass, through that
    pass. Approximate: the weights lag behind, as those of FAMO do. The network's operations need second derivatives.

    Args:
        matrix_free: Learn the weights in this way.
        matrix_free_lr: Learning rate of the weights, in logarithms.
    """

    domain: ClassVar[Literal["simplex", "positive"]]

    def __init__(self, *, matrix_free: bool = False, matrix_free_lr: float = 0.025, **options: Any) -> None:
        super().__init__(**options)
        if not matrix_free_lr > 0:
            raise UserError(f"matrix_free_lr is {matrix_free_lr}, but must be above 0.")
        if matrix_free and (changed := self.changed_options()):
            raise UserError(f"matrix_free measures no task gradients, so that it does not go with {listing(changed)}.")
        self.matrix_free = matrix_free
        self._inner = TaskAdam(0.0, matrix_free_lr) if matrix_free else None

    @abstractmethod
    def online_direction(self, weights: Tensor) -> Tensor:
        """`[K]`, what the task gradients are multiplied by, given the inner weights `[K]`."""

    @abstractmethod
    def online_gradient(self, weights: Tensor, product: Tensor) -> Tensor:
        """`[K]`, the derivative of the method's objective for its inner weights.

        Args:
            weights: `[K]`, the inner weights.
            product: `[K]`, `G v` for `v = online_direction(weights)`.
        """

    def observe_online(self, weights: Tensor, product: Tensor) -> None:
        """Learn more from a step without a matrix, for methods that do.

        Args:
            weights: `[K]`, the inner weights.
            product: `[K]`, `G v` for `v = online_direction(weights)`.
        """

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`."""
        if self._inner is not None:
            self._inner.add(tasks)

    @torch.enable_grad()
    def backward(
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Samples | None = None,
        probe: Losses | None = None,
    ) -> None:
        """See `Balancer.backward`."""
        if self._inner is None:
            super().backward(losses, shared, scaler=scaler, samples=samples, probe=probe)
            return
        values = self._enter(losses)
        self._refuse_processes(values)
        scaled = values if scaler is None else [scaler.scale(value) for value in values]
        planned = plan(scaled, shared, ghosts=False)
        logits = self._inner.read("value", self.present, values[0].device)
        inner = logits.softmax(0) if self.domain == "simplex" else logits.exp()
        direction = self.online_direction(inner)
        applied = self._weighting.apply(direction, self.present)
        factor = applied.sum() / direction.sum()
        with without_autocast():
            product = self._accumulate(planned, scaled, direction, factor, self._own_weights(applied))
        if product is not None:
            if scaler is not None:
                product = product / scaler.scale(product.new_ones(())) ** 2
            inner = inner.to(product)
            gradient = self.online_gradient(inner, product)
            mean = (inner * gradient).sum() if self.domain == "simplex" else 0.0
            self._inner.step(self.present, inner * (gradient - mean))
            self.observe_online(inner, product)
        self.last = Step(self.present, torch.stack(values).detach(), applied)

    @staticmethod
    def _accumulate(
        planned: Plan, losses: Sequence[Tensor], direction: Tensor, factor: Tensor, own_weights: Tensor | None
    ) -> Tensor | None:
        """Accumulate the update `Jᵀ v` times `factor`, and give `J (Jᵀ v)`; None where nothing is shared."""
        stacked = torch.stack(list(losses))
        others = [*planned.plain, *(parameter for own in planned.own for parameter in own)]
        with clear_about_a_second_pass():
            if others:
                total = (stacked if own_weights is None else stacked * own_weights.to(stacked)).sum()
                accumulate(others, torch.autograd.grad(total, others, retain_graph=bool(planned.shared)), copy=True)
            if not planned.shared:
                return None
            leaf = direction.detach().to(stacked).requires_grad_()
            update = torch.autograd.grad((leaf * stacked).sum(), planned.shared, create_graph=True)
            constant = [gradient.detach() for gradient in update]
            product = None
            if any(gradient.requires_grad for gradient in update):
                product = _differentiated(update, leaf, constant)
        accumulate(planned.shared, [gradient * factor.to(gradient) for gradient in constant])
        return product


def products_with(
    losses: Sequence[Tensor], parameters: Sequence[Tensor], directions: Sequence[Tensor | None]
) -> Tensor:
    """`[K]`, the scalar products of the tasks' gradients with one direction, by a pass and one more through it.

    Args:
        losses: K scalars.
        parameters: What the gradients are taken for.
        directions: For each parameter, its part of the direction; None is 0.
    """
    stacked = torch.stack(list(losses))
    leaf = torch.ones_like(stacked).requires_grad_()
    with clear_about_a_second_pass():
        found = torch.autograd.grad((leaf * stacked).sum(), parameters, create_graph=True, allow_unused=True)
        pairs = [(g, d) for g, d in zip(found, directions, strict=True) if g is not None and d is not None]
        if not any(gradient.requires_grad for gradient, _ in pairs):
            return torch.zeros_like(stacked)
        return _differentiated([gradient for gradient, _ in pairs], leaf, [direction for _, direction in pairs])


def _differentiated(update: Sequence[Tensor], leaf: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """`[K]`, the derivative of `<update, directions>` for what the update is made with."""
    chosen = [index for index, gradient in enumerate(update) if gradient.requires_grad]
    try:
        (product,) = torch.autograd.grad(
            [update[i] for i in chosen], leaf, [directions[i] for i in chosen], allow_unused=True
        )
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in ("derivative", "double backward")):
            raise
        raise UserError(
            f"matrix_free needs second derivatives, which an operation of the network does not have: {error}. Use "
            "matrix_free=False."
        ) from error
    if product is None:
        raise UserError(
            "matrix_free needs second derivatives, which an operation of the network does not have (a function that is "
            "once differentiable?). Use matrix_free=False."
        )
    return product
