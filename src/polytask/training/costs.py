"""What a sharing scheme costs: parameters and multiply-adds, beside those of one network for each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polytask.model import MultiTaskModel


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
        together: All tasks in one pass.
        separate: A network for each task: the same encoder and head.
    """

    tasks: Mapping[str, Cost]
    together: Cost
    separate: Cost

    @property
    def saving(self) -> str:
        """How the model compares with separate networks, in words."""
        pairs = (
            ("parameters", self.together.parameters, self.separate.parameters),
            ("multiply-adds", self.together.multiply_adds, self.separate.multiply_adds),
        )
        return ", ".join(f"{one / other:.2f} of the {name}" for name, one, other in pairs if other)


def count_costs(model: MultiTaskModel, single: MultiTaskModel, inputs: Mapping[str, Any]) -> Costs:
    """Count what a model needs for one row.

    Args:
        model: The model.
        single: The same encoder and heads under hard sharing, which is what each task would have by itself.
        inputs: The inputs of one row (or of several, which count as one each).
    """
    rows = _rows(inputs)
    shared = set(model.shared_parameters())
    tasks = {}
    for task in model.task_names:
        parameters = set(_computing(model, task))
        common = sum(p.numel() for p in parameters & shared)
        own = sum(p.numel() for p in parameters - shared)
        tasks[task] = Cost(common, own, _counted(model, inputs, [task]) // rows)
    everything = sum(p.numel() for p in model.parameters())
    common = sum(p.numel() for p in shared)
    together = Cost(common, everything - common, _counted(model, inputs, model.task_names) // rows)
    trunk = sum(p.numel() for p in single.trunk.parameters())
    heads = sum(p.numel() for p in single.heads.parameters())
    apart = sum(_counted(single, inputs, [task]) for task in single.task_names) // rows
    return Costs(tasks, together, Cost(0, len(single.task_names) * trunk + heads, apart))


def _computing(model: MultiTaskModel, task: str) -> Iterator[nn.Parameter]:
    """The parameters that a task's prediction is computed with: also those of tasks that it reads."""
    needed = model.relations.needed([task], {})
    for part in (*model.trunk.parts(), *model.relations.parts()):
        if set(part.tasks) & set(needed):
            yield from part.module.parameters()
    for head in {task, *model.relations.predictions_read_by(needed)}:
        yield from model.heads[head].parameters()


def _counted(model: MultiTaskModel, inputs: Mapping[str, Any], tasks: Sequence[str]) -> int:
    """The multiply-adds of a forward pass for some tasks; a fused step counts as what it stands for."""
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(inputs, tasks)
    finally:
        model.train(training)
    return int(counter.get_total_flops()) // 2


def _rows(inputs: Mapping[str, Any]) -> int:
    value = next(iter(inputs.values()))
    return len(next(iter(value.values())) if isinstance(value, Mapping) else value)
