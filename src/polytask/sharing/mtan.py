"""MTAN: each task attends to the features of a shared trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.encoders.batch_norm import BatchNorm1d, BatchNorm2d
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.mixing import pooled
from polytask.sharing.pointwise import pointwise
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, Sharing, TrunkOutput, only_encoder, select_rows


class MTAN(Sharing):
    """Multi-task attention network (MTAN).

    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019. One trunk is shared by all
    tasks; `p^l` are its features behind stage l. At each stage, task k has an attention module that chooses among them,

        a_k^l = σ(h_k^l(g_k^l([p^l ; f^l(â_k^{l-1})])))       without f and â behind the first stage
        â_k^l = a_k^l ⊙ p^l

    and the task's features are `â_k^L`, those behind the last stage. g and h are the task's own maps at each position,
    g followed by a normalisation and ReLU, h by a normalisation. f is common to all tasks, as in the paper: it brings
    what the task attended to before to the width of this stage, a convolution, normalisation and ReLU, and then to the
    size of its maps by max pooling. Where features change their kind (a map becomes a vector, say), their mean over all
    positions is taken first, and f is a fully connected layer. Normalisation is batch normalisation as published; on
    tokens it is layer normalisation. In training, batch normalisation sees the rows of one task at a time; in f its
    running statistics mix those of all tasks. New layers start from Xavier's normal weights, as in the official code,
    so that attention starts near one half and not open.

    Different from the paper: the mask of a stage is computed from what that stage puts out, `p^l`, as in the official
    code for the Visual Decathlon. For image-to-image prediction, the paper computes it from features half way through a
    block, and has such modules in a decoder too, which does not exist here.

    Attention multiplies features by numbers that depend on the input, so that a task can leave out what does not matter
    for a row. Nothing of the trunk runs twice: the cost is in the attention modules, about `3 width² / reduction`
    parameters for each task and stage, and f, once for each two neighbouring stages.

    Args:
        reduction: The attention modules' hidden width is the stage's width divided by this: 4 as in the official code
            for ResNet; 1 as in that for SegNet.
        kernel: The size of f's convolutions on maps: 3 as published, or 1, which has a ninth of the parameters.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(self, reduction: int = 4, kernel: Literal[1, 3] = 3) -> None:
        if reduction < 1:
            raise UserError(f"mtan: reduction is {reduction}, but must be at least 1.")
        if kernel not in (1, 3):
            raise UserError(f"mtan: kernel is {kernel}, but must be 1 or 3.")
        self.reduction = reduction
        self.kernel = kernel

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> MTANTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        return MTANTrunk(name, encoder, tasks, self.reduction, self.kernel)


class Attention(nn.Module):
    """A task's mask for the features of a stage: h and g of the formula.

    Args:
        shape: The features of the stage.
        incoming: Number of features that the mask is computed from.
        hidden: Number of features between g and h.
    """

    def __init__(self, shape: FeatureShape, incoming: int, hidden: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(
            _affine(FeatureShape(shape.kind, incoming), hidden),
            _norm(shape, hidden),
            nn.ReLU(inplace=True),
            _affine(FeatureShape(shape.kind, hidden), shape.width),
            _norm(shape, shape.width),
            nn.Sigmoid(),
        )
        self._channel = -1 if shape.kind == "tokens" else 1

    def forward(self, features: Tensor, before: Tensor | None) -> Tensor:
        """The mask, between 0 and 1."""
        given = features if before is None else torch.cat([features, before], dim=self._channel)
        return self.attend(given)  # type: ignore[no-any-return]


class Extractor(nn.Module):
    """Brings what was attended to at one stage to the shape of the next: f of the formula.

    Args:
        before: The features of the one stage.
        shape: The features of the next.
        kernel: The size of convolutions on maps.
    """

    def __init__(self, before: FeatureShape, shape: FeatureShape, kernel: int) -> None:
        super().__init__()
        self._same_kind = before.kind == shape.kind
        self._kind = shape.kind
        linear: nn.Module
        if self._same_kind and shape.kind == "map":
            linear = nn.Conv2d(before.width, shape.width, kernel, padding=kernel // 2, bias=False)
        else:
            linear = _affine(FeatureShape(shape.kind, before.width), shape.width)
        self.extract = nn.Sequential(linear, _norm(shape, shape.width), nn.ReLU(inplace=True))

    def forward(self, attended: Features, beside: Tensor) -> Tensor:
        """Features of the one stage, for use beside those of the next."""
        if self._kind == "map" and self._same_kind:
            found = self.extract(attended.values)
            size = beside.shape[2:]
            return found if found.shape[2:] == size else F.adaptive_max_pool2d(found, size)
        if self._kind == "tokens" and self._same_kind and attended.values.shape[1] == beside.shape[1]:
            return self.extract(attended.values)  # type: ignore[no-any-return]
        if self._kind == "nodes" and self._same_kind:
            return self.extract(attended.values)  # type: ignore[no-any-return]
        found = pooled(attended)
        if self._kind == "map":
            return self.extract(found[:, :, None, None]).expand(-1, -1, *beside.shape[2:])  # type: ignore[no-any-return]
        if self._kind == "tokens":
            return self.extract(found[:, None]).expand(-1, beside.shape[1], -1)  # type: ignore[no-any-return]
        return self.extract(found)  # type: ignore[no-any-return]


class MTANTrunk(EncoderTrunk):
    """A shared encoder with attention modules.

    Args:
        name: The input.
        encoder: Its stages are shared.
        tasks: All tasks.
        reduction: Divides a stage's width to give the attention modules' hidden width.
        kernel: The size of the extractors' convolutions on maps.
    """

    openness: Tensor

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], reduction: int, kernel: int) -> None:
        super().__init__(name, encoder, tasks)
        self.shared = encoder.stages
        shapes = {stage: module.shape for stage, module in self.shared.items()}
        first = self.stage_names[0]
        self.extractors = NamedModules(
            {stage: Extractor(shapes[before], shapes[stage], kernel) for before, stage in pairwise(shapes)}
        )
        self.attention = NamedModules(
            {
                stage: NamedModules(
                    {
                        task: Attention(
                            shape, shape.width * (1 if stage == first else 2), max(1, shape.width // reduction)
                        )
                        for task in self.tasks
                    }
                )
                for stage, shape in shapes.items()
            }
        )
        for module in (*self.extractors.modules(), *self.attention.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.register_buffer("openness", torch.full((len(self.tasks), len(shapes)), 0.5))

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`."""
        if not tasks:
            return TrunkOutput({})
        values, rows = self.rows_of_only_task(inputs[self.input], rows)
        attended: dict[str, Features] = {}
        levels: dict[str, tuple[Tensor, ...]] = dict.fromkeys(tasks, ())
        for depth, (stage, module) in enumerate(self.shared.items()):
            values = module(values)
            for task in tasks:
                own = select_rows(values, rows.get(task))
                before = self.extractors[stage](attended[task], own.values) if depth else None
                mask = self.attention[stage][task](own.values, before)
                if module.keeps_input:
                    # What a task reads of the finer maps is what it attends to in them.
                    levels[task] = (*levels[task], attended[task].values)
                attended[task] = own._replace(values=mask * own.values, levels=levels[task])
                if self.training:
                    self._note(task, depth, own._replace(values=mask.detach()))
        return TrunkOutput({task: attended[task] for task in tasks})

    @torch.no_grad()
    def _note(self, task: str, depth: int, mask: Features) -> None:
        self.openness[self.tasks.index(task), depth].lerp_(pooled(mask).mean().to(self.openness), 0.1)

    def parts(self) -> list[Part]:
        """See `Trunk.parts`. What is new learns also where the encoder's stages are frozen."""
        found = [Part(stage, self.tasks, module, depth) for depth, (stage, module) in enumerate(self.shared.items())]
        for stage, by_task in self.attention.items():
            if stage in self.extractors:
                found.append(Part(f"extractor for {stage}", self.tasks, self.extractors[stage]))
            found += [Part(f"attention at {stage}", (task,), module) for task, module in by_task.items()]
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """How open each task's attention is at each stage: the mean of its masks, over about the last ten batches."""
        return {"attention": LearnedTable(self.openness.clone(), self.tasks, self.stage_names)}


def _affine(shape: FeatureShape, width: int) -> nn.Module:
    # A bias before batch normalisation has no effect.
    return pointwise(shape, width, bias=shape.kind == "tokens")


def _norm(shape: FeatureShape, width: int) -> nn.Module:
    if shape.kind == "tokens":
        return nn.LayerNorm(width)
    return BatchNorm2d(width) if shape.kind == "map" else BatchNorm1d(width)
