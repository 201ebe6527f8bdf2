"""What was found about the modes of a Gramian method, and what follows."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

EVERY = 10
FRACTION = 0.25

NEAR = 0.99
"""The cosine of directions that are nearly the same."""

CHEAP = 2.0
"""What an exact step may cost, in plain ones, so that there is no reason for another."""

NOTABLE = 0.9
"""A mode is notably cheaper than another where it costs at most this share of it."""

WIDTH = 100

PLAIN, EXACT, SAMPLES, OLD_WEIGHTS = "plain", "exact", "exact, samples=", f"every={EVERY}"


@dataclass(frozen=True)
class Mode:
    """What was measured of a mode; no figure is there where it cannot run, or where one would mean nothing.

    Attributes:
        name: The mode, as options of the method.
        approximation: What is approximate about it; empty: nothing.
        milliseconds: A step: forward and backward passes, and what the method does.
        ratio: The same in plain steps, on the sum of the losses.
        peak_mib: The most memory that a step takes at once, on top of the model and the batch.
        cosine: Between its update of the shared parameters and the exact one; 1: the same direction.
        length_ratio: Of its update to the exact one.
        note: Why it cannot run, or what there is to know about its figures.
    """

    name: str
    approximation: str = ""
    milliseconds: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    cosine: float | None = None
    length_ratio: float | None = None
    note: str = ""

    @property
    def cost(self) -> float:
        """The ratio; infinite where it cannot run."""
        return math.inf if self.ratio is None else self.ratio


@dataclass(frozen=True)
class Diagnosis:
    """What the modes of a method cost on a model and a batch; as a string, a table.

    Attributes:
        method: The method.
        tasks: The tasks with a loss on the batch.
        parameters: How many numbers the tasks share.
        ghost_share: The share of them whose gradients are compared by ghost products, without being formed.
        rows: The modes.
        recommendation: Which of them to use.
    """

    method: str
    tasks: tuple[str, ...]
    parameters: int
    ghost_share: float
    rows: tuple[Mode, ...]
    recommendation: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        shared = f"{self.parameters:,} shared parameters, {self.ghost_share:.0%} of them measured by ghost products"
        tasks = f"{len(self.tasks)} task{'' if len(self.tasks) == 1 else 's'}"
        lines = [f"{self.method}, {tasks}, {shared if self.parameters else 'no shared parameters'}", ""]
        lines += _table(self.rows)
        notes = [f"{row.name}: {row.note}" for row in self.rows if row.note and row.ratio is not None]
        for text in (*notes, self.recommendation):
            lines += ["", *textwrap.wrap(text, WIDTH)]
        return "\n".join(lines)


def recommendation(rows: Sequence[Mode], tasks: int, parameters: int) -> str:
    """Which mode to use, in words.

    An exact mode where it costs less than two plain steps; else the cheapest mode in nearly the exact direction; where
    there is none, weights that are held for some steps.

    Args:
        rows: What was measured, the plain step and the exact mode among them.
        tasks: K.
        parameters: How many numbers the tasks share.
    """
    if tasks < 2 or not parameters:
        why = "There is one task" if tasks < 2 else "The tasks share no parameters"
        return f"{why}, so that nothing has to be balanced: use `equal`, which costs 1."
    by_name = {row.name: row for row in rows}
    plain, usual, old = by_name[PLAIN], by_name[EXACT], by_name.get(OLD_WEIGHTS, Mode(OLD_WEIGHTS))
    exact = min((row for row in rows if not row.approximation), key=lambda row: row.cost)
    if exact.cost > NOTABLE * usual.cost:
        exact = usual
    called = {EXACT: "the exact mode", SAMPLES: "the exact mode with samples"}.get(exact.name, exact.name)
    cheaper = [row for row in rows if row.approximation and row != plain and row.cost <= NOTABLE * exact.cost]
    near = min((row for row in cheaper if (row.cosine or 0) >= NEAR), key=lambda row: row.cost, default=None)
    if exact.cost < CHEAP:
        words = [f"Use {called}: a step costs {exact.cost:.2f} plain ones, and nothing is approximate."]
    elif near is not None:
        words = [
            f"Use {near.name}: a step costs {near.cost:.2f} plain ones, not {exact.cost:.2f} as with {called}, and its "
            f"direction is nearly the same (cosine {near.cosine:.3f}). It is approximate: {near.approximation}. This "
            "was one batch: look again later in training."
        ]
        if old.cost <= NOTABLE * near.cost:
            words.append(f"Cheaper still is {old.name}, at {old.cost:.2f}; {old.approximation}.")
    elif old in cheaper:
        words = [
            f"A step of {called} costs {exact.cost:.2f} plain ones, and no cheaper mode comes near its direction. If "
            f"that is too much, use {old.name}, which costs {old.cost:.2f}. It is approximate: {old.approximation}."
        ]
    else:
        words = [f"Use {called}: a step costs {exact.cost:.2f} plain ones, and no cheaper mode comes near it."]
    if exact.name == SAMPLES:
        words.append(
            f"Without `samples=` in `backward` an exact step costs {usual.cost:.2f}; training from a configuration "
            "gives it by itself."
        )
    if plain.cosine is None:
        words.append("`equal` costs 1.")
    elif plain.cosine >= NEAR:
        words.append(f"`equal` costs 1, and on this batch its direction is nearly the same ({plain.cosine:.3f}).")
    else:
        words.append(f"`equal` costs 1, in another direction (cosine {plain.cosine:.3f}).")
    return " ".join(words)


def _table(rows: Sequence[Mode]) -> list[str]:
    """The rows, aligned; in place of the figures the reason, where there are none."""
    width = max(len(row.name) for row in rows)
    heads = ("ms", "ratio", "peak MiB", "cosine", "length")
    lines = [f"{'mode':<{width}}" + "".join(f"{head:>10}" for head in heads)]
    for row in rows:
        name = f"{row.name:<{width}}"
        if row.ratio is None:
            lines += textwrap.wrap(row.note, WIDTH, initial_indent=f"{name}    ", subsequent_indent=" " * (width + 4))
            continue
        figures = (row.milliseconds, row.ratio, row.peak_mib, row.cosine, row.length_ratio)
        cells = ["" if x is None else f"{x:.{n}f}" for x, n in zip(figures, (2, 2, 2, 4, 3), strict=True)]
        lines.append((name + "".join(f"{cell:>10}" for cell in cells)).rstrip())
    return lines
