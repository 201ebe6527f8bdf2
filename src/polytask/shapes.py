"""What the data tell an encoder about its input: the one thing that data and encoders both know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TabularShape:
    """Columns of a table taken together.

    Attributes:
        numeric: How many numeric columns there are, missing-value indicators included.
        cardinalities: For each categorical column, its number of codes (missing and unknown included).
    """

    numeric: int
    cardinalities: Sequence[int] = ()


@dataclass(frozen=True)
class ImageShape:
    """Images of one size.

    Attributes:
        channels: 1 for grey images, 3 for colour.
        height: In pixels.
        width: In pixels.
    """

    channels: int = 3
    height: int = 224
    width: int = 224


@dataclass(frozen=True)
class TextShape:
    """Text as token ids.

    Attributes:
        vocabulary: Number of ids, the special ones included.
        length: The greatest number of tokens of one text.
        padding: The id that fills short texts.
        weightings: Number of weights that come with each token.
        parts: Number of ids of each token; with several, their embeddings are added.
        segments: Number of texts of one row.
    """

    vocabulary: int
    length: int = 512
    padding: int = 0
    weightings: int = 0
    parts: int = 1
    segments: int = 1


@dataclass(frozen=True)
class AudioShape:
    """Recordings, of one length or of several.

    Attributes:
        sample_rate: Samples a second.
        channels: 1 (mono) or 2 (stereo).
        samples: The greatest number of samples of one recording.
    """

    sample_rate: int
    channels: int = 1
    samples: int = 480_000


@dataclass(frozen=True)
class SequenceShape:
    """Time series.

    Attributes:
        channels: How many numbers a step has, indicators of missing ones included.
        length: The greatest number of steps of one series.
    """

    channels: int
    length: int = 512


@dataclass(frozen=True)
class GraphShape:
    """Graphs whose nodes and edges have features: such of a few values each, and numbers.

    The values of all features of a node have codes of one vocabulary: those of the first feature come first, then those
    of the second... So do those of an edge.

    Attributes:
        node_features: For each feature of a node, the number of its values.
        edge_features: For each feature of an edge, the number of its values.
        node_numbers: How many numeric features a node has.
        edge_numbers: How many numeric features an edge has.
    """

    node_features: Sequence[int] = ()
    edge_features: Sequence[int] = ()
    node_numbers: int = 0
    edge_numbers: int = 0

    @property
    def edges_differ(self) -> bool:
        """Whether edges have features; else they are all alike."""
        return bool(self.edge_features) or self.edge_numbers > 0


InputShape = TabularShape | ImageShape | TextShape | GraphShape | AudioShape | SequenceShape
