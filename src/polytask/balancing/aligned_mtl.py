"""Gradients turned until they are at right angles and of one length."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from polytask.balancing.preference import PreferenceBalancer
from polytask.errors import UserError

Scale = Literal["min", "median", "rmse"]


class AlignedMTL(PreferenceBalancer):
    """Aligned-MTL: the sum of the nearest gradients that are at right angles and of one length.

    From Senushkin, Patakin, Kuznetsov and Konushin, "Independent Component Alignment for Multi-Task Learning", CVPR
    2023. With the eigenvalues `G = V Λ Vᵀ`, the gradients `B J` with `B = sqrt(σ) V Λ^(-1/2) Vᵀ` have the Gramian `σ
    I`: none conflicts, none dominates. The weights are `Bᵀ p` for the preference p, 1/K each where there is none.

    The length of the aligned gradients is `sqrt(σ)`, from the least eigenvalue (`min`, the paper's choice: the update
    is no longer than any sum of the gradients with weights as large), the median (the lower one of two), or the mean
    (`rmse`). With `min`, nearly dependent gradients or one very short one make very short steps. The update is about
    1/K of a sum. It depends on the scales of the losses (`log_losses` makes it indifferent). The weights can be
    negative.

    Eigenvalues up to `rank_tolerance` of the greatest are left out, of all three scales too: they are directions that
    no gradient has. The official code takes the precision of float32, `K · 1.2e-7`: right for gradients measured in
    float32 where some depend on each other exactly (the same task twice), but it also leaves out every task whose
    gradient is some 2,000 times shorter than the longest.

    Args:
        scale: Which eigenvalue gives the length: `min`, `median` or `rmse`.
        rank_tolerance: Eigenvalues up to this share of the greatest count as 0; from 0 to below 1.

    Raises:
        UserError: A parameter is out of range.
    """

    paper = (
        "Senushkin, Patakin, Kuznetsov and Konushin, Independent Component Alignment for Multi-Task Learning, CVPR 2023"
    )
    year = 2023
    method = "aligned_mtl"

    def __init__(
        self,
        scale: Scale = "min",
        rank_tolerance: float = 1e-10,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if scale not in ("min", "median", "rmse"):
            raise UserError(f"aligned_mtl: scale is '{scale}', but must be 'min', 'median' or 'rmse'.")
        if not 0 <= rank_tolerance < 1:
            raise UserError(f"aligned_mtl: rank_tolerance is {rank_tolerance}, but must be from 0 to below 1.")
        self.scale, self.rank_tolerance = scale, rank_tolerance

    def weights(self, gramian: Tensor) -> Tensor:
        """See `GramianBalancer.weights`."""
        known = gramian.double()
        preference = self.shares(known)
        values, vectors = torch.linalg.eigh(known)
        kept = values > self.rank_tolerance * values[-1].clamp(min=0)
        values, vectors = values[kept], vectors[:, kept]
        if not len(values):
            return preference.to(gramian.dtype)
        # In ascending order; and of two in the middle, the lower one.
        length = {"min": values[0], "median": values[(len(values) - 1) // 2], "rmse": values.mean()}[self.scale]
        weights: Tensor = vectors @ ((length / values).sqrt() * (vectors.T @ preference))
        return weights.to(gramian.dtype)
