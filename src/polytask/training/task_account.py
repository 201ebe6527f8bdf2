"""What a training has spent on each task: steps, samples, time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

logger = logging.getLogger("polytask")


class Spent(NamedTuple):
    """What a training has spent on a task.

    Attributes:
        steps: Steps that it took part in.
        samples: Labelled rows that it saw in them, with repetition, in all processes.
        seconds: Its part of the time that the steps took, in this process; see `TaskAccount`.
    """

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(self.steps + other.steps, self.samples + other.samples, self.seconds + other.seconds)


class TaskAccount:
    """Counts what each task takes part in, and divides the time among the tasks.

    The time of a step is the wall time from the end of the step before to its own end, and so includes waiting for its
    batches, but neither validation nor what is written between steps. It is divided among the tasks of the step in
    proportion to their labelled rows in it: tasks that share a network share its work, and what one of them costs by
    itself is not known. The device is not waited for: on a GPU a step ends for this account when its work has been
    handed over, and the work is paid for where the device is waited for later, at each look at the losses. So the
    seconds are right over many steps, and not of a single one.

    Args:
        tasks: The tasks' names, in order.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._run = {task: Spent() for task in tasks}
        self._empty_epoch()

    @property
    def started(self) -> list[str]:
        """The tasks that have taken part in any step so far."""
        return [task for task, spent in self.totals().items() if spent.steps]

    def start_epoch(self) -> None:
        """Count the epoch that begins by itself."""
        self._run = self.totals()
        self._empty_epoch()

    def _empty_epoch(self) -> None:
        self._steps = dict.fromkeys(self._run, 0)
        self._samples = dict.fromkeys(self._run, 0)
        self._seconds = dict.fromkeys(self._run, 0.0)
        self.start_clock()

    def start_clock(self) -> None:
        """What was done since the last step belongs to none."""
        self._last = time.perf_counter()

    def step_done(self, rows: Mapping[str, int]) -> None:
        """A step has ended.

        Args:
            rows: How many rows were labelled in it for each of its tasks.
        """
        now = time.perf_counter()
        each = (now - self._last) / max(1, sum(rows.values()))
        self._last = now
        for task, count in rows.items():
            self._steps[task] += 1
            self._samples[task] += count
            self._seconds[task] += each * count

    def epoch(self) -> dict[str, float]:
        """`{"task/train/steps": ..., "task/train/samples": ...}` of the epoch, for its record.

        The time is not among them: the record of a run that was resumed is that of an uninterrupted one.
        """
        return {
            f"{task}/train/{name}": counts[task]
            for task in self._run
            for name, counts in (("steps", self._steps), ("samples", self._samples))
        }

    def totals(self) -> dict[str, Spent]:
        """What was spent on each task since the training began."""
        return {
            task: before.plus(Spent(self._steps[task], self._samples[task], self._seconds[task]))
            for task, before in self._run.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, as plain values."""
        return {
            "run": {task: tuple(spent) for task, spent in self._run.items()},
            "epoch": {"steps": dict(self._steps), "samples": dict(self._samples), "seconds": dict(self._seconds)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._run = {task: Spent(*values) for task, values in state["run"].items()}
        epoch = state["epoch"]
        self._steps, self._samples, self._seconds = (dict(epoch[name]) for name in ("steps", "samples", "seconds"))
        self.start_clock()


def log_account(spent: Mapping[str, Spent]) -> None:
    """Write what was spent on each task into the log: one line where it is the same for all, else a table."""
    if len({(each.steps, each.samples) for each in spent.values()}) == 1:
        which = "The task" if len(spent) == 1 else f"Each of the {len(spent)} tasks"
        each = next(iter(spent.values()))
        logger.info("%s: %s steps, %s samples, %s s", which, *_shown(each))
        return
    rows = [("task", *Spent._fields), *((task, *_shown(each)) for task, each in spent.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(values, widths[1:], strict=True))])
        for name, *values in rows
    ]
    logger.info("What was spent on each task:\n%s", "\n".join(lines))


def _shown(spent: Spent) -> tuple[str, str, str]:
    return f"{spent.steps:,}", f"{spent.samples:,}", f"{spent.seconds:,.1f}"
