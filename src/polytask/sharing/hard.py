"""Hard parameter sharing: the tasks have the first stages in common."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.encoders.encoder import depth_of
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.sharing import Sharing, Trunk


class Hard(Sharing):
    """Hard parameter sharing (Caruana, "Multitask Learning", Machine Learning 28, 1997).

    Task k sees `f_k = s_k(s(x))`: the first stages `s` are one set of parameters for all tasks, the others `s_k` are
    each task's own, started from the same values.

    Args:
        share_until: The last shared stage, by name, or the number of shared stages (negative: counted from the end).
            `None` shares the whole encoder (output sharing: only the heads differ), a stage in the middle shares the
            bottom alone, and 0 shares nothing: one network for each task.
    """

    def __init__(self, share_until: str | int | None = None) -> None:
        self.share_until = share_until

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> Trunk:
        """See `Sharing.build`."""
        if len(encoders) != 1:
            raise UserError(
                f"A model has one input so far, but {len(encoders)} were given: {listing(encoders)}. "
                "Put a table's columns together in one tabular input."
            )
        ((name, encoder),) = encoders.items()
        return HardTrunk(name, encoder, tasks, encoder.depth_of(self.share_until))


class HardTrunk(Trunk):
    """The first `depth` stages of an encoder once, the rest once a task."""

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], depth: int) -> None:
        super().__init__()
        self.input = name
        self._depth = depth
        self._names = encoder.stage_names
        self._shape = encoder.shape
        stages = dict(encoder.stages.items())
        shared, own = list(stages)[:depth], list(stages)[depth:]
        self.shared = NamedModules({stage: stages[stage] for stage in shared})
        self.own = NamedModules(
            {task: NamedModules({stage: copy.deepcopy(stages[stage]) for stage in own}) for task in tasks}
        )

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> dict[str, Features]:
        """See `Trunk.forward`. Where nothing is shared, the raw input takes the place of shared features."""
        common = inputs[self.input]
        for stage in self.shared.values():
            common = stage(common)
        features = {}
        for task in tasks:
            own = select_rows(common, rows.get(task))
            for stage in self.own[task].values():
                own = stage(own)
            features[task] = own
        return features

    def shape(self, task: str) -> FeatureShape:
        """See `Trunk.shape`."""
        return self._shape

    def stages(self) -> Iterator[tuple[int, int, nn.Module]]:
        """See `Trunk.stages`."""
        total = len(self._names)
        for depth, stage in enumerate(self.shared.values()):
            yield depth, total, stage
        for branch in self.own.values():
            for depth, stage in enumerate(branch.values(), start=self._depth):
                yield depth, total, stage

    def depth_of(self, stage: str | int | None) -> int:
        """See `Trunk.depth_of`."""
        return depth_of(stage, self._names)

    def shared_parameters(self) -> list[nn.Parameter]:
        """See `Trunk.shared_parameters`."""
        return list(self.shared.parameters()) if len(self.own) > 1 else []


def select_rows(value: Any, rows: Tensor | None) -> Any:
    """Some rows of features or of a raw input (a tensor, or tensors by name)."""
    if rows is None:
        return value
    if isinstance(value, Features):
        return value.select(rows)
    if isinstance(value, Mapping):
        return {name: select_rows(part, rows) for name, part in value.items()}
    return value[rows]
