"""Predicted maps as files, and as pictures to look at."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from PIL import Image

from polytask.pixels import PixelValues

Range = tuple[float, float]

_COLORS = (
    (70, 130, 180), (217, 95, 62), (120, 170, 80), (150, 100, 160), (230, 180, 60), (80, 180, 170), (200, 110, 150),
    (110, 90, 70), (60, 80, 140), (190, 200, 90), (235, 140, 90), (90, 140, 110), (160, 60, 70), (150, 190, 225),
    (180, 150, 110), (60, 60, 60), (245, 215, 150), (120, 120, 190), (50, 120, 60), (220, 120, 120),
)  # fmt: skip
"""Colours of the first classes: told apart beside each other, and not glaring."""

_SCALE = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
        (110, 206, 88), (181, 222, 43), (253, 231, 37),
    ]
)  # fmt: skip
"""Colours from the least to the greatest number, as bright as the numbers are great."""

_NOTHING = (225, 225, 225)


def file_of(found: PixelValues) -> tuple[str, bytes]:
    """A map as a file: a palette image of class numbers, or an array of numbers.

    Returns:
        The ending of its name, and the content.
    """
    content = io.BytesIO()
    if found.classes is None or max(found.classes) > 255:
        np.save(content, found.values, allow_pickle=False)
        return ".npy", content.getvalue()
    image = Image.fromarray(found.values.astype(np.uint8), mode="L")
    image.putpalette(np.array([color(number) for number in range(256)], dtype=np.uint8).tobytes())
    image.save(content, format="PNG")
    return ".png", content.getvalue()


def picture(found: PixelValues, mask: np.ndarray | None = None, scale: Range | None = None) -> np.ndarray:
    """A map in colours, uint8 `[H, W, 3]`.

    Args:
        found: The map.
        mask: bool `[H, W]`: where it says something; None: everywhere.
        scale: The numbers that have the first and the last colour; None: the least and the greatest.
    """
    values = found.values
    if found.classes is not None:
        table = np.array([color(number) for number in range(int(values.max(initial=0)) + 1)], dtype=np.uint8)
        shown: np.ndarray = table[values]
    elif found.vectors:
        shown = np.round((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    else:
        first = values if values.ndim == 2 else values[:, :, 0]
        least, most = range_of(found, mask) if scale is None else scale
        share = ((first - least) / max(most - least, 1e-12)).clip(0, 1) * (len(_SCALE) - 1)
        points = np.arange(len(_SCALE))
        shown = np.stack([np.interp(share, points, _SCALE[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)
    if mask is None:
        return shown
    seen: np.ndarray = np.where(mask[:, :, None], shown, np.array(_NOTHING, dtype=np.uint8))
    return seen


def range_of(found: PixelValues, mask: np.ndarray | None = None) -> Range:
    """The least and the greatest number of a map's first channel, but for the outermost hundredths."""
    first = found.values if found.values.ndim == 2 else found.values[:, :, 0]
    known = first if mask is None else first[mask]
    if not known.size:
        return 0.0, 1.0
    least, most = np.quantile(known, (0.01, 0.99))
    return float(least), float(most)


def color(number: int) -> tuple[int, int, int]:
    """The colour of a class, by its number."""
    if number < len(_COLORS):
        return _COLORS[number]
    # Hues by the golden ratio: the next one is far from those before.
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.55, 0.55 + 0.4 * (number * 0.381966 % 1))
    return round(255 * red), round(255 * green), round(255 * blue)
