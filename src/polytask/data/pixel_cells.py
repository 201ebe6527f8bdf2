"""Maps in cells of a table: a class or numbers for each pixel of an image."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

Size = tuple[int, int]

_NUMPY = b"\x93NUMPY"
_TABLES = (".csv", ".tsv", ".txt")


class MapError(ValueError):
    """A cell that holds no readable map; the message says what it is and why."""


def read_map(source: Path | io.BytesIO, name: str) -> np.ndarray:
    """The map in a file: an image, an array of NumPy, or numbers as text.

    Args:
        source: The file.
        name: What messages call it.

    Returns:
        `[H, W, C]`, as the file has it: of a palette image the numbers of the colours.

    Raises:
        MapError: There is none, or it is broken.
    """
    try:
        values = _read(source)
    except FileNotFoundError:
        raise MapError(f"the map {name} does not exist") from None
    except (Exception, Warning) as error:
        # Decoders raise errors of many kinds on broken files; nothing but the libraries runs here.
        reason = "it is no image of a known format, nor an array (.npy)" if _unknown(error) else f"{error}"
        raise MapError(f"the map {name} cannot be read: {reason}") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not values.size:
        raise MapError(
            f"the map {name} has the shape {list(values.shape)}, but must be [height, width] or [height, width, "
            "channels]"
        )
    if values.dtype.kind not in "biuf":
        raise MapError(f"the map {name} holds {values.dtype}, which are no numbers")
    return values


def _unknown(error: BaseException) -> bool:
    return isinstance(error, UnidentifiedImageError)


def _read(source: Path | io.BytesIO) -> np.ndarray:
    if isinstance(source, Path) and source.suffix.lower() in _TABLES:
        delimiter = {".csv": ",", ".tsv": "\t"}.get(source.suffix.lower())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file is a warning to NumPy
            return np.loadtxt(source, delimiter=delimiter, ndmin=2)
    with source.open("rb") if isinstance(source, Path) else source as file:
        start = file.read(len(_NUMPY))
        file.seek(0)
        if start == _NUMPY:
            return np.load(file, allow_pickle=False)  # type: ignore[no-any-return]
        with Image.open(file) as image:
            # Palette colours are numbers, not colours: no conversion.
            return np.asarray(image)


def resized(values: np.ndarray, size: Size) -> np.ndarray:
    """A map `[H, W, ...]` of another size: each pixel has the value of the nearest one."""
    if values.shape[:2] == size:
        return values
    rows, columns = (_places(old, new) for old, new in zip(values.shape[:2], size, strict=True))
    found: np.ndarray = values[rows[:, None], columns]
    return found


def same_shape(one: Size, other: Size) -> bool:
    """Whether two sizes are those of one picture, at different scales: within a pixel of the smaller one."""
    small, large = sorted((one, other))
    factor = large[0] / small[0]
    return abs(large[1] / factor - small[1]) <= 1 or abs(large[0] * small[1] / large[1] - small[0]) <= 1


def _places(old: int, new: int) -> np.ndarray:
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)
