"""What a sharing scheme costs: parameters and multiply-adds, beside those of one network for each task."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polytask.model import MultiTaskModel
from polytask.partial import row_count
from polytask.training.transfer import inputs_served


@dataclass(frozen=True)
class Cost:
    """What some tasks need.

    Attributes:
        shared: Parameters that other tasks use too (with all tasks: more than one).
        own: The other parameters.
        multiply_adds: In matrix products and convolutions, for one row.
    """

    shared: int
    own: int
    multiply_adds: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.shared + self.own


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        tasks: Each task by itself.
        together: All tasks that are predicted, in one pass.
        separate: A network for each of these: the same encoder and head.
        predicted: These tasks: see `MultiTaskModel.predicted`.
    """

    tasks: Mapping[str, Cost]
    together: Cost
    separate: Cost
    predicted: Sequence[str] = ()

    @property
    def saving(self) -> str:
        """How the model compares with separate networks, in words."""
        pairs = (
            ("parameters", self.together.parameters, self.separate.parameters),
            ("multiply-adds", self.together.multiply_adds, self.separate.multiply_adds),
        )
        return ", ".join(f"{one / other:.2f} of the {name}" for name, one, other in pairs if other)


def count_costs(
    model: MultiTaskModel,
    single: MultiTaskModel,
    inputs: Mapping[str, Any],
    reads: Mapping[str, Collection[str]] | None = None,
) -> Costs:
    """Count what a model needs for one row.

    Args:
        model: The model.
        single: The same encoder and heads under hard sharing, which is what each task would have by itself.
        inputs: The inputs of one row (or of several, which count as one each).
        reads: For a task, those of the inputs that its rows have, where it is not all: it costs what these cost.
    """
    rows = row_count(inputs)
    shared = set(model.shared_parameters())
    given = {task: _those(inputs, (reads or {}).get(task)) for task in model.task_names}
    serves = inputs_served(model)
    tasks = {}
    for task in model.task_names:
        parameters = {p for p in _computing(model, task) if p not in serves or serves[p] in given[task]}
        common = sum(p.numel() for p in parameters & shared)
        own = sum(p.numel() for p in parameters - shared)
        tasks[task] = Cost(common, own, _counted(model, given[task], [task]) // rows)
    predicted = model.predicted
    # What only tasks that need no labels have is left out where predictions are made.
    left_out = [part.module for part in model.parts() if part.tasks and not set(part.tasks) & set(predicted)]
    needed = set(model.parameters()).difference(*(module.parameters() for module in left_out))
    everything = sum(p.numel() for p in needed)
    common = sum(p.numel() for p in shared & needed)
    together = Cost(common, everything - common, _counted_together(model, given, inputs) // rows)
    serves = inputs_served(single)
    trunks = 0
    for part in single.trunk_parts():
        for p in part.module.parameters():
            tasks_of = [task for task in part.tasks if task in predicted]
            trunks += p.numel() * sum(p not in serves or serves[p] in given[task] for task in tasks_of)
    heads = sum(p.numel() for task in predicted for p in single.heads[task].parameters())
    apart = sum(_counted(single, given[task], [task]) for task in predicted) // rows
    return Costs(tasks, together, Cost(0, trunks + heads, apart), predicted)


def _counted_together(model: MultiTaskModel, given: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Any]) -> int:
    """The multiply-adds of all tasks that predictions are made for.

    Where rows have one of the inputs each, of a row of each, for the tasks that learn from such rows.
    """
    if model.reader is None:
        return _counted(model, inputs, model.predicted)
    found = 0
    for name, value in inputs.items():
        asked = [task for task in model.predicted if name in given[task]]
        found += _counted(model, {name: value}, asked) if asked else 0
    return found


def _those(inputs: Mapping[str, Any], names: Collection[str] | None) -> Mapping[str, Any]:
    """Some of the inputs; all where it is not known which, or there is none."""
    return {name: value for name, value in inputs.items() if not names or name in names}


def _computing(model: MultiTaskModel, task: str) -> Iterator[nn.Parameter]:
    """The parameters that a task's prediction is computed with: also those of tasks that it reads."""
    needed = model.relations.needed([task], {})
    for part in (*model.trunk_parts(), *model.relations.parts()):
        if set(part.tasks) & set(needed):
            yield from part.module.parameters()
    for head in {task, *model.relations.predictions_read_by(needed)}:
        yield from model.heads[head].parameters()


def _counted(model: MultiTaskModel, inputs: Mapping[str, Any], tasks: Sequence[str]) -> int:
    """The multiply-adds of a forward pass for some tasks; a fused step counts as what it stands for."""
    from torch.utils.flop_counter import FlopCounterMode

    if model.reader is not None:
        # A row has one of the inputs that one encoder reads.
        inputs = dict([next(iter(inputs.items()))])
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(inputs, tasks)
    finally:
        model.train(training)
    return int(counter.get_total_flops()) // 2
