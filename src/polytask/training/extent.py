"""How large a step is, over its batches and over the processes that train together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.training.processes import Processes


class Extent(NamedTuple):
    """How large a step is.

    Attributes:
        totals: What its labelled rows count together in the mean loss, scalars by task; no entry without a label.
        rows: How many rows are labelled, for the same tasks.
        batches: How many batches it has.
        most: How many of these are in one process, at the most.
    """

    totals: dict[str, Tensor]
    rows: dict[str, int]
    batches: int
    most: int


def extent_of(model: MultiTaskModel, batches: Sequence[Batch], processes: Processes | None) -> Extent:
    """The extent of a step; called in all of the processes.

    Args:
        model: The network.
        batches: Those of this process.
        processes: Those that train together; None: this one alone.
    """
    names = model.task_names
    rows = [sum(batch.count(name) for batch in batches) for name in names]
    each = [[len(batches), *rows]] if processes is None else processes.numbers([len(batches), *rows])
    sizes = [size for size, *_ in each]
    counts = {name: sum(numbers[place] for numbers in each) for place, name in enumerate(names, start=1)}
    present = {name: count for name, count in counts.items() if count}
    found: dict[str, Tensor] = {}
    for batch in batches:
        for name, total in model.totals(batch).items():
            found[name] = found[name] + total if name in found else total
    if processes is not None and present:
        nothing = torch.zeros((), device=next(model.parameters()).device)
        stacked = torch.stack([found.get(name, nothing).float() for name in present])
        found = dict(zip(present, processes.sum(stacked).unbind(), strict=True))
    return Extent({name: found[name] for name in present}, present, sum(sizes), max(sizes))
