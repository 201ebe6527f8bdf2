"""Small tables with images and maps on them."""

import numpy as np
import pandas as pd
from PIL import Image

from polytask.data.inputs.image import ImageInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.labels import TargetSpec

SIZE = (12, 16)


def masks(rows, size=SIZE, classes=3, seed=0):
    """uint8 `[N, H, W]` of areas."""
    small = np.random.default_rng(seed).integers(0, classes, (rows, 3, 4))
    return small.repeat(-(-size[0] // 3), 1).repeat(-(-size[1] // 4), 2)[:, : size[0], : size[1]].astype(np.uint8)


def table_of(folder, maps, save=None, images=None, column="map"):
    """A table of images and of what `save` (default: PNG) writes of each map; None: an empty cell."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i, each in enumerate(maps):
        shown = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8) if images is None else images[i]
        Image.fromarray(shown).save(folder / f"{i}.png")
        name = None
        if each is not None:
            name = f"map{i}.png"
            if save is None:
                Image.fromarray(each).save(folder / name)
            else:
                name = save(folder, i, each)
        rows.append({"image": f"{i}.png", column: name})
    return Table.of(pd.DataFrame(rows), source="maps.csv", folder=folder)


def prepared(table, spec, rows=None, **image):
    """The fitted preparation of one target over one input of images."""
    rows = np.arange(len(table)) if rows is None else rows
    return Preparation.fit(table, rows, {"image": ImageInput("image", **image)}, {"task": spec})


def read(preparation, table, rows=None):
    """What is kept of the target of some rows."""
    target = preparation.targets["task"]
    rows = np.arange(len(table)) if rows is None else rows
    return target.read(table.take(rows, target.spec.columns), rows, table)


def spec(kind, **own):
    """A description of the column `map`."""
    return TargetSpec(kind=kind, columns=("map",), **own)
