"""Folders of images: one sub-folder a class, or images with a metadata file."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from polytask.data.column_types import IMAGE_SUFFIXES
from polytask.data.readers import csv, jsonl, parquet
from polytask.data.readers.options import ReadOptions
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_METADATA = {"metadata.csv": csv, "metadata.jsonl": jsonl, "metadata.parquet": parquet}

_SPLITS = {"train", "training", "valid", "validation", "val", "dev", "test", "testing"}

_log = logging.getLogger("polytask")


def read(folder: Path, options: ReadOptions, cache: Path | None) -> Table:
    """The table of an image folder: column `image`, relative to the folder, and the columns that describe the images.

    These are the columns of `metadata.csv`, `.jsonl` or `.parquet`, whose column `file_name` becomes `image`; without
    such a file there is one, `label`: the sub-folder an image lies in, directly or deeper; or none, where no image lies
    in a sub-folder.

    Raises:
        UserError: The folder has no images, no classes or several splits, or the metadata do not fit the images.
    """
    metadata = next((folder / name for name in _METADATA if (folder / name).is_file()), None)
    if metadata is not None:
        return _described(folder, metadata, options, cache)
    images = list(_images(folder))
    _refuse_splits(folder)
    if not images:
        raise UserError(f"{folder} has no images. Images end in {listing(IMAGE_SUFFIXES)}.")
    loose = next((image for image in images if "/" not in image), None)
    if loose is not None and not any("/" in image for image in images):
        # Nothing is known of them: images to make predictions for.
        return Table.from_arrow(pa.table({"image": images}), str(folder), folder, options.columns)
    if loose is not None:
        raise UserError(
            f"{folder} has images in sub-folders and others in none, such as {loose}, and no metadata file. "
            f"Put each class's images in a sub-folder, or write {folder / 'metadata.csv'} with a column 'file_name'."
        )
    labels = [image.partition("/")[0] for image in images]
    _log_classes(folder, labels)
    data = pa.table({"image": images, "label": pa.array(labels).dictionary_encode()})
    return Table.from_arrow(data, str(folder), folder, options.columns)


def is_image_folder(folder: Path) -> bool:
    """Whether the folder has an image somewhere, or a metadata file."""
    return any((folder / name).is_file() for name in _METADATA) or next(_images(folder), None) is not None


def _images(folder: Path) -> Iterator[str]:
    """The images in the folder and below, as relative paths with `/`, sorted; hidden files and folders are not seen."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "__")) and not _leads_back(Path(place) / name)
        )
        inside = Path(place).relative_to(folder)
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield (inside / name).as_posix()


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in: it would be walked for ever."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse_splits(folder: Path) -> None:
    parts = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not parts or not all(name.lower() in _SPLITS for name in parts):
        return
    # A class may be called `train`: then its images lie in it, and not in sub-folders of it.
    if any(is_image_folder(folder / name) and not _has_own_images(folder / name) for name in parts):
        raise UserError(f"{folder} holds several splits: {listing(parts)}. Name one of them: {folder / parts[0]}.")


def _has_own_images(folder: Path) -> bool:
    described = any((folder / name).is_file() for name in _METADATA)
    return not described and any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in folder.iterdir())


def _log_classes(folder: Path, labels: list[str]) -> None:
    counts = Counter(labels)
    empty = [
        entry.name
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name not in counts
    ]
    if empty:
        _log.warning("%s: sub-folders without images are left out: %s", folder, listing(empty))
    _log.info("%s: %d images of %d classes", folder, len(labels), len(counts))


def _described(folder: Path, metadata: Path, options: ReadOptions, cache: Path | None) -> Table:
    types = {("file_name" if name == "image" else name): kind for name, kind in options.columns.items()}
    options = replace(options, format="auto", columns=types)
    reader = _METADATA[metadata.name]
    if reader is csv:
        table = csv.read(metadata, options, ",", cache)
    else:
        table = (jsonl if reader is jsonl else parquet).read(metadata, options, cache)
    if "file_name" not in table.columns:
        raise UserError(
            f"{metadata} has no column 'file_name', which names each row's image.{closest('file_name', table.columns)} "
            f"Its columns: {listing(table.columns)}."
        )
    _check_images(table, folder)
    return table.renamed({"file_name": "image"})


def _check_images(table: Table, folder: Path) -> None:
    """Make sure that every row's image is there."""
    there = set(_images(folder))
    for rows, part in table.batches(["file_name"]):
        for row, name in zip(rows, part.column(0).to_pylist(), strict=True):
            if name is None:
                raise UserError(f"{table.locate(int(row))}: 'file_name' is missing.")
            if name not in there and not (folder / name).is_file():
                raise UserError(f"{table.locate(int(row))}: there is no file {folder / name}.{closest(name, there)}")
