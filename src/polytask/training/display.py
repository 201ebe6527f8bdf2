"""What the user sees of a training: tables before, one bar and one table during."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from polytask.config.training_schema import MEAN_GAIN
from polytask.data.combined import CombinedTable
from polytask.data.summary import TargetRecord
from polytask.data.table import Table
from polytask.errors import listing
from polytask.tasks import Task
from polytask.training.costs import Cost, Costs
from polytask.training.job import Job
from polytask.training.label_counts import label_table
from polytask.training.module import MultiTaskModule
from polytask.training.selection import gain
from polytask.training.step_log import StepLog

if TYPE_CHECKING:
    from polytask.training.auxiliary_check import AuxiliaryCheck


class Display:
    """Shows a training on a console.

    On a terminal one bar and one table are kept up to date; elsewhere, and when `quiet`, each epoch is a plain line.

    Args:
        console: Where to write.
        quiet: Only plain lines, and no tables before the training.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self._quiet = quiet
        self._board: _Board | None = None
        self._module: MultiTaskModule | None = None
        self._epochs = 0

    def job(self, job: Job) -> None:
        """What is about to be trained: column types, rows and labels per task and part, the network's size."""
        if self._quiet:
            return
        tables = {part.table.source: part.table for part in job.sources.parts.values()}
        for table in tables.values():
            self.console.print(columns_line(table), highlight=False)
        self.console.print(target_table(job.summarise_targets()))
        if len(job.preparation.targets) > 1 or isinstance(job.sources.parts["train"].table, CombinedTable):
            self.console.print(label_table(job.labels), highlight=False)
        sizes = job.count_parameters()
        names = job.model.task_names
        shared = f", {sizes['shared']:,} of them shared by the {len(names)} tasks" if len(names) > 1 else ", one task"
        self.console.print(f"Model: {sizes['all']:,} parameters{shared}", highlight=False)

    def structure(self, job: Job) -> None:
        """The network's parts with who shares them, and what it costs beside a network for each task."""
        self.console.print(job.model.describe())
        self.console.print(cost_table(job.count_costs()))

    def callback(self) -> Callback:
        """What tells this display how far the training is."""
        return _Watcher(self)

    def start(self, module: MultiTaskModule, epochs: int) -> None:
        """The training begins, or goes on."""
        self._module = module
        if self.console.is_terminal and not self._quiet:
            self._board = _Board(self.console, module, epochs)
        else:
            self._epochs = epochs

    def advance(self) -> None:
        """One more step is done."""
        if self._board is not None:
            self._board.advance()

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        """See `EpochSink.epoch_done`."""
        if self._board is not None:
            self._board.epoch_done(record, improved)
        elif self._module is not None:
            self.console.print(
                plain_line(self._module, record, self._epochs, improved), highlight=False, soft_wrap=True
            )

    def stop(self) -> None:
        """The training has ended: the last state stays on the screen."""
        if self._board is not None:
            self._board.stop()
            self._board = None


def columns_line(table: Table) -> str:
    """A table's size, and its columns by the type that they were taken for."""
    by_type: dict[str, list[str]] = {}
    for column, kind in table.types.items():
        by_type.setdefault(kind, []).append(column)
    groups = (f"{kind} ({len(names)}): {_some(names)}" for kind, names in by_type.items())
    return f"{table.source}: {len(table):,} rows\n" + "\n".join(f"  {group}" for group in groups)


def _some(names: Sequence[str], limit: int = 12) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def target_table(records: Sequence[TargetRecord]) -> RichTable:
    """Rows, labels and balance per task and part."""
    shown = RichTable(title="Targets", title_justify="left", header_style="bold")
    for column in ("task", "part", "rows", "labelled", "missing", "values"):
        shown.add_column(column, justify="right" if column in ("rows", "labelled", "missing") else "left")
    previous = None
    for record in records:
        if previous not in (None, record.task):
            shown.add_section()
        name = record.task if record.task != previous else ""
        numbers = (f"{record.rows:,}", f"{record.labelled:,}", f"{record.missing:,}")
        shown.add_row(name, record.part, *numbers, record.statistics)
        previous = record.task
    return shown


def cost_table(costs: Costs) -> RichTable:
    """Parameters and multiply-adds of each task, of all tasks together, and of separate networks."""
    shown = RichTable(title="Cost of a prediction", title_justify="left", header_style="bold")
    shown.add_column("")
    for column in ("parameters", "shared", "own", "multiply-adds"):
        shown.add_column(column, justify="right")

    def row(name: str, cost: Cost) -> None:
        shown.add_row(name, *(f"{n:,}" for n in (cost.parameters, cost.shared, cost.own, cost.multiply_adds)))

    for task, cost in costs.tasks.items():
        row(task, cost)
    shown.add_section()
    count = len(costs.predicted) or len(costs.tasks)
    every = count == len(costs.tasks)
    row("all tasks in one pass" if every else f"{listing(costs.predicted)} in one pass", costs.together)
    row(f"{count} separate network{'s' * (count > 1)}", costs.separate)
    shown.caption = f"Beside separate networks: {costs.saving}."
    shown.caption_justify = "left"
    return shown


def auxiliary_table(check: AuxiliaryCheck) -> RichTable:
    """The main tasks with and without the auxiliary ones."""
    seeds = f"{len(check.seeds)} seed{'s' * (len(check.seeds) > 1)}"
    shown = RichTable(
        title=f"With and without {', '.join(check.auxiliary)} ({seeds})", title_justify="left", header_style="bold"
    )
    for column in ("task", "metric", "with", "without", "better by", "verdict"):
        shown.add_column(column, justify="left" if column in ("task", "metric", "verdict") else "right")
    for each in check.comparisons:
        better = number(fmean(each.helped)) + (f" ± {number(each.error)}" if len(each.helped) > 1 else "")
        values = (number(fmean(values)) for values in (each.with_auxiliary, each.without))
        shown.add_row(each.task, each.metric, *values, better, each.verdict)
    return shown


def plain_line(module: MultiTaskModule, record: Mapping[str, float], epochs: int, improved: bool) -> str:
    """One epoch in one line."""
    parts = []
    for name, task in module.model.tasks.items():
        mark = " (auxiliary)" if task.auxiliary else ""
        words = [f"{name}{mark}: loss {number(record.get(f'{name}/train/loss'))}"]
        value = record.get(f"{name}/valid/{task.metric}")
        if value is not None:
            words.append(f"{task.metric} {number(value)}")
        parts.append(", ".join(words))
    if "valid/mean_gain" in record:
        parts.append(f"mean gain {number(record['valid/mean_gain'])}")
    best = " (best)" if improved else ""
    return f"epoch {int(record['epoch'])}/{epochs}  " + " | ".join(parts) + best


def number(value: float | None) -> str:
    """Four significant digits; a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}"


class _Board:
    """The bar and the table of a training on a terminal."""

    def __init__(self, console: Console, module: MultiTaskModule, epochs: int) -> None:
        self._module = module
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        done = 0 if module.plan is None else module.plan.done
        self._bar = self._progress.add_task("epoch", total=module.total_steps, completed=module.steps)
        # A run that goes on in the middle of an epoch has seen losses in it.
        seen = module.step_log.epoch_means() if done else {}
        self._record: Mapping[str, float] = {**module.epochs.last_record, **seen}
        self._best = module.epochs.best_record
        self._live = Live(self._render(), console=console, refresh_per_second=4)
        self._live.start()
        module.step_log.listener = self._losses

    def advance(self) -> None:
        epoch = self._module.current_epoch
        self._progress.update(self._bar, completed=self._module.steps, description=f"epoch {epoch + 1}/{self._epochs}")

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        self._record = record
        if improved:
            self._best = record
        self._live.update(self._render())

    def stop(self) -> None:
        self._module.step_log.listener = None
        self._live.update(self._render(), refresh=True)
        self._live.stop()

    def _losses(self, log: StepLog) -> None:
        self._record = {**self._record, **log.epoch_means()}
        self._live.update(self._render())

    def _render(self) -> Group:
        table = RichTable(header_style="bold")
        for column in ("task", "loss", "weight", "metric", "valid", "baseline", "best", "gain"):
            table.add_column(column, justify="left" if column in ("task", "metric") else "right")
        for name, task in self._module.model.tasks.items():
            table.add_row(*self._row(name, task))
        return Group(self._progress, table, Text(self._caption(), style="dim"))

    def _row(self, name: str, task: Task) -> list[str]:
        key = f"{name}/valid/{task.metric}"
        scores = {name: {task.metric: self._best.get(key, math.nan)}}
        baseline = self._module.validation.baseline.get(name, {}).get(task.metric)
        return [
            f"{name} (auxiliary)" if task.auxiliary else name,
            number(self._record.get(f"{name}/train/loss")),
            number(self._record.get(f"{name}/train/weight")),
            task.metric,
            number(self._record.get(key)),
            number(baseline),
            number(self._best.get(key)),
            number(gain(task, scores, self._module.validation.baseline)),
        ]

    def _caption(self) -> str:
        best = self._module.epochs.best
        if best.epoch < 0 or not self._module.validation.baseline:
            return "gain: share of the baseline's error that the model removes; the baseline predicts a constant"
        criterion = "mean gain" if best.criterion == MEAN_GAIN else best.criterion
        return f"best epoch so far: {best.epoch + 1}, by {criterion} {number(best.value)} on validation data"


class _Watcher(Callback):
    """Passes Lightning's progress on to a display."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        self._display.start(pl_module, int(trainer.max_epochs or 0))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._display.advance()
