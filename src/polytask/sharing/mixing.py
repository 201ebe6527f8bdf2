"""Pooling and adding features of every kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.encoders import Features


def pooled(features: Features) -> Tensor:
    """`[B, D]`, the mean over positions, or over a graph's nodes; masked tokens, or columns of a map, do not count."""
    values, mask, graphs, *_ = features
    if graphs is not None:
        return graphs.mean(values)
    if values.ndim == 4:
        if mask is None:
            return values.mean((2, 3))
        counted = mask[:, None, None, :].to(values)
        return (values * counted).mean(2).sum(2) / mask.sum(1, keepdim=True).clamp(min=1)
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
        values: E of one shape, whose levels are added up as their values are; the first lends its other fields.
        weights: `[B, E]`, for each row and each of them.
    """
    weights = at_positions(weights, values[0])
    levels = tuple(_sum(each, weights) for each in zip(*(features.levels for features in values), strict=True))
    return values[0]._replace(values=_sum([features.values for features in values], weights), levels=levels)


def _sum(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    stacked = torch.stack(list(values), dim=1)
    return (weights.to(stacked.dtype).view(*weights.shape, *[1] * (stacked.ndim - 2)) * stacked).sum(1)
