"""Maps that are predicted: a class or numbers for each pixel of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelValues:
    """One row's predicted map.

    Attributes:
        values: `[H, W]`: classes' ids, or one number a pixel; `[H, W, C]`: several.
        classes: The classes' names by id, of a map of classes; None: the values are numbers.
        vectors: Whether the C = 3 numbers are a direction, from -1 to 1.
    """

    values: np.ndarray
    classes: dict[int, str] | None = None
    vectors: bool = False
