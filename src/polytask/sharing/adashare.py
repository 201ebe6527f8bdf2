"""AdaShare: each task executes some stages of one trunk, and skips the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from polytask.encoders import Encoder, Features, Stage
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.choices import Choices, Choosing, ChoosingTrunk, Drawing
from polytask.sharing.rows import union_of, within
from polytask.sharing.sharing import LearnedTable, Part, TrunkOutput, only_encoder, select_rows


class AdaShare(Choosing):
    """Select-or-skip sharing (AdaShare).

    Sun, Panda, Feris and Saenko, "AdaShare: Learning What To Share For Efficient Deep Multi-Task Learning", NeurIPS
    2020. The tasks have one trunk, and for each stage l task k either executes it or passes it by:

        h_k^{l+1} = u_kl f^l(h_k^l) + (1 - u_kl) h_k^l        u_kl ~ GumbelSoftmax(theta_kl)

    With a_kl the probability of executing and S stages that can be skipped, l = 0 at the bottom, the penalties are

        sparsity * sum_k sum_l log a_kl
        sharing * sum_{k < j} sum_l w_l |a_kl - a_jl|        w_l = (S - l) / S

    In the warm-up every task executes everything; then stages come under decision one by one, from the top down
    (the curriculum). In evaluation the likelier of the two holds. A stage can be skipped if its output has the shape
    of its input, the size of maps included; the others are executed by every task. `learned()` has the table of `a`.

    What differs: weights and choices learn together from the same batches, where the paper updates them in turn, on
    two halves of the data; there is no second training with the choices fixed; what is skipped is a stage of the
    encoder, in the paper a residual block. The official code, against the paper's text, has `-log(1 - a)`, averaged
    over the blocks, for the sparsity, and for the sharing logits in place of `a` and `w_l = (l + 1) / S`, which makes
    tasks share the top. The weights `w` are `shared_end: bottom` and `shared_end: top`.

    The parameters are those of one network and two for each task and stage; deep encoders of equal blocks fit best
    (`mlp`, `tabular_resnet`, `transformer`, `ft_transformer`). From the first stage under decision on, each task is
    computed by itself in training; in evaluation, tasks are computed together as far as they execute the same.

    Args:
        sparsity: Strength of the penalty on executing.
        sharing: Strength of the penalty on differences between tasks. It adds up over all pairs: the default is for
            three tasks, and with many it makes all of them choose the same.
        shared_end: Where sharing is worth most: `"bottom"`, `"top"`, or `"none"` (`w_l = 1`).
        curriculum: The share of training, after the warm-up, within which all stages come under decision; 0: at once.
        final_temperature: The temperature at the end of training.
        straight_through: Whether each step executes a stage or skips it entirely; as published, `u` is soft.

    Raises:
        UserError: A value is out of range, or the encoder has no stage that can be skipped.
    """

    scheme = "adashare"

    def __init__(
        self,
        sparsity: float = 0.001,
        sharing: float = 0.05,
        shared_end: Literal["bottom", "top", "none"] = "bottom",
        *,
        curriculum: float = 0.2,
        final_temperature: float = 0.1,
        straight_through: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(final_temperature=final_temperature, straight_through=straight_through, **options)
        for name, strength in (("sparsity", sparsity), ("sharing", sharing)):
            if not strength >= 0:
                raise UserError(f"adashare: {name} is {strength}, but must be at least 0.")
        if shared_end not in _WEIGHTS:
            raise UserError(f"adashare: shared_end is '{shared_end}', but must be one of {listing(_WEIGHTS)}.")
        warm_up = self.drawing.warm_up
        if not (curriculum >= 0 and warm_up + curriculum <= 1):
            raise UserError(
                f"adashare: curriculum is {curriculum}, but must be at least 0, and with warm_up, which is {warm_up}, "
                "at most 1: both are shares of the training."
            )
        self.policy = Policy(sparsity, sharing, shared_end, curriculum)

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> AdaShareTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        if not skippable(encoder):
            raise UserError(
                f"adashare needs stages whose output has the shape of their input, so that a task can skip them, and "
                f"{type(encoder).__name__} has none among {listing(encoder.stage_names)}. Take an encoder with "
                "several equal blocks or layers, or another sharing scheme."
            )
        return AdaShareTrunk(name, encoder, tasks, self.policy, self.drawing)


_WEIGHTS = ("bottom", "top", "none")


class Policy(NamedTuple):
    """What is asked of the choices; `AdaShare` says what each value means."""

    sparsity: float
    sharing: float
    shared_end: str
    curriculum: float


def skippable(encoder: Encoder) -> tuple[int, ...]:
    """The depths of the stages whose output has the shape of their input."""
    stages = list(encoder.stages.values())
    return tuple(
        depth
        for depth, (before, stage) in enumerate(pairwise(stages), start=1)
        if before.shape == stage.shape and (stage.shape.kind in ("vector", "nodes") or _keeps_size(stage))
    )


def _keeps_size(stage: Stage) -> bool:
    """Whether a stage from maps to maps, or tokens to tokens, of the same width leaves their size as it is."""
    probe = copy.deepcopy(stage).eval()
    like = next(iter(probe.parameters()), torch.zeros(()))
    if stage.shape.kind == "tokens":
        given, mask = like.new_zeros(1, 20, stage.shape.width), torch.ones(1, 20, dtype=torch.bool, device=like.device)
    else:
        given, mask = like.new_zeros(1, stage.shape.width, 16, 16), None
    try:
        with torch.no_grad():
            return probe(Features(given, mask)).values.shape == given.shape  # type: ignore[no-any-return]
    except Exception:  # Whatever a stage says that is made for maps of one size: it is not skipped.
        return False


class _Group(NamedTuple):
    """Tasks that have gone through the same stages so far, with what they have computed.

    Attributes:
        tasks: The tasks.
        features: Their features; the raw input at the start.
        positions: Which rows of the batch these are of; None: all.
    """

    tasks: tuple[str, ...]
    features: Any
    positions: Tensor | None = None

    def only(self, tasks: Sequence[str], rows: Mapping[str, Tensor | None]) -> _Group:
        """Some of the tasks, with the rows that these need."""
        needed = union_of([rows.get(task) for task in tasks])
        return _Group(tuple(tasks), select_rows(self.features, within(needed, self.positions)), needed)


class AdaShareTrunk(ChoosingTrunk):
    """One trunk, with each task's choices which stages to execute.

    Args:
        name: The input.
        encoder: Its stages are the trunk.
        tasks: All tasks.
        policy: What is asked of the choices.
        drawing: How they are drawn while training.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], policy: Policy, drawing: Drawing) -> None:
        super().__init__(name, encoder, tasks, drawing)
        self.policy = policy
        self._skippable = skippable(encoder)
        self.body = encoder.stages
        # The first option is to execute, the second to skip.
        self.choices = NamedModules({task: Choices(len(self._skippable), 2, drawing) for task in tasks})

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. Tasks are computed together as long as their choices are the same."""
        weights = self._drawn(tasks) if self.training else self._taken(tasks)
        everything = _Group(tuple(tasks), inputs[self.input])
        # As in other schemes, what all tasks train together sees all rows, those without any label too.
        groups = [everything if self.training and len(self.tasks) > 1 else everything.only(tasks, rows)]
        for depth, stage in enumerate(self._names):
            groups = [after for group in groups for after in self._passed(stage, group, weights.get(depth), rows)]
        ends = {task: group.only((task,), rows).features for group in groups for task in group.tasks}
        return TrunkOutput({task: ends[task] for task in tasks}, self._penalties() if self.training else {})

    def _passed(
        self, stage: str, group: _Group, weights: Mapping[str, Any] | None, rows: Mapping[str, Tensor | None]
    ) -> list[_Group]:
        """What becomes of a group at a stage, given by task how far it is executed; None: entirely, by all."""
        if weights is None:
            return [group._replace(features=self.body[stage](group.features))]
        if self.training:
            # What the tasks read is the same here, so the stage runs once for all of them.
            executed = group._replace(features=self._executed(stage, group.features))
            found = []
            for task in group.tasks:
                done, skipped = executed.only((task,), rows), group.only((task,), rows)
                u = weights[task]
                values = u * done.features.values + (1 - u) * skipped.features.values
                found.append(done._replace(features=done.features._replace(values=values)))
            return found
        running = tuple(task for task in group.tasks if weights[task])
        skipping = tuple(task for task in group.tasks if not weights[task])
        found = [group.only(skipping, rows)] if skipping else []
        if running:
            part = group.only(running, rows)
            found.append(part._replace(features=self._executed(stage, part.features)))
        return found

    def _executed(self, stage: str, features: Features) -> Features:
        after: Features = self.body[stage](features)
        if after.values.shape != features.values.shape:
            raise UserError(
                f"adashare: stage '{stage}' turns {list(features.values.shape)} into {list(after.values.shape)}, so it "
                "cannot be skipped. Take another sharing scheme or another encoder."
            )
        return after

    def _decided(self) -> list[tuple[int, int]]:
        """The stages under decision: their places among those that can be skipped, and their depths."""
        if self.warming_up:
            return []
        total, passed = len(self._skippable), self.now - self.drawing.warm_up
        over = passed >= self.policy.curriculum
        count = total if over else min(total, 1 + int(total * passed / self.policy.curriculum))
        return list(enumerate(self._skippable))[total - count :]

    def _drawn(self, tasks: Sequence[str]) -> dict[int, dict[str, Tensor]]:
        """How far each of some tasks executes each stage under decision, by depth."""
        decided = self._decided()
        drawn = {task: self.choices[task].draw(self.now)[:, 0].unbind() for task in tasks if decided}
        return {depth: {task: drawn[task][place] for task in tasks} for place, depth in decided}

    def _taken(self, tasks: Sequence[str]) -> dict[int, dict[str, bool]]:
        """Whether each of some tasks executes each stage under decision, by depth."""
        taken = {task: [option == 0 for option in self.choices[task].likeliest()] for task in tasks}
        return {depth: {task: taken[task][place] for task in tasks} for place, depth in self._decided()}

    def _penalties(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        decided = self._decided()
        if not decided:
            return found
        first = decided[0][0]
        logs = torch.stack([self.choices[task].logits[first:].log_softmax(1)[:, 0] for task in self.tasks])
        if self.policy.sparsity:
            found["sparsity"] = self.policy.sparsity * logs.sum()
        if self.policy.sharing and len(self.tasks) > 1:
            pairs = torch.combinations(torch.arange(len(self.tasks), device=logs.device))
            distances = logs.exp()[pairs].diff(dim=1).abs().sum((0, 1))
            found["sharing"] = self.policy.sharing * (self._importance(logs)[first:] * distances).sum()
        return found

    def _importance(self, like: Tensor) -> Tensor:
        """`w_l` for each stage that can be skipped."""
        total = len(self._skippable)
        falling = torch.arange(total, 0, -1, device=like.device, dtype=like.dtype) / total
        return {"bottom": falling, "top": falling.flip(0), "none": torch.ones_like(falling)}[self.policy.shared_end]

    def parts(self) -> list[Part]:
        """See `Trunk.parts`. In evaluation a stage has the tasks that execute it, and no loss reaches the choices."""
        taken = {} if self.training else self._taken(self.tasks)
        found = []
        for depth, (stage, module) in enumerate(self.body.items()):
            users = tuple(task for task in self.tasks if depth not in taken or taken[depth][task])
            found.append(Part(stage, users, module, depth))
        return found + [
            Part(f"choices of {task}", (task,) if self.training else (), each) for task, each in self.choices.items()
        ]

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`: how likely each task executes each stage that it could skip."""
        values = torch.stack([self.choices[task].probabilities()[:, 0].detach() for task in self.tasks])
        return {"executes": LearnedTable(values, self.tasks, tuple(self._names[depth] for depth in self._skippable))}
