"""What it costs to decide which rows a step draws, for 100 tasks: milliseconds a step, reading and training left out.

An epoch's plan is made and all its batches are asked for, as the loader does; the time is that of the whole epoch, with
the shuffling of each pass, over its steps: CPU time of one thread, which waits for nothing. The kinds of schedule take
turns, and medians are given.

    python benchmarks/sampler.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from polytask.data.encoded_rows import EncodedRows
from polytask.data.samplers import ClassBalanced, Sampler, Shuffled
from polytask.schedules import Alternating, EpochReport, Joint, Schedule
from polytask.training.plan import Plan

TASKS = 100
BATCH = 32
STEPS = 640
WARM_UP = 2
AIM = 0.2


class Labels(EncodedRows):
    """Rows of which only this is known: which task each is labelled for, and its class."""

    def __init__(self, rows: int) -> None:
        self.rows = np.arange(TASKS * rows)
        self._own = rows

    def labelled(self, task: str) -> np.ndarray:
        return self.rows // self._own == int(task[1:])

    def classes(self, task: str) -> np.ndarray:
        return self.rows % 10


def epoch_of(schedule: Callable[[], Schedule], rows: int, sampler: Sampler) -> Callable[[], None]:
    tasks = tuple(f"t{number}" for number in range(TASKS))
    plan = Plan(schedule(), Labels(rows), tasks, batch_size=BATCH, sampler=sampler, length=STEPS)

    def epoch() -> None:
        for _ in plan:
            pass
        plan.epoch_end(EpochReport())

    return epoch


def measure(rounds: int) -> list[dict[str, object]]:
    schedules: dict[str, Callable[[], Schedule]] = {
        "joint": Joint,
        "alternating, in turn": Alternating,
        "alternating, square root": partial(Alternating, order="square_root"),
        "joint, draw: tasks": partial(Joint, draw="tasks"),
    }
    samplers: dict[str, Sampler] = {"shuffled": Shuffled(), "class_balanced": ClassBalanced()}
    made = {
        (schedule, sampler, rows): epoch_of(schedules[schedule], rows, samplers[sampler])
        for rows in (50, 1000, 10_000)
        for schedule in schedules
        for sampler in samplers
        if not (schedule == "joint" and sampler == "class_balanced")
    }
    seconds: dict[tuple[str, str, int], list[float]] = {case: [] for case in made}
    for turn in range(WARM_UP + rounds):
        for case, epoch in made.items():
            start = time.process_time()
            epoch()
            if turn >= WARM_UP:
                seconds[case].append(time.process_time() - start)
    return [
        {
            "schedule": schedule,
            "sampler": sampler,
            "rows of a task": rows,
            "ms a step": round(1000 * statistics.median(seconds[schedule, sampler, rows]) / STEPS, 4),
        }
        for schedule, sampler, rows in made
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.rounds)
    print(f"{TASKS} tasks, batches of {BATCH} rows; the aim is {AIM} ms a step")
    for row in found:
        case = f"{row['rows of a task']:>6} rows  {row['schedule']:<26}{row['sampler']:<16}"
        print(f"{case}{row['ms a step']:.4f} ms a step")
    if options.json:
        options.json.write_text(
            json.dumps({"tasks": TASKS, "batch": BATCH, "aim ms": AIM, "rows": found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
