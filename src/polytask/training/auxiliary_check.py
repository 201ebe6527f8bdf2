"""Whether auxiliary tasks helped: the same training without them, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polytask.config import Config
from polytask.config.checks import main_tasks
from polytask.config.without_auxiliary import require_auxiliary, without_auxiliary
from polytask.errors import UserError, listing
from polytask.tasks.metrics import direction
from polytask.training.job import make_job
from polytask.training.run_folder import RunFolder, json_number
from polytask.training.train import train


@dataclass(frozen=True)
class Comparison:
    """A main task's metric with the auxiliary tasks and without them, on validation data.

    Attributes:
        task: The task.
        metric: Its main metric.
        with_auxiliary: Its value in the best epoch, for each seed; NaN where it is not defined.
        without: The same for the training without auxiliary tasks.
    """

    task: str
    metric: str
    with_auxiliary: tuple[float, ...]
    without: tuple[float, ...]

    @property
    def helped(self) -> tuple[float, ...]:
        """For each seed, by how much it is better with the auxiliary tasks; negative: worse."""
        sign = 1 if direction(self.metric) == "max" else -1
        return tuple(sign * (one - other) for one, other in zip(self.with_auxiliary, self.without, strict=True))

    @property
    def error(self) -> float:
        """The standard error of the mean of `helped`; NaN with one seed."""
        return statistics.stdev(self.helped) / math.sqrt(len(self.helped)) if len(self.helped) > 1 else math.nan

    @property
    def verdict(self) -> str:
        """What these seeds say."""
        mean = statistics.fmean(self.helped)
        if not math.isfinite(mean):
            return "not defined"
        if len(self.helped) == 1:
            return "one seed: may be chance"
        if abs(mean) <= 2 * self.error or mean == 0:
            return "no difference beyond chance"
        return "helped" if mean > 0 else "hurt"


@dataclass(frozen=True)
class AuxiliaryCheck:
    """What came out.

    Attributes:
        auxiliary: The auxiliary tasks.
        comparisons: One for each main task.
        seeds: The seeds.
        steps: Steps of the first training with the auxiliary tasks, and of the first without.
        same_rows: Whether both see the same rows in each step: not where some have labels of auxiliary tasks only.
        notes: What the reader has to know.
    """

    auxiliary: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, int]
    same_rows: bool
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for auxiliary.json."""
        tasks = {
            each.task: {
                "metric": each.metric,
                "with": [json_number(value) for value in each.with_auxiliary],
                "without": [json_number(value) for value in each.without],
                "helped": [json_number(value) for value in each.helped],
                "mean_helped": json_number(statistics.fmean(each.helped)),
                "standard_error": json_number(each.error),
                "verdict": each.verdict,
            }
            for each in self.comparisons
        }
        plain = asdict(replace(self, comparisons=()))
        return {**{key: value for key, value in plain.items() if key != "comparisons"}, "tasks": tasks}


def check_auxiliary(config: Config, folder: RunFolder, seeds: int = 1) -> AuxiliaryCheck:
    """Train without the auxiliary tasks what was trained with them, and write `auxiliary.json`.

    Each pair has the seed, the number of steps, and the order of the main tasks' rows in common. The runs lie in the
    folder's `auxiliary`; those that are there are not trained again.

    Args:
        config: The configuration of the finished run.
        folder: The finished run: it is the first of those with auxiliary tasks.
        seeds: How many seeds to compare; the first is the run's.

    Raises:
        UserError: There is no auxiliary task, or no validation part, or a training fails.
    """
    left_out = require_auxiliary(config)
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}, but must be at least 1.")
    job = make_job(config, folder.read_split())
    if job.valid is None:
        raise UserError("Auxiliary tasks are checked on validation data, but there are none. Set data.split.valid.")
    encoded, main = job.train.loader.encoded, main_tasks(config.tasks)
    of_main, of_any = (
        np.logical_or.reduce([encoded.labelled(task) for task in tasks]) for tasks in (main, config.tasks)
    )
    same_rows = bool((of_main == of_any).all()) and config.schedule.type == "joint"
    steps = job.train.plan.steps
    sources = labelling(folder.read_summary(), main)
    plain = without_auxiliary(config, steps, sources)
    numbers = tuple(config.training.seed + offset for offset in range(seeds))
    pairs = [
        (
            folder if seed == numbers[0] else _run(config, seed, folder.root / "auxiliary" / f"with-seed-{seed}"),
            _run(plain, seed, folder.root / "auxiliary" / f"without-seed-{seed}"),
        )
        for seed in numbers
    ]
    values = [(_main_values(one, main), _main_values(other, main)) for one, other in pairs]
    check = AuxiliaryCheck(
        auxiliary=tuple(left_out),
        comparisons=tuple(
            Comparison(
                task,
                job.model.tasks[task].metric,
                tuple(one[task] for one, _ in values),
                tuple(other[task] for _, other in values),
            )
            for task in main
        ),
        seeds=numbers,
        steps=(pairs[0][0].read_summary()["steps"], pairs[0][1].read_summary()["steps"]),
        same_rows=same_rows,
        notes=tuple(_notes(config, plain, seeds, same_rows)),
    )
    folder.write_auxiliary(check.as_json())
    return check


def _run(config: Config, seed: int, root: Path) -> RunFolder:
    """A finished training, made unless it is there."""
    if (root / "summary.json").is_file() and RunFolder(root).read_summary().get("status") == "finished":
        return RunFolder(root)
    settings = config.training.model_copy(update={"seed": seed})
    return train(config.model_copy(update={"training": settings}), root)


def _main_values(folder: RunFolder, tasks: Sequence[str]) -> dict[str, float]:
    """The main tasks' main metrics in the best epoch."""
    scored = folder.read_summary()["tasks"]
    found = {}
    for task in tasks:
        value = scored[task]["valid"].get(scored[task]["metric"])
        found[task] = math.nan if value is None else float(value)
    return found


def labelling(summary: Mapping[str, Any], tasks: Sequence[str]) -> list[str] | None:
    """The sources that label some tasks, from the summary of a run; None where there is one."""
    counts = [summary["labels"][task].get("by_source") for task in tasks]
    if not all(counts):
        return None
    return [source for source in counts[0] if any(count[source] for count in counts)]


def _notes(config: Config, plain: Config, seeds: int, same_rows: bool) -> list[str]:
    notes = []
    dropped = [name for name in config.sources if name not in plain.sources]
    if dropped:
        notes.append(
            f"Without auxiliary tasks the rows of {listing(dropped)} are not there, so that what is learned from the "
            "training part before the training (vocabulary, means) is learned from fewer rows as well."
        )
    if seeds == 1:
        notes.append(
            "One seed shows what happened once: another start or another order of the rows can move a metric as far. "
            "It cannot tell whether the auxiliary tasks help; repeat it with --seeds 5."
        )
    else:
        notes.append(
            f"{seeds} seeds on one split: a difference is called so where the mean is more than two standard errors "
            "from 0. It says nothing about other splits of the data, and with few seeds the error itself is rough."
        )
    if not same_rows:
        notes.append(
            "Some steps with auxiliary tasks hold rows without a label of a main task, or are theirs alone: without "
            "them, the same number of steps sees more labels of the main tasks."
        )
    if "main" in config.balancing.parameters:
        notes.append(
            f"Without auxiliary tasks there is nothing for '{config.balancing.type}' to weigh: the losses are added."
        )
    notes.append("Both trainings chose their best epoch on the validation data that they are compared on.")
    return notes
