"""A trained model's predictions for a table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.errors import UserError, listing
from polytask.evaluation.pixel_files import file_of
from polytask.pixels import PixelValues
from polytask.row_values import map_values
from polytask.tasks.task import rows_at_once
from polytask.training.atomic import making_folder, replacing
from polytask.training.saved_model import TrainedModel
from polytask.training.sources import Part

SUFFIXES = (".parquet", ".csv")

_FILE = b"polytask.file"
"""Marks a column, in its field's metadata, whose cells are the contents of files: the ending of their names."""


@torch.no_grad()
def predictions(
    trained: TrainedModel, part: Part, *, batch_size: int = 256, workers: int = 0, device: str = "cpu"
) -> Iterator[pa.Table]:
    """Predictions batch by batch.

    Args:
        trained: The model.
        part: The rows; target columns are not needed.
        batch_size: Rows at a time, or fewer where the answers to so many would be too large.
        workers: Processes that prepare batches.
        device: Where to compute.

    Yields:
        A table with the column `row` (position in the input table, from 0), and for each task its prediction under
        the task's name and, for classes, a probability for each under `task_p_class`. What is predicted for pixels is
        the content of a file: a PNG of class numbers, or an array in NumPy's format.
    """
    model = trained.model.to(device).eval()
    if not any(task.needs_labels for task in model.tasks.values()):
        raise UserError(
            f"There is nothing to predict: no task of the run predicts anything. {listing(model.task_names)} need no "
            "labels, and are there for what they teach."
        )
    size = rows_at_once([model.tasks[name] for name in model.predicted], batch_size)
    loader = trained.preparation.loader(part.table, part.rows, batch_size=size, workers=workers, targets=False)
    for batch in loader:
        columns: dict[str, Any] = {"row": batch.rows.numpy()}
        lists: dict[str, pa.DataType] = {}
        for name, output in model(batch.to(device).inputs).items():
            decoded = model.tasks[name].decode(map_values(output, _on_cpu))
            restored = trained.preparation.targets[name].restored(decoded, batch.rows.numpy(), part.table)
            for suffix, values in restored.items():
                columns[f"{name}_{suffix}" if suffix else name] = values
            lists[name] = _LISTS[model.tasks[name].lists_of]
        yield _table(columns, lists)


_LISTS = {str: pa.list_(pa.string()), float: pa.list_(pa.float64())}


def _table(columns: Mapping[str, Any], lists: Mapping[str, pa.DataType]) -> pa.Table:
    """Columns as a table; maps become files.

    Args:
        columns: The values.
        lists: The type of a task's lists, where all of a batch may be empty.
    """
    fields, arrays = [], []
    for name, values in columns.items():
        metadata = None
        if isinstance(values, Sequence) and values and isinstance(values[0], PixelValues):
            files = [file_of(each) for each in values]
            metadata, array = {_FILE: files[0][0].encode()}, pa.array([content for _, content in files], pa.binary())
        else:
            array = pa.array(values)
            if pa.types.is_null(array.type):
                array = array.cast(pa.string())
            elif array.type == pa.list_(pa.null()):
                array = array.cast(lists[name])
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=metadata))
    return pa.table(arrays, schema=pa.schema(fields))


def _on_cpu(output: Tensor) -> Tensor:
    return output.float().cpu() if output.is_floating_point() else output.cpu()


def _without_lists(table: pa.Table) -> pa.Table:
    """A table for CSV, which has no lists: tags of words, and values of nodes, are separated by spaces."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = pc.cast(table.column(place), pa.list_(pa.string()))
            table = table.set_column(place, field.name, pc.binary_join(texts, " "))
    return table


def check_output(path: Path) -> None:
    """Refuse a predictions file that cannot be written.

    Raises:
        UserError: It exists, or its ending names no format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"'{path}': predictions are written as .parquet or .csv; end the name with one of these.")
    if path.exists():
        raise UserError(f"'{path}' exists already and is never overwritten. Choose another name with --output FILE.")
    for folder in (files_folder(path), pictures_folder(path)):
        if folder.exists():
            raise UserError(
                f"'{folder}' exists already, where files that belong to '{path.name}' would go, and is never "
                "overwritten. Choose another name with --output FILE."
            )


def files_folder(path: Path) -> Path:
    """Where predictions go that are files, such as masks, beside the table of predictions."""
    return path.with_name(f"{path.stem}_files")


def pictures_folder(path: Path) -> Path:
    """Where pictures of predictions go, beside the table of predictions."""
    return path.with_name(f"{path.stem}_pictures")


def _into_files(table: pa.Table, temporary: Path, folder: str) -> pa.Table:
    """A table whose cells have paths of files in place of their contents, which are written.

    Args:
        table: The table.
        temporary: Where to write.
        folder: What the folder will be called, beside the table.
    """
    rows = table.column("row").to_pylist()
    for place, field in enumerate(table.schema):
        suffix = (field.metadata or {}).get(_FILE)
        if suffix is None:
            continue
        (temporary / field.name).mkdir(exist_ok=True)
        names = [f"{field.name}/{row}{suffix.decode()}" for row in rows]
        for name, content in zip(names, table.column(place).to_pylist(), strict=True):
            (temporary / name).write_bytes(content)
        table = table.set_column(place, field.name, pa.array([f"{folder}/{name}" for name in names]))
    return table


def write_predictions(tables: Iterator[pa.Table], path: Path) -> int:
    """Write predictions as Parquet or CSV, by the path's ending, whole or not at all.

    What is predicted for pixels goes to files in a folder beside the table, which has their paths.

    Args:
        tables: The predictions, batch by batch.
        path: The file.

    Returns:
        The number of rows.

    Raises:
        UserError: The file exists, its ending names no format, or it cannot be written.
    """
    import pyarrow.csv
    import pyarrow.parquet

    check_output(path)
    csv = path.suffix.lower() == ".csv"
    folder = files_folder(path)
    rows, writer = 0, None
    with _undone(folder), replacing(path) as temporary, making_folder(folder) as files:
        try:
            for predicted in tables:
                table = _into_files(predicted, files, folder.name)
                table = _without_lists(table) if csv else table
                if writer is None:
                    make = pyarrow.csv.CSVWriter if csv else pyarrow.parquet.ParquetWriter
                    writer = make(str(temporary), table.schema)
                writer.write_table(table)
                rows += len(table)
        finally:
            if writer is not None:
                writer.close()
    return rows


@contextmanager
def _undone(folder: Path) -> Iterator[None]:
    """Remove a folder that was made where what it belongs to could not be written."""
    before = folder.exists()
    try:
        yield
    except BaseException:
        if not before:
            shutil.rmtree(folder, ignore_errors=True)
        raise
