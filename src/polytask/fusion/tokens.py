"""Modalities as tokens of one width, side by side, those that a row lacks left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder
from polytask.encoders.transformer import sinusoids
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.fusion.modalities import ModalityEncoders, Present, body, presence, vectors_of
from polytask.modules import NamedModules
from polytask.partial import row_count


class ModalityTokens(ModalityEncoders):
    """Raw inputs by name to `tokens` that all modalities have in common.

    A row's tokens are those of the modalities it has, one modality after the other, and then padding: rows of different
    modalities take no more room than the longest of them.

    Args:
        encoders: Each input's encoder.
        dim: Number of features of a token.
        grid: Maps that are larger are averaged to `grid` x `grid` cells, each a token; None: each encoder's vector is
            its one token.
        class_token: Whether a learned token stands before the others.

    Raises:
        UserError: Maps need positions, for which `dim` must be a multiple of 4.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], dim: int, grid: int | None, *, class_token: bool = False
    ) -> None:
        chains = {name: dict(each.stages.items()) if grid is None else body(each) for name, each in encoders.items()}
        super().__init__(chains, FeatureShape("tokens", dim))
        shapes = {name: list(chain.values())[-1].shape for name, chain in chains.items()}
        maps = [name for name, shape in shapes.items() if shape.kind == "map" and grid is not None]
        if maps and dim % 4:
            raise UserError(
                f"The maps of the input '{maps[0]}' become tokens that know their row and column, for which 'dim' must "
                f"be a multiple of 4, but {dim} was given."
            )
        self.project = NamedModules({name: Projection(shape.width, dim) for name, shape in shapes.items()})
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5) if class_token else None
        self.grid = grid

    def of_input(self, name: str) -> list[nn.Module]:
        """See `ModalityEncoders.of_input`."""
        return [*super().of_input(name), self.project[name]]

    def forward(self, inputs: Mapping[str, Any]) -> Features:
        """Raw inputs of B rows to `[B, T, dim]`."""
        found = self.present(inputs)
        parts, masks = [], []
        for name, each in found.items():
            if self.grid is None:
                tokens, mask = vectors_of(each.features).unsqueeze(1), None
            else:
                tokens, mask = tokens_of(each.features, self.grid)
            projected = self.project[name](tokens)
            if self.grid is not None and each.features.values.ndim == 4:
                projected = projected + self._positions(each.features, projected)
            parts.append(projected)
            masks.append(mask)
        tokens, mask = packed(list(found.values()), parts, masks, row_count(inputs))
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
            mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        return Features(tokens, mask)

    def _positions(self, features: Features, tokens: Tensor) -> Tensor:
        assert self.grid is not None
        height, width = (min(side, self.grid) for side in features.values.shape[2:])
        return grid_positions(height, width, tokens.shape[2]).to(tokens)


class Projection(nn.Module):
    """Features of one modality to tokens of the common width: normalised, mapped, and marked with their modality.

    Args:
        width: Number of features.
        dim: Number of features of a token.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, dim)
        self.modality = nn.Parameter(torch.randn(dim) * dim**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """`[n, T, width]` to `[n, T, dim]`."""
        return self.linear(self.norm(values)) + self.modality  # type: ignore[no-any-return]


def tokens_of(features: Features, grid: int) -> tuple[Tensor, Tensor | None]:
    """Features of any kind as tokens `[n, T, D]`, and which of them are real, `[n, T]`; None: all.

    Args:
        features: Of n rows. A vector is one token, and so is each cell of a map and each node of a graph.
        grid: Maps that are larger are averaged to `grid` x `grid` cells.
    """
    values = features.values
    if features.graphs is not None:
        graphs = features.graphs
        # A graph without nodes has one token, of zeros: a row that has a modality has something of it.
        counts = graphs.nodes.clamp(min=1)
        length = int(counts.max())
        starts = graphs.nodes.cumsum(0) - graphs.nodes
        places = torch.arange(len(values), device=values.device) - starts[graphs.batch] + graphs.batch * length
        padded = values.new_zeros(len(graphs) * length, values.shape[1]).index_copy(0, places, values)
        mask = torch.arange(length, device=values.device) < counts.unsqueeze(1)
        return padded.view(len(graphs), length, -1), mask
    if values.ndim == 4:
        height, width = (min(side, grid) for side in values.shape[2:])
        if features.mask is not None:
            rows = F.adaptive_avg_pool2d(values, (height, values.shape[3]))
            values, real = _cells(rows, features.mask, width)
            return values.flatten(2).transpose(1, 2), real.repeat(1, height)
        if (height, width) != values.shape[2:]:
            values = F.adaptive_avg_pool2d(values, (height, width))
        return values.flatten(2).transpose(1, 2), None
    return (values.unsqueeze(1), None) if values.ndim == 2 else (values, features.mask)


def _cells(values: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Maps averaged along their width, each row over its own real columns, so that padding changes nothing.

    Args:
        values: `[n, C, H, W]`.
        mask: `[n, W]`: which columns are real; the first ones, and at least one.
        count: How many cells there are at most.

    Returns:
        `[n, C, H, count]`, and which cells are real, `[n, count]`.
    """
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    cells = torch.arange(count, device=values.device)
    counts = lengths.clamp(max=count)
    # As adaptive pooling does it: from floor(j L / n) up to ceil((j + 1) L / n).
    starts, ends = cells * lengths // counts, -(-(cells + 1) * lengths // counts)
    columns = torch.arange(mask.shape[1], device=values.device)
    inside = (columns >= starts.unsqueeze(2)) & (columns < ends.unsqueeze(2)) & mask.unsqueeze(1)
    weights = inside.to(values.dtype)
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1)
    return torch.einsum("nchw,njw->nchj", values, weights), cells < counts


def grid_positions(height: int, width: int, dim: int) -> Tensor:
    """What tells a cell's row and column, `[height * width, dim]`: sines and cosines, half of them for each.

    As in Vaswani et al. they are of the size 1 each, and no more than what they are added to.
    """
    rows, columns = (sinusoids(side, dim // 2) * math.sqrt(dim / 4) for side in (height, width))
    both = [rows.unsqueeze(1).expand(-1, width, -1), columns.unsqueeze(0).expand(height, -1, -1)]
    return torch.cat(both, dim=2).flatten(0, 1)


def packed(
    found: list[Present], tokens: list[Tensor], masks: list[Tensor | None], size: int
) -> tuple[Tensor, Tensor | None]:
    """The tokens of all modalities in one sequence a row, padding last.

    Args:
        found: Which rows have each modality.
        tokens: For each, `[n, T_m, dim]`.
        masks: For each, `[n, T_m]`, or None.
        size: B.

    Returns:
        `[B, T, dim]`, and bool `[B, T]`, or None where all tokens are real.
    """
    device = tokens[0].device
    known = [
        torch.ones(each.shape[:2], dtype=torch.bool, device=device) if mask is None else mask
        for each, mask in zip(tokens, masks, strict=True)
    ]
    every = all(mask is None for mask in masks)
    if all(each.rows is None for each in found):
        return torch.cat(tokens, dim=1), None if every else torch.cat(known, dim=1)
    there = presence(found, size)
    lengths = there * torch.tensor([each.shape[1] for each in tokens])
    ends = lengths.cumsum(1)
    length = int(ends[:, -1].max())
    places = []
    for column, (each, values) in enumerate(zip(found, tokens, strict=True)):
        rows = torch.arange(size) if each.rows is None else each.rows
        first = rows * length + (ends - lengths)[rows, column]
        places.append((first.unsqueeze(1) + torch.arange(values.shape[1])).flatten())
    where = torch.cat(places).to(device, non_blocking=True)
    flat = torch.cat([each.flatten(0, 1) for each in tokens])
    sequence = flat.new_zeros(size * length, flat.shape[1]).index_copy(0, where, flat).view(size, length, -1)
    if every and bool((ends[:, -1] == length).all()):
        return sequence, None
    real = torch.zeros(size * length, dtype=torch.bool, device=device)
    real[where] = torch.cat([mask.flatten() for mask in known])
    return sequence, real.view(size, length)
