"""Pooling and adding features of every kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.encoders import Features


def pooled(features: Features) -> Tensor:
    """`[B, D]`, the mean over positions, or over a graph's nodes; masked tokens do not count."""
    values, mask, graphs = features
    if graphs is not None:
        return graphs.mean(values)
    if values.ndim == 4:
        return values.mean((2, 3))
    if values.ndim == 3:
        if mask is None:
            return values.mean(1)
        counted = mask.unsqueeze(-1).to(values)
        return (values * counted).sum(1) / counted.sum(1).clamp(min=1)
    return values


def at_positions(weights: Tensor, features: Features) -> Tensor:
    """Numbers for each row, `[B, ...]`, along the values' first dimension: that of the rows, or of their nodes."""
    return weights if features.graphs is None else features.graphs.to_nodes(weights)


def weighted_sum(values: Sequence[Features], weights: Tensor) -> Features:
    """The features of several modules added up.

    Args:
        values: E of one shape; the first lends its other fields.
        weights: `[B, E]`, for each row and each of them.
    """
    weights = at_positions(weights, values[0])
    stacked = torch.stack([features.values for features in values], dim=1)
    weights = weights.to(stacked.dtype).view(*weights.shape, *[1] * (stacked.ndim - 2))
    return values[0]._replace(values=(weights * stacked).sum(1))
