"""What balancing costs over a plain step on the sum of the losses, in time and memory, with torchjd for comparison.

A step is forward, backward and `zero_grad`, without an optimiser. Everything runs in one process, on one CPU thread or
one GPU, in float32; the variants take turns, and each figure is a ratio of medians over the plain step of the same run.
Each variant has a model of its own, made from the same seed.

The floors are those of exact methods whose tasks share all samples: `(2 + K) / 3` where no task's weight gradients are
needed (a forward pass, K input gradients, one weight gradient), `(1 + 2 K) / 3` where all are. Memory is the peak of
what a step has allocated on top of the parameters: activations, gradients, and what a balancer keeps between steps.

    python benchmarks/balancing.py [--problems mlp resnet-10] [--rounds N] [--quick] [--no-peer] [--device cuda]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from balancing_peers import Prepare, inverse_norms, peers
from balancing_problems import Problem, Workload, problems
from interleave import interleaved
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from polytask import balancing

EVERY = 10
FRACTION = 0.25
FEWEST_ROUNDS = 3
MOST_STEPS = 10
TURN_SECONDS = 0.05
SLOW_SECONDS = 2.0


class InverseNorms(balancing.GramianBalancer):
    """Weights that cost nothing to find: what is left is the cost of the Gramian."""

    paper = "none"
    year = 2026

    def weights(self, gramian: Tensor) -> Tensor:
        return inverse_norms(gramian)


@dataclass(frozen=True)
class Mode:
    """A way to make a step.

    Attributes:
        name: What the table calls it.
        prepare: Makes the step for a model; raises where there is no such thing.
        steps: How many steps belong together.
        checked: Whether it weighs by the inverse norms of the exact gradients, so that its update can be checked.
    """

    name: str
    prepare: Prepare
    steps: int = 1
    checked: bool = False


@dataclass
class Row:
    """What was found about a mode on a problem.

    Attributes:
        ratio: Over the plain step.
        target: What the ratio is to be at most.
        peak_ratio: The peak over that of the plain step.
        peak_target: What it is to be at most: that of the peer's fastest setting.
        error: The relative difference between the update and one made of K ordinary backward passes.
        note: Why there are no figures.
    """

    problem: str
    tasks: int
    mode: str
    milliseconds: float | None = None
    ratio: float | None = None
    target: float | None = None
    ghost_floor: float | None = None
    direct_floor: float | None = None
    peak_mib: float | None = None
    peak_ratio: float | None = None
    peak_target: float | None = None
    error: float | None = None
    rounds: int = 0
    note: str = ""


def plain(workload: Workload) -> Callable[[], object]:
    return lambda: torch.stack(list(workload.forward()[1].values())).sum().backward()


def ours(method: str | type[balancing.Balancer], **options: Any) -> Prepare:
    def prepare(workload: Workload) -> Callable[[], object]:
        balancer = balancing.create(method, **options) if isinstance(method, str) else method(**options)

        def step() -> None:
            _, losses = workload.forward()
            fraction = balancer.batch_fraction
            probe = workload.probe(fraction) if fraction < 1 else None
            balancer.backward(losses, samples=workload.samples, probe=probe)

        return step

    return prepare


def modes(problem: Problem, with_peer: bool) -> list[Mode]:
    """The plain step, then ours, then the peer's."""
    method = "upgrad" if "upgrad" in balancing.names() else InverseNorms
    found = [
        Mode("plain", plain),
        Mode("equal", ours("equal")),
        Mode("exact", ours(method)),
        Mode("exact, no solver", ours(InverseNorms), checked=True),
        Mode("update=backward", ours(method, update="backward")),
        Mode(f"every={EVERY}", ours(method, every=EVERY), steps=EVERY),
        Mode("on=features", ours(method, on="features")),
        Mode("on=last", ours(method, on="last")),
        Mode(f"batch_fraction={FRACTION}", ours(method, batch_fraction=FRACTION)),
        Mode("matrix_free", ours("mgda" if "mgda" in balancing.names() else InverseNorms, matrix_free=True)),
    ]
    if with_peer:
        found += [Mode(name, step, checked="UPGrad" not in name) for name, step in peers(problem).items()]
    return found


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that was allocated at once during some work, of what it allocates itself."""
    if device.type == "cuda":
        settle(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        settle(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = list(recorded.profiler.kineto_results.experimental_event_tree())
    changes = []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    live: dict[int, int] = {}
    now = most = 0
    # The profiler's own total mixes in what was allocated in earlier sessions, hence the sum here.
    for _, address, size in sorted(changes, key=lambda change: change[0]):
        if size > 0:
            live[address] = size
            now += size
        else:
            now -= live.pop(address, 0)
        most = max(most, now)
    return most


def reference(workload: Workload) -> Tensor:
    """The update of the trunk with weights that are the inverse norms, by K ordinary backward passes."""
    _, losses = workload.forward()
    parameters = list(workload.trunk.parameters())
    update = torch.zeros(sum(parameter.numel() for parameter in parameters), device=workload.inputs.device)
    for loss in losses.values():
        found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        gradient = torch.cat([each.reshape(-1) for each in found])
        update += gradient / gradient.double().norm()
    return update


class Variant:
    """A mode on a problem.

    Attributes:
        turn_seconds: About how long a turn takes.
        seconds: What a step took, turn by turn.
    """

    def __init__(self, mode: Mode, problem: Problem, device: torch.device) -> None:
        self.mode = mode
        self.turn_seconds = 0.0
        self.seconds: list[float] = []
        self._device = device
        self._workload = Workload(problem, device)
        self._step = mode.prepare(self._workload)
        self._steps = mode.steps

    def try_out(self, row: Row, wanted: Tensor) -> None:
        """Take the first steps: what memory they take, whether they are right, and about how long they take."""
        times: list[float] = []

        def steps() -> None:
            times.append(self._timed())
            # A second step meets what the first one left; it is not worth minutes.
            if times[0] < SLOW_SECONDS:
                self._workload.zero_grad()
                times.append(self._timed())

        row.peak_mib = peak_bytes(steps, self._device) / 2**20
        if self.mode.checked:
            found = torch.cat([parameter.grad.reshape(-1) for parameter in self._workload.trunk.parameters()])
            row.error = float((found - wanted).norm() / wanted.norm())
        self._workload.zero_grad()
        if self.mode.steps > 1:
            self.turn_seconds = times[0] + (self.mode.steps - 1) * times[-1]
        else:
            self._steps = max(1, min(MOST_STEPS, round(TURN_SECONDS / times[-1])))
            self.turn_seconds = self._steps * times[-1]

    def turn(self) -> None:
        """Some steps, finished: several where they are short, so that the caches are as in training."""
        for _ in range(self._steps):
            self._step()
            self._workload.zero_grad()
        settle(self._device)

    def took(self, seconds: float) -> None:
        """Note how long a turn took."""
        self.seconds.append(seconds / self._steps)

    def _timed(self) -> float:
        start = time.perf_counter()
        self._step()
        settle(self._device)
        return time.perf_counter() - start


def tried_out(
    candidates: list[Mode], problem: Problem, device: torch.device
) -> tuple[list[Row], list[tuple[Variant, Row]]]:
    """A row for each mode, and those that work; a mode that fails is no reason to lose the others' figures."""
    wanted = reference(Workload(problem, device))
    rows, ready = [], []
    for mode in candidates:
        row = Row(problem.name, problem.tasks, mode.name)
        rows.append(row)
        try:
            variant = Variant(mode, problem, device)
            variant.try_out(row, wanted)
            ready.append((variant, row))
        except Exception as error:
            lines = str(error).strip().splitlines()
            row.note = f"{type(error).__name__}: {lines[0] if lines else ''}"
        gc.collect()
    return rows, ready


def measure(problem: Problem, device: torch.device, rounds: int, seconds: float, with_peer: bool) -> list[Row]:
    """All modes on a problem; the turns take about so many seconds, unless single steps take many."""
    rows, ready = tried_out(modes(problem, with_peer), problem, device)
    strides = {}
    for variant, row in ready:
        fewest = 1 if variant.turn_seconds > SLOW_SECONDS else FEWEST_ROUNDS
        affordable = max(fewest, int(seconds / len(ready) / variant.turn_seconds))
        strides[row.mode] = math.ceil(rounds / affordable)
    for turn in range(rounds):
        part = {row.mode: variant for variant, row in ready if turn % strides[row.mode] == 0}
        spent = interleaved({name: variant.turn for name, variant in part.items()}, rounds=1, warm_up=0)
        for name, variant in part.items():
            variant.took(spent[name])
    for variant, row in ready:
        row.milliseconds = 1000 * statistics.median(variant.seconds)
        row.rounds = len(variant.seconds)
    compare(problem, rows)
    return rows


def compare(problem: Problem, rows: list[Row]) -> None:
    """Fill in the ratios, and what they are to be at most."""
    measured = {row.mode: row for row in rows if row.milliseconds is not None}
    base = measured["plain"]
    for row in measured.values():
        row.ratio = row.milliseconds / base.milliseconds
        row.peak_ratio = row.peak_mib / base.peak_mib
        if not problem.one_task_per_sample:
            row.ghost_floor, row.direct_floor = (2 + problem.tasks) / 3, (1 + 2 * problem.tasks) / 3
    peer = [row for row in measured.values() if row.mode.startswith("torchjd") and "UPGrad" not in row.mode]
    fastest = min(peer, key=lambda row: row.ratio, default=None)
    exact = measured["exact"].ratio if "exact" in measured else None
    for row in rows:
        if row.mode.startswith(("torchjd", "plain", "equal")):
            continue
        row.peak_target = None if fastest is None else fastest.peak_ratio
        if row.mode.startswith(("exact", "update")):
            row.target = problem.exact
            if problem.of_peer is not None and fastest is not None:
                row.target = problem.of_peer * fastest.ratio
        elif row.mode == "on=features":
            row.target = 1.4 if problem.tasks <= 10 else 1.8
        elif row.mode == "matrix_free":
            row.target = problem.matrix_free
        elif exact is not None and row.mode.startswith("every"):
            row.target = 1 + 1.1 * (exact - 1) / EVERY
        elif exact is not None and row.mode.startswith("batch_fraction"):
            row.target = 0.5 * exact


def print_table(problem: Problem, rows: list[Row]) -> None:
    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    floors = next(((row.ghost_floor, row.direct_floor) for row in rows if row.ghost_floor is not None), (None, None))
    print(f"\n{problem.key}, batch {problem.batch}: floors {number(floors[0])} (ghost), {number(floors[1])} (direct)")
    heads = ("ms", "ratio", "at most", "peak MiB", "ratio", "at most", "error", "rounds")
    print(f"{'mode':<36}" + "".join(f"{head:>10}" for head in heads))
    for row in rows:
        if row.note:
            print(f"{row.mode:<36}{row.note[:84]}")
            continue
        cells = (
            number(row.milliseconds, 1),
            number(row.ratio),
            number(row.target),
            number(row.peak_mib, 1),
            number(row.peak_ratio),
            number(row.peak_target),
            "-" if row.error is None else f"{row.error:.0e}",
            str(row.rounds),
        )
        print(f"{row.mode:<36}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def surroundings(device: torch.device) -> dict[str, object]:
    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "torchjd": installed("torchjd"),
        "machine": platform.platform(),
        "processor": processor or platform.processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--problems", nargs="+", default=[""], help="the beginnings of their names; all of them if left out"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="how often each mode takes its turn; slow ones do less often"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the turns of a problem may take, about")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that everything works")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="measure torchjd too")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds, seconds = (FEWEST_ROUNDS, 0.0) if options.quick else (options.rounds, options.seconds)
    chosen = [each for each in problems(options.device) if each.key.startswith(tuple(options.problems))]
    if not chosen:
        parser.error("no such problem; there are " + ", ".join(each.key for each in problems(options.device)))
    torch.set_num_threads(1)
    # vmap says for each operator that it has no rule for.
    warnings.filterwarnings("ignore", message=".*batching rule.*")
    device = torch.device(options.device)
    found = []
    for problem in chosen:
        rows = measure(problem, device, rounds, seconds, options.peer)
        print_table(problem, rows)
        found += rows
        if options.json:
            record = {**surroundings(device), "rows": [asdict(row) for row in found]}
            options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
