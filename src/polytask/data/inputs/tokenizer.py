"""What a tokenizer is: texts to token ids."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa

from polytask.data.inputs.encoded import Ragged


class Tokenizer(ABC):
    """Turns texts into ids.

    Attributes:
        vocabulary: The number of ids.
        padding: The id that fills short texts.
        unknown: The id that stands for a text without tokens.
        length: The greatest number of ids that `encode` gives a text.
    """

    vocabulary: int
    padding: int
    unknown: int
    length: int

    @abstractmethod
    def encode(self, texts: pa.Array) -> Ragged:
        """The ids of each text (large strings, none null), at most `length`; none for a text without tokens."""
