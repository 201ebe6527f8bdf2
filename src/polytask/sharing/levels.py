"""Levels of experts and gates on top of shared stages: the trunk of all mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, Stage
from polytask.modules import NamedModules
from polytask.sharing.experts import ExpertKind, Experts, some_experts
from polytask.sharing.fusion import Fusion
from polytask.sharing.gates import imbalance
from polytask.sharing.mixing import pooled
from polytask.sharing.mixture_plan import LevelPlan, Mix, Mixture, Reach, plan, shared_name
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, TrunkOutput, select_rows


class _Flow(NamedTuple):
    """What a unit hands on.

    Attributes:
        features: The features.
        pooled: They are what gates read.
        reach: The tasks that these features are for; where it is one task, they may have its rows only.
    """

    features: Features
    pooled: Tensor
    reach: Reach


class _Request(NamedTuple):
    """What is wanted of a batch.

    Attributes:
        tasks: The tasks.
        rows: For each of the trunk's tasks the rows that it needs; None: all.
    """

    tasks: Reach
    rows: Sequence[Tensor | None]

    def select(self, value: Any, of: Reach, wanted_for: Reach) -> Any:
        """Features for some tasks out of those for more: what is for one task alone has this task's rows."""
        return select_rows(value, self.rows[min(wanted_for)]) if len(wanted_for) == 1 < len(of) else value


class Level(nn.Module):
    """The experts and the gates of one level.

    Args:
        wiring: Which experts there are, and which of them each gate weighs.
        experts: Those of each group.
        fusions: Of the tasks' units, by task.
        shared: Of the shared unit, if it has a gate.
        balance: Strength of the penalty on the experts' imbalance.
    """

    def __init__(
        self,
        wiring: LevelPlan,
        experts: Sequence[Experts],
        fusions: Mapping[str, Fusion],
        shared: Fusion | None,
        balance: float,
    ) -> None:
        super().__init__()
        self.plan = wiring
        self.balance = balance
        self.experts = nn.ModuleList(experts)
        self.fusions = NamedModules(fusions)
        self.shared = shared

    def units(self) -> Iterator[tuple[Mix, Fusion]]:
        """What each unit with a gate mixes, and how."""
        fusions = [*self.fusions.values(), *([] if self.shared is None else [self.shared])]
        yield from zip(self.plan.mixes, fusions, strict=True)

    def forward(self, flows: Sequence[_Flow], wanted: _Request, penalties: dict[str, Tensor]) -> list[_Flow]:
        """What the units hand on, given what they get.

        Args:
            flows: For each unit.
            wanted: The tasks and their rows; a unit that serves none of them computes nothing and hands on what it got.
            penalties: What the level adds to the objective while training is added here, by name.
        """
        outputs: dict[int, Features] = {}
        for number, (group, experts) in enumerate(zip(self.plan.groups, self.experts, strict=True)):
            if group.reach & wanted.tasks:
                flow = flows[group.unit]
                outputs[number] = experts(wanted.select(flow.features, flow.reach, group.reach))
        found = list(flows)
        weights, columns = [], []
        for unit, (mix, fusion) in enumerate(self.units()):
            if not mix.reach & wanted.tasks:
                continue
            seen = []
            for number, start, stop in mix.segments:
                group, output = self.plan.groups[number], outputs[number]
                if stop - start < group.stop - group.start:
                    output = some_experts(output, start, stop)
                seen.append(wanted.select(output, group.reach, mix.reach))
            flow = flows[unit]
            features, gating = fusion(wanted.select(flow.pooled, flow.reach, mix.reach), seen)
            found[unit] = _Flow(features, pooled(features), mix.reach)
            weights.append(gating.weights)
            columns.append(fusion.columns)
            if self.training:
                _add(penalties, gating.penalties)
        if self.training and self.balance and weights:
            uneven = imbalance(weights, columns, self.plan.groups[-1].stop)
            _add(penalties, {"gate_balance": self.balance * uneven})
        return found


def _add(penalties: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, penalty in more.items():
        penalties[name] = penalties[name] + penalty if name in penalties else penalty


class LevelsTrunk(EncoderTrunk):
    """Shared stages, then levels of experts and gates.

    Args:
        name: The input.
        encoder: Its first stages are shared by all tasks.
        tasks: All tasks.
        shared: The number of shared stages, at least 1.
        kind: What the experts are.
        mixture: How experts and tasks belong together.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        shared: int,
        kind: ExpertKind,
        mixture: Mixture,
    ) -> None:
        super().__init__(name, encoder, tasks, kind.shape)
        self._experts = mixture.expert_names(tasks)
        self.stages_in_common: NamedModules[Stage] = NamedModules(
            {stage: encoder.stages[stage] for stage in self._names[:shared]}
        )
        levels = []
        for number, wiring in enumerate(plan(mixture, len(tasks), kind.levels)):
            experts = kind.make(number, [group.stop - group.start for group in wiring.groups])
            width = kind.width_before(number)
            fusions = [
                Fusion(mixture.gate(width, len(mix.columns)), mix.columns, mix.own, mixture.dropout)
                for mix in wiring.mixes
            ]
            shared_fusion = fusions.pop() if len(fusions) > len(tasks) else None
            named = dict(zip(tasks, fusions, strict=True))
            levels.append(Level(wiring, experts, named, shared_fusion, mixture.balance))
        self.levels = nn.ModuleList(levels)

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`."""
        given, rows = self.rows_of_only_task(inputs[self.input], rows)
        for stage in self.stages_in_common.values():
            given = stage(given)
        places = {task: place for place, task in enumerate(self.tasks)}
        wanted = _Request(frozenset(places[task] for task in tasks), [rows.get(task) for task in self.tasks])
        flows = [_Flow(given, pooled(given), frozenset(places.values()))] * (len(self.tasks) + 1)
        penalties: dict[str, Tensor] = {}
        for level in self.levels:
            flows = level(flows, wanted, penalties)
        return TrunkOutput({task: flows[places[task]].features for task in tasks}, penalties)

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        common = enumerate(self.stages_in_common.items())
        found = [Part(name, self.tasks, stage, depth) for depth, (name, stage) in common]
        for where, level in self._numbered():
            for group, experts in zip(level.plan.groups, level.experts, strict=True):
                found += experts.parts(self._experts[group.start : group.stop], self._named(group.reach), where)  # type: ignore[operator]
            for unit, (mix, fusion) in zip((*self.tasks, shared_name(self.tasks)), level.units(), strict=False):
                found.append(Part(f"gate of {unit}{where}", self._named(mix.reach), fusion))
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """The mean weights of the gates over recent training batches, level by level, and those of own experts."""
        found = {}
        for where, level in self._numbered():
            units = [fusion for _, fusion in level.units()]
            usage = torch.stack([self._spread(fusion.gate.usage, fusion.columns) for fusion in units])
            names = (*self.tasks, shared_name(self.tasks))[: len(units)]
            found[f"gates{where}"] = LearnedTable(usage, names, self._experts)
            own = [fusion.own.detach() for fusion in level.fusions.values() if fusion.own is not None]
            if own:
                numbers = range(1, len(own[0]) + 1)
                columns = tuple(f"expert {number}" for number in numbers)
                found[f"own experts{where}"] = LearnedTable(torch.stack(own), self.tasks, columns)
        return found

    def _spread(self, values: Tensor, columns: Tensor) -> Tensor:
        """Numbers for some experts as numbers for all, 0 for the others."""
        return values.new_zeros(len(self._experts)).index_copy(0, columns, values)

    def _numbered(self) -> Iterator[tuple[str, Level]]:
        """The levels, with words that say which it is where there are several."""
        for number, level in enumerate(self.levels, start=1):
            yield f" in level {number}" if len(self.levels) > 1 else "", level  # type: ignore[misc]

    def _named(self, reach: Reach) -> tuple[str, ...]:
        return tuple(task for place, task in enumerate(self.tasks) if place in reach)
