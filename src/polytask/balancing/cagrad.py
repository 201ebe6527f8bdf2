"""The direction near the mean gradient that is best for the task it helps least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.errors import UserError

PLAIN_EVERY = 10


class CAGrad(MatrixFreeBalancer):
    """CAGrad, conflict-averse gradient descent: near the mean gradient, the direction best for the task it helps least.

    From Liu, Liu, Jin, Stone and Liu, "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021: the
    greatest `min_k g_k · d` with `|d - g_0| <= c |g_0|`, where g_0 is the mean gradient. By duality `d = g_0 + c |g_0|
    g_w / |g_w|`, where `g_w = Jᵀ w` has the weights of sum 1 of least `g_w · g_0 + c |g_0| |g_w|`. With c = 0 it is the
    mean gradient. For c below 1 the method goes to a stationary point of the mean loss, as plain training does, on
    another path; with c towards infinity its direction becomes that of MGDA.

    The scale is that of the mean, 1/K of a sum; the official code divides d by `1 + c²`, and multiplies it by K to
    match a sum (`normalize: sum_to_k` is near that). The code finds w by a general solver, with 1e-8 added in several
    places; here it is exact. Long gradients decide the mean. Where gradients cancel, so that `g_w` is 0, any d of the
    ball that conflicts with none is a solution, and this takes the one nearest to the mean. A task with a gradient of 0
    counts in the mean, and not as one that is to be helped.

    `matrix_free` has to know `c |g_0| / |g_w|`, the share of the inner weights in the update, which is not to be had
    from one product. So at each tenth step, the first one included, the update is the plain mean gradient, which
    measures `|g_0|`; at the others `|d - g_0|` is known up to that, and the share goes a part of the way to where it is
    `c |g_0|`.

    Args:
        c: How far the update may be from the mean gradient, relative to it, at least 0; the paper takes 0.2 to 0.5.
        rescale: What the update is divided by: nothing (0), `1 + c²` (1), or `1 + c` (2).

    Raises:
        UserError: A parameter is out of range.
    """

    paper = "Liu, Liu, Jin, Stone and Liu, Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021"
    year = 2021
    domain = "simplex"

    def __init__(self, c: float = 0.4, rescale: Literal[0, 1, 2] = 1, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= c < math.inf:
            raise UserError(f"cagrad: c is {c}, but must be a number of at least 0.")
        if rescale not in (0, 1, 2):
            raise UserError(f"cagrad: rescale is {rescale}, but must be 0, 1 or 2.")
        self.c, self.rescale = c, rescale
        self._divisor = (1.0, 1 + c**2, 1 + c)[rescale]
        self.register_buffer("share", torch.tensor(c))
        self.register_buffer("mean_square", torch.zeros(()))
        self._steps = 0

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        from polytask.balancing.solvers.conflict_averse import conflict_averse

        known = gramian.detach().cpu().double().numpy()
        added = torch.from_numpy(conflict_averse(known, self.c))
        return ((1 / len(known) + added) / self._divisor).to(gramian)

    def online_direction(self, weights: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_direction`: the mean, and the share of the weights except at plain steps."""
        added = torch.zeros_like(weights) if self._is_plain() else self.get_buffer("share").to(weights) * weights
        return (1 / len(weights) + added) / self._divisor

    def online_gradient(self, weights: Tensor, product: Tensor) -> Tensor:
        """See `MatrixFreeBalancer.online_gradient`: of `g_w · g_0 + c |g_0| |g_w|`; 0 at plain steps."""
        return torch.zeros_like(product) if self._is_plain() else product * self._divisor

    def observe_online(self, weights: Tensor, product: Tensor) -> None:
        """See `MatrixFreeBalancer.observe_online`."""
        products = product * self._divisor
        share, mean_square = (self.get_buffer(name).to(product) for name in ("share", "mean_square"))
        if self._is_plain():
            self.mean_square = products.mean().clamp(min=0)
        else:
            # |d - g_0|² = |d|² - 2 g_0 · d + |g_0|², with d = g_0 + share g_w.
            square = share * (weights @ products) - products.mean() + mean_square
            wanted = self.c * (mean_square / square.clamp(min=1e-30)).sqrt()
            # Bounds in between as well, from which it finds back: where gradients vanish or cancel, nothing is wanted.
            self.share = (share * wanted.clamp(0.8, 1.25)).clamp(1e-3 * self.c, 1e3 * self.c)
        self._steps += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps with `matrix_free`."""
        return {"steps": self._steps}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take it back."""
        self._steps = state["steps"]

    def _is_plain(self) -> bool:
        return self._steps % PLAIN_EVERY == 0
