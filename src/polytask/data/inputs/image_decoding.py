"""Images in cells of a table, decoded to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from polytask.data.inputs.cells import Cell, UnreadableError, file_of

Channels = Literal[1, 3]


def decode(cell: Cell, folder: Path | None, channels: Channels, size: tuple[int, int] | None) -> np.ndarray:
    """The pixels of one image.

    Args:
        cell: A path, an image file's bytes, or a record with `bytes` and `path`.
        folder: Where relative paths start; None: the working directory.
        channels: 1 for grey, 3 for colour; the image is converted. Transparency is dropped.
        size: Height and width to stretch the image to; None: its own.

    Returns:
        uint8 `[channels, height, width]`.

    Raises:
        UnreadableError: There is no image, or it is broken.
    """
    source, name = file_of(cell, folder, "image")
    try:
        # Decoders raise errors of many kinds on broken files; nothing but the library runs here.
        with Image.open(source) as image:
            pixels = _pixels(image, channels, size)
    except FileNotFoundError:
        raise UnreadableError(f"the image {name} does not exist") from None
    except Exception as error:
        reason = "it is no image of a known format" if isinstance(error, UnidentifiedImageError) else f"{error}"
        raise UnreadableError(f"the image {name} cannot be read: {reason}") from error
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pixels(image: Image.Image, channels: Channels, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 `[height, width]` (grey) or `[height, width, 3]`."""
    mode = "L" if channels == 1 else "RGB"
    if size is not None:
        # A JPEG is decoded at a fraction of its size where that is enough: many times faster for photographs.
        image.draft(mode, (2 * size[1], 2 * size[0]))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits scaled to 8: Pillow's own conversion cuts off all above 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
