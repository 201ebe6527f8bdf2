"""Which reader a path needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polytask.data.readers import arrow, coco, conll, csv, image_folder, jsonl, parquet, voc
from polytask.data.readers.options import Format, ReadOptions
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".conllu": "conllu",
    ".conll": "conll",
    ".iob2": "conll",
}

_COMPRESSED = {".gz", ".bz2", ".zst"}

_READERS: dict[Format, Callable[[Path, ReadOptions, Path | None], Table]] = {
    "csv": lambda path, options, cache: csv.read(path, options, ",", cache),
    "tsv": lambda path, options, cache: csv.read(path, options, "\t", cache),
    "parquet": parquet.read,
    "jsonl": jsonl.read,
    "arrow": arrow.read,
    "image_folder": image_folder.read,
    "voc": voc.read,
    "coco": coco.read,
    "conllu": conll.read_conllu,
    "conll": conll.read_conll,
}


def read_table(path: str | Path, options: ReadOptions | None = None, cache: Path | None = None) -> Table:
    """Read a table: CSV, TSV, Parquet, JSON Lines, Arrow, a folder of images or one that `datasets` saved; or boxes.

    Boxes on images come in the formats of Pascal VOC (a folder, or a list of its images) and COCO (a JSON file), words
    with tags in those of CoNLL: CoNLL-U, or plain columns.

    CSV, JSON Lines and Parquet are converted to a memory-mapped Arrow file at the first reading, so that their rows
    need not fit in memory. Nothing is written beside the user's data.

    Args:
        path: The file or folder.
        options: How to read it; None: by its name and content.
        cache: The folder of the Arrow files; None: `$POLYTASK_CACHE`, else `polytask` in `$XDG_CACHE_HOME` or
            `~/.cache`.

    Raises:
        UserError: It is not there, or is not a table; the message says where and what is wrong.
    """
    path = Path(path).expanduser()
    options = options or ReadOptions()
    if not path.exists():
        raise _not_found(path)
    found = _format_of(path) if options.format == "auto" else options.format
    if path.is_dir() and found not in {"image_folder", "arrow", "voc"}:
        raise UserError(f"{path} is a folder, but the format '{found}' is a file.")
    if found == "image_folder" and not path.is_dir():
        raise UserError(f"{path} is a file, but the format 'image_folder' is a folder.")
    return _READERS[found](path, options, cache)


def _format_of(path: Path) -> Format:
    if path.is_dir():
        return _format_of_folder(path)
    if voc.is_list(path):
        return "voc"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix not in _COMPRESSED), "")
    if suffix not in _SUFFIXES:
        raise UserError(
            f"Cannot tell what {path} is from its name. Known: {listing(_SUFFIXES, limit=20)}, also with '.gz'. "
            "Rename it, or set `format` to 'csv', 'tsv', 'parquet', 'jsonl', 'arrow', 'coco', 'conllu' or 'conll'."
        )
    return "coco" if suffix == ".json" and coco.is_coco(path) else _SUFFIXES[suffix]


def _format_of_folder(folder: Path) -> Format:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return "arrow"
    if voc.is_voc_folder(folder):
        return "voc"
    if image_folder.is_image_folder(folder):
        return "image_folder"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    inside = f" It has {listing(names)}; name one of them." if names else " It is empty."
    raise UserError(
        f"{folder} is a folder with no images, and not a data set that Hugging Face `datasets` saved.{inside}"
    )


def _not_found(path: Path) -> UserError:
    folder = path.parent
    if not folder.is_dir():
        return UserError(f"{path} does not exist: there is no folder {folder}.")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return UserError(f"{path} does not exist.{closest(path.name, names)}")
