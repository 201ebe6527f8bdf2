"""A direction that has the same angle to each task's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.task_values import TaskValues
from polytask.balancing.unit_gradients import projecting


class ConFIG(GramianBalancer):
    """ConFIG, conflict-free inverse gradients: the direction of equal cosines, as far as the gradients go along it.

    From Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025.
    With the unit gradients as the rows of `Û` and the preference p (1 for every task where there is none), the
    direction is `u = Û⁺ p / |Û⁺ p|`, which has cosines with the gradients in proportion to p, and the update is `(sum_k
    g_k · u) u`. Both lie in the span of the gradients, so that their Gramian is enough: `u` is the sum of the gradients
    with the weights `(Û Ûᵀ)⁺ p / |g_k|`, scaled.

    The direction does not depend on the scales of the losses. The scale of the update is that of the sum of the
    gradients, less what conflicts. The weights can be negative. Where the gradients depend on each other (more tasks
    than dimensions), so that no direction has these cosines, it is the nearest to it; where none is left, as for
    opposite gradients, the weights are 0. A task with a gradient of 0 is left out.

    Args:
        preference: The cosines wanted with each task's gradient, relative to each other, above 0, by task name or in
            order; None: the same for all.

    Raises:
        UserError: A preference is not positive.
    """

    paper = (
        "Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR 2025"
    )
    year = 2025

    def __init__(self, preference: Mapping[str, float] | Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._preference = (
            None if preference is None else TaskValues("con_fig", "preference", preference, minimum=0.0, above=True)
        )

    def prepare(self, tasks: Sequence[str]) -> None:
        """See `Balancer.prepare`.

        Raises:
            UserError: A task has no preference, or a preference no task.
        """
        if self._preference is not None:
            self._preference.prepare(tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        known = gramian.double()
        wanted = torch.ones_like(known[0])
        if self._preference is not None:
            wanted = self._preference.read(self.tasks_of(known), known)
        direction = projecting(known, wanted)
        products = known @ direction
        square = direction @ products
        return (direction * (products.sum() / square.where(square > 0, 1.0))).to(gramian.dtype)
