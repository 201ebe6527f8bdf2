"""Boxes in cells of a table: Pascal VOC files, lists of records, or JSON text of these."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

SIDES = ("xmin", "ymin", "xmax", "ymax")
_CLASS = ("class", "label", "name", "category")
_IGNORED = ("ignored", "difficult", "iscrowd")
_FORMS = (
    "Allowed: the path of a Pascal VOC file (.xml), a list of records {xmin, ymin, xmax, ymax, class} in pixels, or "
    "such a list as JSON text"
)


class BoxError(ValueError):
    """A cell whose boxes cannot be read; the message says what it is, and why."""


class Box(NamedTuple):
    """One box as its annotation has it.

    Attributes:
        sides: Left, top, right, bottom, in pixels of the image file.
        name: The class.
        ignored: Whether it is marked as difficult, or as a crowd.
    """

    sides: tuple[float, float, float, float]
    name: str
    ignored: bool


class Annotation(NamedTuple):
    """What is known of an image.

    Attributes:
        boxes: Its boxes.
        size: Height and width of the image file, where the annotation tells them.
    """

    boxes: list[Box]
    size: tuple[int, int] | None


def read_cell(cell: Any, folder: Path | None) -> Annotation | None:
    """The boxes in a cell; None for an empty one.

    Args:
        cell: A path, a list of records, `{width, height, objects}` with such a list, or JSON text of either.
        folder: Where relative paths start; None: the working directory.

    Raises:
        BoxError: It holds no boxes, or broken ones.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, str):
        if cell.lstrip()[0] in "[{":
            try:
                cell = json.loads(cell)
            except ValueError as error:
                raise BoxError(f"the boxes are no JSON ({error})") from error
        elif cell.lower().endswith(".xml"):
            return _voc(cell, (folder or Path()) / cell)
    if isinstance(cell, Mapping) and "objects" in cell:
        return _records(cell["objects"] or (), _size(cell.get("width"), cell.get("height")))
    if isinstance(cell, Sequence) and not isinstance(cell, str | bytes):
        return _records(cell, None)
    raise BoxError(f"{_shown(cell)} is no boxes. {_FORMS}")


def _voc(name: str, path: Path) -> Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise BoxError(f"the annotation '{name}' does not exist") from None
    except (OSError, ElementTree.ParseError, UnicodeError, ValueError) as error:
        raise BoxError(f"the annotation '{name}' cannot be read: {error}") from error
    boxes = []
    for number, found in enumerate(root.iter("object"), 1):
        where = f"object {number} of the annotation '{name}'"
        texts = [found.findtext(f"bndbox/{side}") for side in SIDES]
        ignored = _flag(found.findtext("difficult"))
        boxes.append(Box(_sides(texts, where), _name(found.findtext("name"), where), ignored))
    return Annotation(boxes, _size(root.findtext("size/width"), root.findtext("size/height")))


def _records(records: Sequence[Any], size: tuple[int, int] | None) -> Annotation:
    boxes = []
    for number, record in enumerate(records, 1):
        where = f"box {number}"
        if not isinstance(record, Mapping):
            raise BoxError(f"{where} is {_shown(record)}. {_FORMS}")
        sides = _sides([record.get(side) for side in SIDES], where)
        name = next((record[key] for key in _CLASS if record.get(key) is not None), None)
        ignored = any(_flag(record.get(key)) for key in _IGNORED)
        boxes.append(Box(sides, _name(name, where), ignored))
    return Annotation(boxes, size)


def _sides(values: Sequence[Any], where: str) -> tuple[float, float, float, float]:
    found = []
    for side, value in zip(SIDES, values, strict=True):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            what = f"has no {side}" if value is None else f"has the {side} {_shown(value)}, which is no number"
            raise BoxError(f"{where} {what}")
        found.append(number)
    return found[0], found[1], found[2], found[3]


def _name(value: Any, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = str("" if value is None else value).strip()
    if not name:
        raise BoxError(f"{where} has no class")
    return name


def _flag(value: Any) -> bool:
    # A column of whole numbers with gaps is one of floats: 1.0.
    return str(value).strip().lower() in ("1", "1.0", "true", "yes")


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    try:
        found = int(float(height)), int(float(width))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if min(found) > 0 else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
