"""Data sets in the layout of Pascal VOC: images, an XML file of boxes for each, and lists of images."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from polytask.data.column_types import IMAGE_SUFFIXES, ColumnType
from polytask.data.readers.options import ReadOptions
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "Annotations", Path("ImageSets", "Main")
_PARTS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}


def read(path: Path, options: ReadOptions, cache: Path | None) -> Table:  # noqa: ARG001 (as all readers have it)
    """The table of a folder with `JPEGImages` and `Annotations`, or of a list of images in its `ImageSets/Main`.

    Columns: `image` and `boxes`, paths relative to the folder; `boxes` is empty for an image without an annotation. Of
    a folder with the lists train, val or test, also `part`: `train`, `valid` or `test`; images of no list are left out.

    Raises:
        UserError: The folder is not of this layout, a listed image is not there, or lists overlap.
    """
    folder = path if path.is_dir() else _folder_of(path)
    images = _images(folder)
    if path.is_dir():
        lists = {name: found for name in _PARTS if (found := folder / _LISTS / f"{name}.txt").is_file()}
        names, parts = _divided(lists) if lists else (list(images), None)
    else:
        names, parts = _listed(path), None
    for name in names:
        if name not in images:
            raise UserError(
                f"{path}: the image '{name}' is listed, but not in {folder / _IMAGES}.{closest(name, images)} Put it "
                "there, or take it off the list."
            )
    data: dict[str, list[str | None]] = {
        "image": [images[name] for name in names],
        "boxes": [
            f"{_ANNOTATIONS}/{name}.xml" if (folder / _ANNOTATIONS / f"{name}.xml").is_file() else None
            for name in names
        ],
    }
    if parts is not None:
        data["part"] = list(parts)
    types = {"image": ColumnType.IMAGE, "boxes": ColumnType.TEXT, **options.columns}
    return Table.from_arrow(
        pa.table({name: pa.array(values, pa.string()) for name, values in data.items()}), str(path), folder, types
    )


def is_voc_folder(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / _IMAGES).is_dir() and (folder / _ANNOTATIONS).is_dir()


def is_list(path: Path) -> bool:
    """Whether a file is a list of images in such a folder."""
    return path.suffix == ".txt" and path.resolve().parent.parts[-2:] == _LISTS.parts


def _folder_of(path: Path) -> Path:
    if not is_list(path):
        raise UserError(
            f"{path}: the format 'voc' is a folder with {listing([_IMAGES, _ANNOTATIONS])}, or a list of images in its "
            f"{_LISTS}."
        )
    return path.resolve().parent.parent.parent


def _images(folder: Path) -> dict[str, str]:
    """The images' paths in the folder, by their names without the ending."""
    if not is_voc_folder(folder):
        raise UserError(f"{folder} is not in the layout of Pascal VOC: it needs {listing([_IMAGES, _ANNOTATIONS])}.")
    files = sorted(each.name for each in (folder / _IMAGES).iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{folder / _IMAGES} has no images. Images end in {listing(IMAGE_SUFFIXES)}.")
    return {Path(name).stem: f"{_IMAGES}/{name}" for name in files}


def _listed(path: Path) -> list[str]:
    """The names in a list; lists of single classes have a second column, -1 where the class is not in the image."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} lists no image.")
    return names


def _divided(lists: dict[str, Path]) -> tuple[list[str], list[str]]:
    """The images of several lists, each with the part that its list stands for."""
    found: dict[str, str] = {}
    for name, path in lists.items():
        for image in _listed(path):
            if found.setdefault(image, _PARTS[name]) != _PARTS[name]:
                raise UserError(
                    f"{path} lists '{image}', which is in the part '{found[image]}' already. Take it off one of the "
                    "lists."
                )
    return list(found), list(found.values())
