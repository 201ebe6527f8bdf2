"""A trained model's predictions for a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch

from polytask.errors import UserError
from polytask.training.atomic import replacing
from polytask.training.saved_model import TrainedModel
from polytask.training.sources import Part

SUFFIXES = (".parquet", ".csv")


@torch.no_grad()
def predictions(
    trained: TrainedModel, part: Part, *, batch_size: int = 256, workers: int = 0, device: str = "cpu"
) -> Iterator[pa.Table]:
    """Predictions batch by batch.

    Args:
        trained: The model.
        part: The rows; target columns are not needed.
        batch_size: Rows at a time.
        workers: Processes that prepare batches.
        device: Where to compute.

    Yields:
        A table with the column `row` (position in the input table, from 0), and for each task its prediction under
        the task's name and, for classes, a probability for each under `task_p_class`.
    """
    model = trained.model.to(device).eval()
    loader = trained.preparation.loader(part.table, part.rows, batch_size=batch_size, workers=workers, targets=False)
    for batch in loader:
        columns = {"row": pa.array(batch.rows.numpy())}
        for name, output in model(batch.to(device).inputs).items():
            for suffix, values in model.tasks[name].decode(output.float().cpu()).items():
                columns[f"{name}_{suffix}" if suffix else name] = pa.array(values)
        yield pa.table(columns)


def check_output(path: Path) -> None:
    """Refuse a predictions file that cannot be written.

    Raises:
        UserError: It exists, or its ending names no format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"'{path}': predictions are written as .parquet or .csv; end the name with one of these.")
    if path.exists():
        raise UserError(f"'{path}' exists already and is never overwritten. Choose another name with --output FILE.")


def write_predictions(tables: Iterator[pa.Table], path: Path) -> int:
    """Write predictions as Parquet or CSV, by the path's ending, whole or not at all.

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
    rows, writer = 0, None
    with replacing(path) as temporary:
        try:
            for table in tables:
                if writer is None:
                    make = pyarrow.csv.CSVWriter if csv else pyarrow.parquet.ParquetWriter
                    writer = make(str(temporary), table.schema)
                writer.write_table(table)
                rows += len(table)
        finally:
            if writer is not None:
                writer.close()
    return rows
