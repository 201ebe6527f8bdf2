"""Boxes in the format of COCO: one JSON file with images, their boxes, and classes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from polytask.data.column_types import ColumnType
from polytask.data.readers.options import ReadOptions
from polytask.data.table import Table
from polytask.errors import UserError, listing

_PARTS = ("images", "annotations", "categories")
_OBJECT = pa.struct(
    [(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")]
    + [("class", pa.string()), ("ignored", pa.bool_())]
)
_BOXES = pa.struct([("width", pa.int64()), ("height", pa.int64()), ("objects", pa.list_(_OBJECT))])


def read(path: Path, options: ReadOptions, cache: Path | None) -> Table:  # noqa: ARG001 (as all readers have it)
    """The table of a COCO file: columns `image` (path) and `boxes` (`{width, height, objects}`).

    An image without annotations is one without objects. Crowds are marked as `ignored`.

    Raises:
        UserError: The file is broken, refers to what it does not have, or its images are not found.
    """
    content = _content(path)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(part), list) for part in _PARTS):
        raise UserError(f"{path} is not in the format of COCO: a JSON object with the lists {listing(_PARTS)}.")
    try:
        classes = {each["id"]: str(each["name"]) for each in content["categories"]}
        images = {each["id"]: each for each in content["images"]}
        files = [str(each["file_name"]) for each in images.values()]
        objects = _objects(path, content["annotations"], images, classes)
        boxes = [
            {"width": each.get("width"), "height": each.get("height"), "objects": objects[key]}
            for key, each in images.items()
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: an entry of its lists lacks the field {error}.") from error
    if not images:
        raise UserError(f"{path} has no images.")
    data = pa.table({"image": pa.array(files, pa.string()), "boxes": pa.array(boxes, _BOXES)})
    types = {"image": ColumnType.IMAGE, **options.columns}
    return Table.from_arrow(data, str(path), _folder(path, files[0]), types)


def is_coco(path: Path) -> bool:
    """Whether a JSON file has what a COCO file has: it is no file of JSON lines then."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and all(isinstance(content.get(part), list) for part in _PARTS)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error


def _objects(
    path: Path, annotations: list[Any], images: Mapping[Any, Any], classes: Mapping[Any, str]
) -> dict[Any, list[dict[str, Any]]]:
    """The boxes by image."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, each in enumerate(annotations, 1):
        image, category, box = each["image_id"], each["category_id"], each["bbox"]
        if image not in images or category not in classes:
            what = f"image {image!r}" if image not in images else f"category {category!r}"
            raise UserError(f"{path}, annotation {number}: there is no {what} in the file. Add it, or take this out.")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)):
            raise UserError(f"{path}, annotation {number}: bbox is {box!r}, but must be [x, y, width, height].")
        left, top, width, height = (float(side) for side in box)
        found[image].append(
            {
                "xmin": left,
                "ymin": top,
                "xmax": left + width,
                "ymax": top + height,
                "class": classes[category],
                "ignored": bool(each.get("iscrowd")),
            }
        )
    return found


def _folder(path: Path, file: str) -> Path:
    """Where the images are: beside the file, or in a folder `images`, or one that is called as the file ends.

    Raises:
        UserError: They are in none of these.
    """
    here = path.parent
    part = path.stem.rpartition("_")[2]
    places = [here, here / "images", here / part, here / path.stem]
    places += [here.parent, here.parent / "images", here.parent / part, here.parent / "images" / part]
    for place in places:
        if (place / file).is_file():
            return place
    raise UserError(
        f"{path}: its first image, '{file}', is in none of {listing(map(str, places))}. Put the images in one of these."
    )
