"""What finding the weights costs: every Gramian method's `weights()` over random Gramians, with torchjd for comparison.

One process, one thread, float64; the variants take turns on the same Gramians, and medians are compared. A peer that
takes long is timed fewer times. The methods that keep weights of their own and are given the products of independent
batches (SDMGrad, MoDo) are timed with that.

    python benchmarks/solvers.py [--tasks 3 10 40] [--rounds N] [--no-peer] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from interleave import interleaved
from torch import Tensor

from polytask import balancing
from polytask.balancing import GramianBalancer, IndependentBatches

TARGETS = {3: 0.5, 10: 1.0, 40: 5.0}
"""Milliseconds at most, by number of tasks."""
GRAMIANS = 20
SLOW_MILLISECONDS = 50.0
SLOW_ROUNDS = 3

Solve = Callable[[Tensor], object]


@dataclass
class Row:
    """Median milliseconds of a method for a number of tasks."""

    method: str
    tasks: int
    milliseconds: float
    target: float | None
    peer_milliseconds: float | None


def ours(name: str, tasks: int) -> Solve | None:
    """The method with what it has to be told about the tasks; None where it is none of the Gramian level."""
    if balancing.family.get(name).level != "gramian":
        return None
    names = [str(i) for i in range(tasks)]
    needed: dict[str, dict[str, Any]] = {
        "gradient_cosine": {"main": names[0]},
        "ol_aux": {"main": names[0]},
        "pivrg": {"references": dict.fromkeys(names, 1.0)},
    }
    balancer = balancing.create(name, **needed.get(name, {}))
    assert isinstance(balancer, GramianBalancer)
    balancer.prepare(names)

    def solve(jacobian: Tensor) -> Tensor:
        gramian = jacobian @ jacobian.T
        if isinstance(balancer, IndependentBatches):
            balancer.update_weights(gramian)
        return balancer.weights(gramian)

    return solve


def peers(tasks: int) -> dict[str, Solve]:
    """Torchjd's weightings for the same methods."""
    from torchjd import aggregation

    of_gramians = {
        "aligned_mtl": aggregation.AlignedMTLWeighting(),
        "cagrad": aggregation.CAGradWeighting(c=0.4),
        "dual_proj": aggregation.DualProjWeighting(),
        "fairgrad": aggregation.FairGradWeighting(alpha=2.0),
        "gradvac": aggregation.GradVacWeighting(),
        "imtl_g": aggregation.IMTLGWeighting(),
        "mgda": aggregation.MGDAWeighting(),
        "modo": aggregation.MoDoWeighting(gamma=0.001),
        "pcgrad": aggregation.PCGradWeighting(),
        "sdmgrad": aggregation.SDMGradWeighting(),
        "upgrad": aggregation.UPGradWeighting(),
    }
    found: dict[str, Solve] = {
        name: lambda jacobian, weighting=weighting: weighting(jacobian @ jacobian.T)
        for name, weighting in of_gramians.items()
    }
    # These take the Jacobian, of which ours is given as small a one as there is for a Gramian.
    found["nash_mtl"] = aggregation.NashMTL(n_tasks=tasks).weighting
    found["con_fig"] = aggregation.ConFIG()
    return found


def alternating(solve: Solve, jacobians: list[Tensor]) -> Callable[[], object]:
    turns = count()
    return lambda: solve(jacobians[next(turns) % len(jacobians)])


def measure(tasks: int, rounds: int, with_peer: bool) -> list[Row]:
    generator = torch.Generator().manual_seed(tasks)
    jacobians = [torch.randn(tasks, 2 * tasks, generator=generator, dtype=torch.float64) for _ in range(GRAMIANS)]
    methods = {name: solve for name in balancing.names() if (solve := ours(name, tasks)) is not None}
    others = {f"{name}, peer": solve for name, solve in (peers(tasks) if with_peer else {}).items() if name in methods}
    variants = {name: alternating(solve, jacobians) for name, solve in {**methods, **others}.items()}
    once = interleaved(variants, rounds=1, warm_up=1)
    slow = {name for name, seconds in once.items() if 1000 * seconds > SLOW_MILLISECONDS}
    seconds = interleaved({name: variants[name] for name in variants if name not in slow}, rounds)
    seconds |= interleaved({name: variants[name] for name in slow}, min(rounds, SLOW_ROUNDS), warm_up=0)
    return [
        Row(
            name,
            tasks,
            1000 * seconds[name],
            TARGETS.get(tasks),
            1000 * seconds[f"{name}, peer"] if f"{name}, peer" in seconds else None,
        )
        for name in methods
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = []
    print(f"{'method':18s} {'tasks':>5s} {'ms':>9s} {'target':>7s} {'torchjd':>10s}")
    for tasks in options.tasks:
        for row in measure(tasks, options.rounds, not options.no_peer):
            rows.append(row)
            target = "" if row.target is None else f"{row.target:.1f}"
            peer = "" if row.peer_milliseconds is None else f"{row.peer_milliseconds:.3f}"
            missed = "  over the target" if row.target is not None and row.milliseconds > row.target else ""
            print(
                f"{row.method:18s} {row.tasks:5d} {row.milliseconds:9.3f} {target:>7s} {peer:>10s}{missed}", flush=True
            )
    if options.json:
        versions = {"torch": torch.__version__, "scipy": version("scipy")}
        if not options.no_peer:
            versions["torchjd"] = version("torchjd")
        options.json.write_text(json.dumps({**versions, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
