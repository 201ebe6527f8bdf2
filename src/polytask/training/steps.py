"""The steps of a training, each with all of its batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch

from polytask.data.batch import Batch
from polytask.data.loader import Loader
from polytask.schedules import Turn
from polytask.training.plan import Plan
from polytask.training.views import VIEWS, Views


class StepBatches(NamedTuple):
    """What a step is made of.

    Attributes:
        batches: Rows to be learned from by their labels; none where no row can be read.
        views: Rows that lack labels; None: the step has none. There may be no row in them.
        turn: The tasks that the step is for, whether or not any row could be read.
    """

    batches: list[Batch]
    views: Views | None = None
    turn: Turn = ()

    def to(self, device: torch.device) -> StepBatches:
        """The same on another device."""
        views = None if self.views is None else self.views.to(device, non_blocking=True)
        return self._replace(batches=[moved(each, device) for each in self.batches], views=views)


class Steps:
    """The batches of a loader, step by step.

    Args:
        loader: Makes the batches that the plan asks for.
        plan: The plan.
    """

    def __init__(self, loader: Loader, plan: Plan) -> None:
        self.loader = loader
        self.plan = plan

    def __len__(self) -> int:
        """Steps in the current epoch."""
        return self.plan.steps

    def __iter__(self) -> Iterator[StepBatches]:
        """What each step is made of."""
        for number, step in groupby(self.loader.fetched(), key=lambda each: each.step):
            batches: list[Batch] = []
            views: dict[int, Batch] = {}
            for fetched in step:
                if fetched.view is not None:
                    views[fetched.view] = fetched.batch
                elif len(fetched.batch):
                    batches.append(fetched.batch)
            both = Views.of(*(views[view] for view in range(VIEWS))) if views else None
            yield StepBatches(batches, both, self.plan.turn(number))


def moved(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device; where it is there already, no tensor of it is touched."""
    return batch if batch.rows.device == device else batch.to(device, non_blocking=True)
