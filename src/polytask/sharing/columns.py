"""Columns: each task has a network of its own, and the networks exchange features behind some of their stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, FeatureShape, Stage
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.copies import copies
from polytask.sharing.exchange import Exchange
from polytask.sharing.mixing import pooled
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, Sharing, TrunkOutput, only_encoder, select_rows


class ColumnSharing(Sharing, ABC):
    """A network for each task (its column), and an exchange of features between them behind some stages.

    Args:
        after: The stages behind which features are exchanged: `"all"`; `"inner"`, all but the last; or a stage's name,
            a number of stages (so that the exchange comes behind the last of these; negative: counted from the end), or
            a list of such.
        share_until: The last stage that all tasks share before the columns begin, by name, or the number of such stages
            (negative: counted from the end). 0: the columns begin at the input.
        fresh: Whether the columns start from different random weights; else all start from the same. Columns of a
            pretrained encoder always start alike.
        self_weight: How much of a task's mixed features are its own at the start, from 0 to 1; the others' features
            have equal parts of the rest.

    Raises:
        UserError: `after` is empty, or `self_weight` is out of its limits.
    """

    scheme: ClassVar[str]
    """The scheme's name, for messages."""
    merging: ClassVar[str] = ""
    """The setting with which nothing is merged at the end, for messages."""

    def __init__(
        self,
        after: str | int | Sequence[str | int] = "all",
        share_until: str | int = 0,
        *,
        fresh: bool = False,
        self_weight: float = 0.9,
    ) -> None:
        if not isinstance(after, str | int) and not after:
            raise UserError("'after' must name at least one stage, or be 'all' or 'inner', but it is empty.")
        fraction(self_weight=self_weight)
        self.after = after
        self.share_until = share_until
        self.fresh = fresh
        self.self_weight = self_weight

    @abstractmethod
    def exchange(self, shape: FeatureShape, tasks: Sequence[str]) -> Exchange:
        """What mixes the columns' features behind a stage of this output shape."""

    def unfit(self, shape: FeatureShape) -> str | None:
        """Why there can be no exchange behind a stage of this output shape; None where there can."""
        return None

    def ends(self, encoder: Encoder, depths: Sequence[int], tasks: Sequence[str]) -> Mapping[str, LayerMerge] | None:
        """What makes each task's final features of the outputs at `depths`; None: the last output is all there is."""
        return None

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> ColumnsTrunk:
        """See `Sharing.build`. A task alone has nothing to exchange: it gets the encoder."""
        name, encoder = only_encoder(encoders)
        shared = self._shared_depth(encoder)
        depths = self._depths(encoder, shared)
        stages = list(encoder.stages.items())
        exchanges = {}
        if len(tasks) > 1:
            exchanges = {stages[depth][0]: self.exchange(stages[depth][1].shape, tasks) for depth in depths}
        merged = sorted({*depths, len(stages) - 1})
        ends = self.ends(encoder, merged, tasks)
        if ends is not None and encoder.shape.kind != "vector":
            raise UserError(
                f"'{self.scheme}' over the encoder {type(encoder).__name__} puts what it merges of several stages into "
                f"one vector a row, but some task reads what lies before the vectors. Set {self.merging}, which leaves "
                "the stages apart."
            )
        fresh = self.fresh and not encoder.pretrained
        return ColumnsTrunk(
            name, encoder, tasks, shared=shared, exchanges=exchanges, ends=ends, merged=merged, fresh=fresh
        )

    def _shared_depth(self, encoder: Encoder) -> int:
        shared = encoder.depth_of(self.share_until)
        if shared == len(encoder.stage_names):
            raise UserError(
                f"With share_until: {self.share_until!r} the tasks share all stages of the encoder "
                f"{type(encoder).__name__}, and no columns are left for '{self.scheme}'. Share fewer stages, "
                "or take the scheme 'hard'."
            )
        return shared

    def _depths(self, encoder: Encoder, shared: int) -> list[int]:
        """The depths of the stages behind which features are exchanged, in order."""
        stages = list(encoder.stages.values())
        shapes = [stage.shape for stage in stages]
        who, total = f"'{self.scheme}' over the encoder {type(encoder).__name__}", len(shapes)
        if isinstance(self.after, str) and self.after in ("all", "inner"):
            # An encoder of one stage has an exchange all the same: without any, the scheme would be none.
            until = total if self.after == "all" or shared == total - 1 else total - 1
            # Without a parameter before them, the columns have all computed the same.
            start = next((depth for depth in range(shared, until) if _learns(stages[depth])), shared)
            found = [depth for depth in range(start, until) if self.unfit(shapes[depth]) is None]
            if not found:
                raise UserError(
                    f"{who} cannot exchange features behind any stage. "
                    f"Of '{encoder.stage_names[start]}', {self.unfit(shapes[start])}"
                )
            return found
        chosen = [self.after] if isinstance(self.after, str | int) else self.after
        found = sorted({encoder.depth_of(each) - 1 for each in chosen})
        for depth in found:
            if depth < shared:
                where = f"behind the stage '{encoder.stage_names[depth]}'" if depth >= 0 else "before the first stage"
                raise UserError(
                    f"{who} cannot exchange features {where}: the columns begin "
                    f"{'behind it' if shared else 'there'}. Stages that 'after' may name: "
                    f"{listing(encoder.stage_names[shared:], limit=60)}."
                )
            problem = self.unfit(shapes[depth])
            if problem is not None:
                raise UserError(
                    f"{who} cannot exchange features behind the stage '{encoder.stage_names[depth]}': {problem}"
                )
        return found


class LayerMerge(nn.Module, ABC):
    """Makes a task's final features of the outputs of several stages."""

    @abstractmethod
    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Vectors `[B, D_l]` of L stages, in order, to `[B, D]` of the encoder's width."""

    @abstractmethod
    def shares(self) -> Tensor:
        """`[L]`, detached: how much of each stage goes into the result."""


class ColumnsTrunk(EncoderTrunk):
    """Copies of an encoder's stages for each task, with exchanges between them.

    All columns are computed up to the last exchange, whatever tasks are wanted, since each depends on all; behind it,
    those of the wanted tasks alone, on their rows.

    Args:
        name: The input.
        encoder: The stages.
        tasks: All tasks.
        shared: How many stages come before the columns.
        exchanges: By the stage that they come behind, in order.
        ends: By task, what merges stages' outputs into its features.
        merged: The depths of the stages that `ends` read, in order.
        fresh: Whether the columns start from different weights.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        shared: int,
        exchanges: Mapping[str, Exchange],
        ends: Mapping[str, LayerMerge] | None,
        merged: Sequence[int],
        fresh: bool,
    ) -> None:
        super().__init__(name, encoder, tasks)
        self._merged = tuple(merged)
        self._last = max((self._names.index(stage) for stage in exchanges), default=shared - 1)
        self.shared: NamedModules[Stage] = NamedModules({name: encoder.stages[name] for name in self._names[:shared]})
        columns = {}
        for stage in self._names[shared:]:
            made = copies(encoder.stages[stage], len(tasks), fresh=fresh)
            columns[stage] = NamedModules(dict(zip(tasks, made, strict=True)))
        self.columns: NamedModules[NamedModules[Stage]] = NamedModules(columns)
        self.exchanges: NamedModules[Exchange] = NamedModules(exchanges)
        self.ends: NamedModules[LayerMerge] = NamedModules(ends or {})

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`."""
        given, rows = self.rows_of_only_task(inputs[self.input], rows)
        wanted = {task: rows.get(task) for task in tasks}
        for stage in self.shared.values():
            given = stage(given)
        columns: dict[str, Any] = dict.fromkeys(self.tasks, given)
        if self._last < len(self.shared):
            columns = {task: select_rows(given, positions) for task, positions in wanted.items()}
        layers: dict[str, list[Tensor]] = {task: [] for task in wanted}
        penalties: dict[str, Tensor] = {}
        for depth, (name, stages) in enumerate(self.columns.items(), start=len(self.shared)):
            columns = {task: stages[task](features) for task, features in columns.items()}
            if name in self.exchanges:
                exchange = self.exchanges[name]
                if self.training:
                    for term, value in exchange.penalties(columns).items():
                        penalties[term] = penalties[term] + value if term in penalties else value
                columns = exchange(columns, wanted if depth == self._last else None)
            if self.ends and depth in self._merged:
                for task, positions in wanted.items():
                    # Behind the last exchange the columns have nothing but their tasks' rows.
                    layers[task].append(select_rows(pooled(columns[task]), positions if depth < self._last else None))
        if self.ends:
            columns = {task: columns[task]._replace(values=self.ends[task](layers[task])) for task in wanted}
        return TrunkOutput({task: columns[task] for task in tasks}, penalties)

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = [Part(name, self.tasks, stage, depth) for depth, (name, stage) in enumerate(self.shared.items())]
        for depth, (name, stages) in enumerate(self.columns.items(), start=len(self.shared)):
            reached = {task: self.tasks if depth <= self._last else (task,) for task in self.tasks}
            found += [
                Part(name if reached[task] == (task,) else f"{name} of {task}", reached[task], stage, depth)
                for task, stage in stages.items()
            ]
            if name in self.exchanges:
                exchange, title = self.exchanges[name], f"exchange behind {name}"
                if depth == self._last:
                    found += [Part(title, (task,), mixer) for task, mixer in exchange.mixers.items()]
                else:
                    found.append(Part(title, self.tasks, exchange))
        return found + [Part("layers", (task,), end) for task, end in self.ends.items()]

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`."""
        found = {f"exchange behind {name}": exchange.learned() for name, exchange in self.exchanges.items()}
        if self.ends:
            values = torch.stack([end.shares() for end in self.ends.values()])
            found["layers"] = LearnedTable(values, self.tasks, tuple(self._names[depth] for depth in self._merged))
        return found


def _learns(stage: Stage) -> bool:
    return any(True for _ in stage.parameters())


def fraction(**values: float) -> None:
    """Refuse what is not from 0 to 1.

    Raises:
        UserError: A value is out of these limits.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"'{name}' must be from 0 to 1, but {value} was given.")
