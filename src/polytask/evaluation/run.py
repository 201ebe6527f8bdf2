"""A finished run, to be looked at and used."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.config import Config, load_config
from polytask.data.table import Table
from polytask.errors import UserError, listing
from polytask.evaluation.evaluate import Evaluation, evaluate
from polytask.evaluation.predict import predictions
from polytask.training.run_folder import RunFolder
from polytask.training.saved_model import TrainedModel, load_model
from polytask.training.sources import Part, open_later_table, open_sources, whole

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run folder as an object.

    Args:
        root: The run folder.

    Raises:
        UserError: It is not a run.
    """

    def __init__(self, root: str | Path) -> None:
        self.folder = RunFolder.open(Path(root))

    @cached_property
    def config(self) -> Config:
        """The complete configuration."""
        return load_config(self.folder.config)

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json says."""
        return self.folder.read_summary()

    @property
    def metrics(self) -> pd.DataFrame:
        """metrics.csv: one row an epoch, one column a `task/split/metric`."""
        import pandas as pd

        if not self.folder.metrics.is_file():
            raise UserError(f"'{self.folder.root}' has no metrics yet: its first epoch is not complete.")
        return pd.read_csv(self.folder.metrics)

    @cached_property
    def trained(self) -> TrainedModel:
        """The best epoch's model, in evaluation mode on the CPU."""
        return load_model(self.folder.model)

    def evaluate(self, data: str | Path | Table | None = None, part: str = "test", **options: Any) -> Evaluation:
        """Score the model.

        Args:
            data: A labelled table; None: a part of the run's own data.
            part: Which part of the run's own data: `test`, `valid` or `train`.
            options: See `evaluate`.

        Raises:
            UserError: The data are not there, or do not have what the model needs.
        """
        if data is not None:
            return evaluate(self.trained, self.open(data), str(getattr(data, "source", data)), **options)
        parts = open_sources(self.config.data, self.folder.read_split()).parts
        if part not in parts:
            raise UserError(f"The run's data have no part '{part}'. They have: {listing(parts)}.")
        return evaluate(self.trained, parts[part], part, **options)

    def predict(self, data: str | Path | Table, **options: Any) -> pd.DataFrame:
        """Predictions for a table: see `predictions`.

        Args:
            data: A table, or its path.
            options: See `predictions`.

        Raises:
            UserError: The table cannot be read, or does not have what the model needs.
        """
        import pyarrow as pa

        table: pd.DataFrame = pa.concat_tables(predictions(self.trained, self.open(data), **options)).to_pandas()
        return table

    def open(self, data: str | Path | Table) -> Part:
        """All rows of a table, read as the run's own data are."""
        table = data if isinstance(data, Table) else open_later_table(str(data), self.config.data)
        return whole(table)
