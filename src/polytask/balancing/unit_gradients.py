"""The sum of task gradients that has given projections onto their directions."""

from __future__ import annotations

import torch
from torch import Tensor


def projecting(gramian: Tensor, projections: Tensor) -> Tensor:
    """The weights whose weighted sum of gradients has the projections `projections` onto their directions.

    That is `U v = projections`, by the pseudo-inverse of `U`, the Gramian of the unit gradients, and `v_k / |g_k|` as
    the weights. With the unit gradients the lengths of the gradients, however different, play no part in how well the
    equations are solved. Where the gradients depend on each other so that there is no solution, it is the one nearest
    to it; where nothing of it is left, 0. A gradient of 0 has the weight 0.

    Args:
        gramian: `[K, K]`.
        projections: `[K]`.
    """
    lengths = gramian.diagonal().clamp(min=0).sqrt()
    there = lengths > 0
    lengths = lengths.where(there, 1.0)
    wanted = projections.where(there, 0.0)
    values, vectors = torch.linalg.eigh(gramian / lengths / lengths[:, None])
    # Gradients are measured in float32 as a rule: what is smaller is its noise, which the inverse would blow up.
    kept = values > len(gramian) * torch.finfo(torch.float32).eps
    along = (vectors.T @ wanted).where(kept, 0.0)
    along = along.where(along.norm() > 1e-8 * wanted.norm(), 0.0)
    weights: Tensor = (vectors @ (along / values.where(kept, 1.0))) / lengths
    return weights
