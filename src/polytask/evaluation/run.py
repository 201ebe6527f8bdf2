"""A finished run, to be looked at and used."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.config import Config, DataConfig, load_config
from polytask.config.checks import target_columns
from polytask.config.data_checks import source_names
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing
from polytask.evaluation.evaluate import Evaluation, evaluate
from polytask.evaluation.predict import predictions
from polytask.training.open_table import common_reading, open_later_table, renamed
from polytask.training.run_folder import RunFolder
from polytask.training.saved_model import TrainedModel, load_model
from polytask.training.sources import Part, open_sources, whole

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

    def evaluate(
        self,
        data: str | Path | Table | None = None,
        part: str = "test",
        *,
        source: str | None = None,
        **options: Any,
    ) -> Evaluation:
        """Score the model.

        Args:
            data: A labelled table; None: a part of the run's own data.
            part: Which part of the run's own data: `test`, `valid` or `train`.
            source: Which of the run's sources `data` looks like; None: none of them, or there is but one.
            options: See `evaluate`.

        Raises:
            UserError: The data are not there, or do not have what the model needs.
        """
        if data is not None:
            opened = self.open(data, source)
            self._require_labels(opened.table, source)
            return evaluate(self.trained, opened, str(getattr(data, "source", data)), **options)
        if source is not None:
            raise UserError("A source says what a table looks like: give the table too. The run's own data need none.")
        parts = open_sources(self.config, self.folder.read_split()).parts
        if part not in parts:
            raise UserError(
                f"The run's data have no part '{part}'. They have: {listing(parts)}. Name one of these "
                "(--part), or give a table with labels (--data)."
            )
        return evaluate(self.trained, parts[part], part, **options)

    def predict(self, data: str | Path | Table, *, source: str | None = None, **options: Any) -> pd.DataFrame:
        """Predictions for a table: see `predictions`.

        Args:
            data: A table, or its path.
            source: Which of the run's sources it looks like; None: none of them, or there is but one.
            options: See `predictions`.

        Raises:
            UserError: The table cannot be read, or does not have what the model needs.
        """
        import pyarrow as pa

        table: pd.DataFrame = pa.concat_tables(
            predictions(self.trained, self.open(data, source), **options)
        ).to_pandas()
        return table

    def open(self, data: str | Path | Table, source: str | None = None) -> Part:
        """All rows of a table, read as the run's own data are.

        Args:
            data: A table, or its path.
            source: Which of the run's sources it looks like: it is read, and its columns are renamed, as that one's.
                None: it is read as all of them are, and has the names of columns that the inputs and tasks use.

        Raises:
            UserError: It cannot be read, or the run has no such source.
        """
        if source is None:
            one = isinstance(self.config.data, DataConfig)
            settings = self.config.data if one else common_reading(self.config.sources.values())
            assert isinstance(settings, DataConfig)
            table = data if isinstance(data, Table) else open_later_table(str(data), settings)
            self._require_names(table)
            return whole(table)
        settings = self._source(source)
        table = renamed(data, settings.rename) if isinstance(data, Table) else open_later_table(str(data), settings)
        return whole(self._with_own_targets(table, source))

    def _require_names(self, table: Table) -> None:
        """Say that the source is needed where a column has another meaning in one of them."""
        for name, source in self.config.sources.items() if not isinstance(self.config.data, DataConfig) else ():
            for old, new in source.rename.items():
                if table.has(old) and not table.has(new):
                    raise UserError(
                        f"{table.source} has the column '{old}', which the run's source '{name}' calls '{new}': say "
                        "which source the table looks like (--source NAME, in Python source=...). The sources: "
                        f"{listing(self.config.sources)}."
                    )

    def _source(self, name: str) -> DataConfig:
        if isinstance(self.config.data, DataConfig):
            raise UserError(f"The data of '{self.folder.root}' are one source without a name: leave the source out.")
        if name not in self.config.data:
            names = self.config.data
            raise UserError(f"The run has no source '{name}'.{closest(name, names)} Its sources: {listing(names)}.")
        return self.config.data[name]

    def _with_own_targets(self, table: Table, source: str) -> Table:
        """A table like a source's, with its targets under the names that they have in the table of all sources."""
        columns = [(column, column) for column in table.columns]
        for task, spec in self.config.tasks.items():
            named = source_names(spec)
            if named is None or source in named:
                own = self.trained.preparation.targets[task].spec.columns
                pairs = zip(own, target_columns(task, spec), strict=True)
                columns += [pair for pair in pairs if pair[1] in table.columns and pair not in columns]
        return table.arranged(columns)

    def _require_labels(self, table: Table, source: str | None) -> None:
        """Say that the source may be needed: targets that are some sources' own have other names."""
        if source is not None or isinstance(self.config.data, DataConfig):
            return
        columns = {task: target.spec.columns for task, target in self.trained.preparation.targets.items()}
        if not any(column in table.columns for own in columns.values() for column in own) and any(
            column in table.columns for task, spec in self.config.tasks.items() for column in target_columns(task, spec)
        ):
            raise UserError(
                f"{table.source} has targets that mean something else in each source of the run: say which one it "
                f"looks like (--source NAME, in Python source=...). The sources: {listing(self.config.sources)}."
            )
