"""Methods that compare the gradients of independent batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.balancer import Losses, Step
from polytask.balancing.disjoint import Samples
from polytask.balancing.gradients import plan, whole_gradients
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.graph import Graph
from polytask.balancing.matrix_free import products_with
from polytask.balancing.precision import true_float32, without_autocast
from polytask.errors import UserError, listing


class IndependentBatches(GramianBalancer):
    """A Gramian method that takes three independent batches a step, so that its weights are not biased by noise.

    The first two give `J_1 J_2ᵀ`, whose expectation is the Gramian of the expected gradients (that of `J_1 J_1ᵀ` is
    not); the third is what the weights are applied to. Call `backward([losses_1, losses_2, losses_3])`. In training
    from a configuration, each batch is divided into three.

    Args:
        matrix_free: Learn from `J_1 (J_2ᵀ v)` for the step's weights `v` alone, at a cost that does not grow with the
            number of tasks. The network's operations need second derivatives.
    """

    batches: ClassVar[int] = 3

    def __init__(self, *, matrix_free: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.matrix_free = matrix_free
        changed = [option for option in self.changed_options() if not option.startswith("smoothing=")]
        if changed:
            raise UserError(
                f"{type(self).__name__} measures three batches in its own way: leave out {listing(changed)}."
            )

    @abstractmethod
    def update_weights(self, cross: Tensor) -> None:
        """Learn from `[K, K]`, the products of the first batch's task gradients with the second's."""

    @abstractmethod
    def update_weights_by(self, product: Tensor) -> None:
        """Learn from `[K]`, the products of the first batch's task gradients with `J_2ᵀ v`, for the weights v."""

    @torch.enable_grad()
    def backward(
        self,
        losses: Losses | Sequence[Losses],
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Samples | None = None,
        probe: Losses | None = None,
    ) -> None:
        """See `Balancer.backward`.

        Args:
            losses: The losses of three independent batches, for the same tasks.
            shared: See `Balancer.backward`.
            scaler: See `Balancer.backward`.
            samples: Not used.
            probe: Not used.

        Raises:
            UserError: There are not three, or they are not for the same tasks.
        """
        batches = _three(self, losses)
        shared = None if shared is None else list(shared)
        values = [self._enter(batch) for batch in batches]
        self._refuse_processes([value for batch in values for value in batch])
        one, two, scaled = values if scaler is None else [[scaler.scale(v) for v in batch] for batch in values]
        compared = [p for batch in (one, two) for p in Graph(batch).shared()] if shared is None else shared
        with without_autocast():
            if self.matrix_free:
                self._learn_from_product(one, two, list(dict.fromkeys(compared)), scaler)
            else:
                self._learn_from_products(one, two, compared, scaler)
            planned = plan(scaled, shared, ghosts=False)
        weights = self._weights_now()
        weights = self._weighting.apply(weights, self.present)
        with without_autocast():
            self._apply_by_backward(planned, scaled, weights)
        self.last = Step(self.present, torch.stack(values[2]).detach(), weights)

    def _weights_now(self) -> Tensor:
        return self.weights(torch.eye(len(self.present), dtype=torch.float64))

    def _learn_from_products(
        self, one: Sequence[Tensor], two: Sequence[Tensor], compared: Sequence[Tensor], scaler: GradScaler | None
    ) -> None:
        # The same columns in both, though batches can reach different parameters.
        first, second = (
            whole_gradients(plan(batch, compared, ghosts=False, unreached=True), batch).blocks for batch in (one, two)
        )
        if first and second:
            with true_float32():
                cross = first[0].rows @ second[0].rows.T
            self.update_weights(_unscaled(cross, scaler))

    def _learn_from_product(
        self, one: Sequence[Tensor], two: Sequence[Tensor], compared: Sequence[Tensor], scaler: GradScaler | None
    ) -> None:
        if not compared:
            return
        stacked = torch.stack(list(two))
        total = (self._weights_now().to(stacked) * stacked).sum()
        direction = torch.autograd.grad(total, compared, retain_graph=True, allow_unused=True)
        self.update_weights_by(_unscaled(products_with(one, compared, direction), scaler))


def _unscaled(products: Tensor, scaler: GradScaler | None) -> Tensor:
    """Products of gradients without the scale that both had, in float64 on the CPU."""
    scale = products.new_ones(()) if scaler is None else scaler.scale(products.new_ones(()))
    found = torch.cat([products.flatten(), scale.to(products).view(1)]).cpu().double()
    return found[:-1].view(products.shape) / found[-1] ** 2


def _three(balancer: IndependentBatches, losses: Losses | Sequence[Losses]) -> list[Losses]:
    name, count = type(balancer).__name__, balancer.batches
    if isinstance(losses, Mapping) or len(losses) != count or any(isinstance(batch, Tensor) for batch in losses):
        raise UserError(
            f"{name} needs the losses of {count} independent batches: backward([losses_1, losses_2, losses_3]). In "
            "training from a configuration, each batch is divided by itself."
        )
    batches = [batch for batch in losses if not isinstance(batch, Tensor)]
    tasks = [tuple(batch) if isinstance(batch, Mapping) else len(batch) for batch in batches]
    if any(task != tasks[0] for task in tasks):
        raise UserError(f"{name}: the {count} batches have losses for different tasks: {tasks}.")
    return batches
