"""Two handwritten digits in each image: real scans, composed so that both overlap in the middle."""

from __future__ import annotations

import gzip
import importlib.util
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from polytask.data.splits import Split
from polytask.data.table import Table

SEED = 2026
IMAGES = {"train": 12_000, "valid": 2_000, "test": 2_000}
SIDE, CANVAS = 8, 10


def read_multidigits() -> tuple[Table, Split]:
    """Images of 10 x 10 grey pixels with the columns `image` (PNG), `left` and `right` (the digits).

    The 1,797 scans of 8 x 8 pixels are those that scikit-learn brings (Alpaydin and Kaynak, "Optical recognition of
    handwritten digits", UCI 1998). Each belongs to one part alone, each part having all digits in proportion; then
    pairs are drawn, one scan for the top left and one for the bottom right corner, and the brighter pixel counts where
    they overlap (as in MultiMNIST: Sabour, Frosst and Hinton, NeurIPS 2017). The result is always the same.

    Returns:
        The table, and its split: 12,000 training, 2,000 validation and 2,000 test images.
    """
    scans, digits = _scans()
    generator = np.random.default_rng(SEED)
    images: list[np.ndarray] = []
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    rows: dict[str, np.ndarray] = {}
    start = 0
    for part, members in _parts(digits, generator).items():
        pairs = generator.choice(members, size=(IMAGES[part], 2))
        images.append(_compose(scans[pairs[:, 0]], scans[pairs[:, 1]]))
        left.append(digits[pairs[:, 0]])
        right.append(digits[pairs[:, 1]])
        rows[part] = np.arange(start, start + len(pairs))
        start += len(pairs)
    data = {
        "image": pa.array([_png(image) for image in np.concatenate(images)], pa.binary()),
        "left": pa.array(np.concatenate(left)),
        "right": pa.array(np.concatenate(right)),
    }
    return Table.from_arrow(pa.table(data), source="multidigits"), Split(rows)


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[1797, 8, 8]` from 0 to 255, and the digits, int64 `[1797]`.

    Read from scikit-learn's own file, since importing `sklearn.datasets` takes longer than all the rest.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        values = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return np.round(values[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, SIDE, SIDE), values[:, -1]


def _parts(digits: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The scans of each part, int64 positions: one in seven for validation and for testing, of each digit."""
    order = np.lexsort((generator.random(len(digits)), digits))
    place = np.arange(len(digits)) % 7
    return {"train": order[place > 1], "valid": order[place == 0], "test": order[place == 1]}


def _compose(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint8 `[N, 10, 10]` from two scans each."""
    canvas = np.zeros((len(left), CANVAS, CANVAS), dtype=np.uint8)
    canvas[:, :SIDE, :SIDE] = left
    corner = canvas[:, -SIDE:, -SIDE:]
    np.maximum(corner, right, out=corner)
    return canvas


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()  # In memory, and not compressed: this is done 16,000 times at the start of the demo.
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()
