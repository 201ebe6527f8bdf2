"""Whole encoders side by side as experts, mixed by each task in its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, Stage
from polytask.encoders.limits import one_of
from polytask.errors import UserError, closest, listing
from polytask.modules import NamedModules
from polytask.sharing.copies import copies
from polytask.sharing.gates import RECENT
from polytask.sharing.mixing import pooled, weighted_sum
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, Sharing, TrunkOutput, only_encoder, select_rows

Gate = Literal["task", "input"]


class StackedExperts(Sharing):
    """Encoders of single tasks side by side as experts, and a gate over them for each task.

    Task k sees `f_k = sum_e g_k(x)_e h_e(x)`, where h_e is the whole encoder of task e, `g_k = softmax(b_k)` for the
    gate `task`, and `g_k(x)_e = softmax_e(b_k,e + <v_k,e, h_e(x)>)` for the gate `input`. It is what `init_from` with
    `how: stack` builds on: train the tasks separately, put their encoders side by side, then train together.

    Like the column network of Misra, Shrivastava, Gupta and Hebert, "Cross-stitch Networks for Multi-task Learning"
    (CVPR 2016), it starts from single-task networks and mostly keeps to a task's own, but it mixes at the end only and
    with weights that sum to 1; like the mixture of experts of Ma et al. ("Modeling Task Relationships in Multi-task
    Learning with Multi-gate Mixture-of-Experts", KDD 2018) it has a gate a task, but an expert is a whole encoder, and
    the gate reads the experts' outputs, so that it can tell for each row which of them has something to say. At the
    start `g_k` is `own` for the task's own expert, the others have equal parts of the rest, and v_k is 0.

    Without runs to start from, experts start from weights of their own, or alike where the encoder is pretrained. One
    expert makes it hard sharing.

    For tasks that were trained separately and should profit from each other without losing what they know; it costs an
    encoder for each expert.

    Args:
        experts: The tasks that have an expert of their own; `None`: all.
        gate: `task`: a task weighs the experts alike for all rows; `input`: for each row.
        own: How much a task's own expert weighs at the start, above 0 and below 1. A task without one starts with equal
            weights.

    Raises:
        UserError: A parameter is out of its limits, or an expert's name is not a task's.
    """

    def __init__(self, experts: Sequence[str] | None = None, *, gate: Gate = "task", own: float = 0.9) -> None:
        one_of(get_args(Gate), gate=gate)
        if not (math.isfinite(own) and 0 < own < 1):
            raise UserError(f"'own' must be above 0 and below 1, but {own} was given.")
        if experts is not None and (isinstance(experts, str) or not experts or len(set(experts)) < len(experts)):
            raise UserError(
                f"'experts' must be a list of one or more tasks, each of them once, but {experts!r} was given."
            )
        self.experts = experts
        self.gate: Gate = gate
        self.own = own

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> StackedTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        experts = tasks if self.experts is None else self.experts
        for expert in experts:
            if expert not in tasks:
                raise UserError(
                    f"stacked_experts: 'experts' names '{expert}', but there is no such task.{closest(expert, tasks)} "
                    f"The tasks: {listing(tasks)}."
                )
        return StackedTrunk(name, encoder, tasks, tuple(experts), self)


class StackedTrunk(EncoderTrunk):
    """Experts, each a whole encoder, and the tasks' gates.

    Args:
        name: The input.
        encoder: Becomes the first expert.
        tasks: All tasks.
        experts: The experts' names: those of tasks.
        scheme: How gates are made.

    Attributes:
        experts: The experts' stages, by expert and stage.
    """

    def __init__(
        self, name: str, encoder: Encoder, tasks: Sequence[str], experts: Sequence[str], scheme: StackedExperts
    ) -> None:
        super().__init__(name, encoder, tasks)
        made = [copies(stage, len(experts), fresh=not encoder.pretrained) for stage in encoder.stages.values()]
        self.experts: NamedModules[NamedModules[Stage]] = NamedModules(
            {
                expert: NamedModules(dict(zip(self._names, stages, strict=True)))
                for expert, stages in zip(experts, zip(*made, strict=True), strict=True)
            }
        )
        # One expert has all the weight: a gate would have parameters that nothing depends on.
        gated = self.tasks if len(experts) > 1 else ()
        width = self._shape.width if scheme.gate == "input" else 0
        gates = {task: _Gate(task, experts, scheme.own, width) for task in gated}
        self.gates: NamedModules[_Gate] = NamedModules(gates)

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. All experts see all rows."""
        if not tasks:
            return TrunkOutput({})
        given, rows = self.rows_of_only_task(inputs[self.input], rows)
        outputs = [self._expert(stages, given) for stages in self.experts.values()]
        if len(outputs) == 1:
            return TrunkOutput({task: select_rows(outputs[0], rows.get(task)) for task in tasks})
        # What the gates read: a vector a row, of each expert.
        seen = torch.stack([pooled(output) for output in outputs], dim=1)
        found = {}
        for task in tasks:
            weights = self.gates[task](select_rows(seen, rows.get(task)))
            found[task] = weighted_sum([select_rows(output, rows.get(task)) for output in outputs], weights)
        return TrunkOutput(found)

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = []
        for depth, name in enumerate(self._names):
            for expert, stages in self.experts.items():
                title = f"{name} of expert {expert}" if len(self.experts) > 1 else name
                found.append(Part(title, self.tasks, stages[name], depth, expert))
        return found + [Part(f"gate of {task}", (task,), gate) for task, gate in self.gates.items()]

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`: the weights of the experts, where they differ from row to row over recent batches."""
        if not len(self.gates):
            return {}
        weights = torch.stack([gate.usage for gate in self.gates.values()])
        return {"gates": LearnedTable(weights.detach(), self.tasks, tuple(self.experts))}

    def _expert(self, stages: NamedModules[Stage], inputs: Any) -> Features:
        features = inputs
        for stage in stages.values():
            features = stage(features)
        return features  # type: ignore[no-any-return]


class _Gate(nn.Module):
    """One task's weights over the experts.

    Args:
        task: The task.
        experts: The experts' names.
        own: The first weight of the task's own expert.
        width: The width of the experts' outputs, where the gate reads them; 0 where it does not.
    """

    recent: Tensor

    def __init__(self, task: str, experts: Sequence[str], own: float, width: int) -> None:
        super().__init__()
        logits = torch.zeros(len(experts))
        if task in experts:
            logits[experts.index(task)] = math.log(own * (len(experts) - 1) / (1 - own))
        self.logits = nn.Parameter(logits)
        self.directions = nn.Parameter(torch.zeros(len(experts), width)) if width else None
        if width:
            self.register_buffer("recent", logits.softmax(0))

    def forward(self, values: Tensor) -> Tensor:
        """`[B, E, D]`, the experts' outputs, to their weights `[B, E]`."""
        if self.directions is None:
            return self.logits.softmax(0).expand(len(values), -1)
        weights = (self.logits + (values * self.directions).sum(-1)).softmax(1)
        if self.training and len(weights):
            with torch.no_grad():
                self.recent.lerp_(weights.mean(0).to(self.recent), RECENT)
        return weights

    @property
    def usage(self) -> Tensor:
        """`[E]`: the weights, where they differ from row to row their mean over recent training batches."""
        return self.logits.softmax(0) if self.directions is None else self.recent
