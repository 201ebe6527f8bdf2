"""What flows through a network, from the encoders' stages to the heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from polytask.graphs import Graphs

FeatureKind = Literal["vector", "map", "tokens", "nodes"]


class Features(NamedTuple):
    """What flows from stage to stage.

    Attributes:
        values: `[B, D]` (vector), `[B, C, H, W]` (map), `[B, T, D]` (tokens) or `[N, D]` (nodes: those of all B
            graphs).
        mask: `[B, T]`, true where a token is real, or, of a map of a recording, where a column is (T is W, then); None
            where there is nothing to mask.
        graphs: The graphs that nodes belong to; None for features of another kind.
        levels: The finer maps before `values`, `[B, C, H, W]` each, the finest first, where a task reads maps.
        words: int64 `[B, T]`: the number of the word that each token is a part of, -1 for tokens of none; None where
            the tokens are not known to be parts of words.
        segments: int64 `[B, T]`: the number of the text that each token is of, where a row has several.
    """

    values: Tensor
    mask: Tensor | None = None
    graphs: Graphs | None = None
    levels: tuple[Tensor, ...] = ()
    words: Tensor | None = None
    segments: Tensor | None = None

    def select(self, rows: Tensor | None) -> Features:
        """The features of some rows (int64 positions), or of all for None."""
        if rows is None:
            return self
        if self.graphs is not None:
            graphs, values = self.graphs.select_with(self.values, rows)
            return Features(values, None, graphs)
        mask = None if self.mask is None else self.mask[rows]
        return Features(
            self.values[rows],
            mask,
            None,
            tuple(level[rows] for level in self.levels),
            None if self.words is None else self.words[rows],
            None if self.segments is None else self.segments[rows],
        )


@dataclass(frozen=True)
class FeatureShape:
    """What one row of a stage's output looks like.

    Attributes:
        kind: `vector` `[D]`, `map` `[C, H, W]`, `tokens` `[T, D]` or `nodes` `[n, D]`, where n differs from row to row.
        width: D or C: the number of features at one position.
        stride: Of a map, or of tokens on a grid: how many pixels of the image lie between two of its positions.
        levels: Of a map: the shapes of `Features.levels`.
        grid: Of tokens that are patches of an image, row by row: how many lie below and beside each other.
        prefix: Of such tokens: how many others stand before them.
    """

    kind: FeatureKind
    width: int
    stride: int = 1
    levels: tuple[FeatureShape, ...] = ()
    grid: tuple[int, int] | None = None
    prefix: int = 0
