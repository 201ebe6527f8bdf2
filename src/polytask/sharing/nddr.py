"""NDDR: the tasks' features side by side, made as narrow as before by a learned map for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.encoders.batch_norm import BatchNorm1d, BatchNorm2d
from polytask.errors import UserError
from polytask.sharing.columns import ColumnSharing, LayerMerge
from polytask.sharing.exchange import Exchange, shares
from polytask.sharing.pointwise import pointwise
from polytask.sharing.sharing import LearnedTable


class NDDR(ColumnSharing):
    """A network for each task; behind chosen stages each goes on with a learned map of all tasks' features.

    Gao, Ma, Zhao, Liu and Yuille, "NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative
    Dimensionality Reduction", CVPR 2019, https://arxiv.org/abs/1801.08297. Behind a stage, task i goes on with
    `x~_i = norm(W_i [x_1; ...; x_K])`: the features of all tasks side by side, a linear map at each position (a 1 x 1
    convolution on maps) back to the stage's width, and a batch normalisation. `W_i` starts as a diagonal matrix for
    each task, so that at first channels of the same place are mixed, as in cross-stitch, and can become any.

    Different from the paper: the columns start from the encoder, not from networks that were trained on each task
    before, and the maps learn as fast as all else, not up to 100 times as fast. The weight decay that the paper counts
    as part of the method is the optimiser's. In its code a ReLU follows; most stages here bring their own, so
    `activation` has to be asked for.

    The maps have `K^2 D^2` parameters behind a stage of width D, and the batch normalisation replaces the scale of the
    features, also of pretrained ones (see `normalization`). Take it instead of cross-stitch where the networks'
    channels do not correspond: features of any channel can be taken over.

    Args:
        after: The stages behind which features are exchanged: `"inner"`, all but the last, since the paper has none
            behind the fully connected stages at the end; `"all"`; or a stage's name, a number of stages (so that the
            exchange comes behind the last of these; negative: counted from the end), or a list of such.
        normalization: Behind each map: `"batch"`, over rows and positions, without masked tokens; or `"none"`.
        activation: Behind each normalisation: `"relu"` or `"none"`.
        shortcut: Whether a task's head reads all its mixed features and the last stage's output: vectors (means over
            positions) side by side, and a linear map to the encoder's width, normalised as the others are
            (NDDR-CNN-Shortcut).
        options: See `ColumnSharing`.

    Raises:
        UserError: A parameter is out of its limits.
    """

    scheme = "nddr"
    merging = "shortcut: false"

    def __init__(
        self,
        after: str | int | Sequence[str | int] = "inner",
        normalization: Literal["batch", "none"] = "batch",
        activation: Literal["none", "relu"] = "none",
        *,
        shortcut: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(after, **options)
        if normalization not in ("batch", "none"):
            raise UserError(f"'normalization' must be 'batch' or 'none', but {normalization!r} was given.")
        if activation not in ("none", "relu"):
            raise UserError(f"'activation' must be 'none' or 'relu', but {activation!r} was given.")
        self.normalization = normalization
        self.activation = activation
        self.shortcut = shortcut

    def exchange(self, shape: FeatureShape, tasks: Sequence[str]) -> Exchange:
        """See `ColumnSharing.exchange`."""
        rows = shares(len(tasks), self.self_weight)
        reductions = {
            task: Reduction(shape, row, self._norm(shape), self._activation())
            for task, row in zip(tasks, rows, strict=True)
        }
        return ReductionExchange(reductions, 1 if shape.kind == "map" else -1)

    def ends(self, encoder: Encoder, depths: Sequence[int], tasks: Sequence[str]) -> Mapping[str, LayerMerge] | None:
        """See `ColumnSharing.ends`."""
        if not self.shortcut or len(tasks) == 1:
            return None
        stages = list(encoder.stages.values())
        widths = [stages[depth].shape.width for depth in depths]
        return {task: Shortcut(widths, self._norm(encoder.shape), self._activation()) for task in tasks}

    def _norm(self, shape: FeatureShape) -> nn.Module | None:
        if self.normalization == "none":
            return None
        if shape.kind == "tokens":
            return TokenBatchNorm(shape.width)
        return BatchNorm2d(shape.width) if shape.kind == "map" else BatchNorm1d(shape.width)

    def _activation(self) -> nn.Module:
        return nn.ReLU() if self.activation == "relu" else nn.Identity()


class ReductionExchange(Exchange):
    """The tasks' features side by side, and a map of them for each task.

    Args:
        reductions: The maps by task.
        dimension: Along which of a stage's values the channels are.
    """

    def __init__(self, reductions: Mapping[str, Reduction], dimension: int) -> None:
        super().__init__(reductions)
        self.dimension = dimension

    def gather(self, columns: Sequence[Features]) -> Tensor:
        """`[B, ..., K D]`, or `[B, K D, ...]` of maps."""
        return torch.cat([features.values for features in columns], dim=self.dimension)

    def mix(self, gathered: Tensor, own: Mapping[str, Features]) -> dict[str, Features]:
        """See `Exchange.mix`."""
        return {
            task: features._replace(values=self.mixers[task](gathered, features.mask)) for task, features in own.items()
        }

    def learned(self) -> LearnedTable:
        """See `Exchange.learned`: see `strengths`."""
        tasks = tuple(self.mixers)
        maps = [mixer.get_parameter("map.weight") for mixer in self.mixers.values()]
        return LearnedTable(torch.stack([strengths(each, [len(each)] * len(tasks)) for each in maps]), tasks, tasks)


class Reduction(nn.Module):
    """All tasks' features at a position to those of one.

    Args:
        shape: The stage's output.
        weights: `[K]`, how much of each task's features the map starts with.
        norm: Behind the map.
        activation: Behind the normalisation.
    """

    def __init__(self, shape: FeatureShape, weights: Tensor, norm: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        # What a bias adds, a normalisation takes away.
        self.map = pointwise(FeatureShape(shape.kind, len(weights) * shape.width), shape.width, bias=norm is None)
        diagonals = torch.cat([weight * torch.eye(shape.width) for weight in weights], dim=1)
        with torch.no_grad():
            for name, parameter in self.map.named_parameters():
                parameter.copy_(diagonals.view_as(parameter) if name == "weight" else torch.zeros_like(parameter))
        self.norm = norm
        self.activation = activation

    def forward(self, gathered: Tensor, mask: Tensor | None) -> Tensor:
        """Features of the width of K stages to those of one."""
        values = self.map(gathered)
        if self.norm is not None:
            values = self.norm(values, mask) if isinstance(self.norm, TokenBatchNorm) else self.norm(values)
        return self.activation(values)  # type: ignore[no-any-return]


class TokenBatchNorm(BatchNorm1d):
    """Batch normalisation over rows and tokens; masked tokens have no part in the statistics."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, T, D]` with a mask `[B, T]` to `[B, T, D]`."""
        if not self.training or mask is None:
            return super().forward(input.flatten(0, 1)).view_as(input)
        real = input[mask]
        if not len(real):
            return torch.zeros_like(input)
        normed = super().forward(real)
        return torch.zeros_like(input, dtype=normed.dtype).masked_scatter(mask.unsqueeze(-1), normed)


class Shortcut(LayerMerge):
    """Vectors of several stages side by side, and a linear map to the width of the last.

    Args:
        widths: The stages' widths, in order.
        norm: Behind the map.
        activation: Behind the normalisation.
    """

    def __init__(self, widths: Sequence[int], norm: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        self.widths = list(widths)
        self.map = nn.Linear(sum(widths), widths[-1], bias=norm is None)
        nn.init.xavier_uniform_(self.map.weight)
        if norm is None:
            nn.init.zeros_(self.map.bias)
        self.norm = nn.Identity() if norm is None else norm
        self.activation = activation

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """See `LayerMerge.forward`."""
        return self.activation(self.norm(self.map(torch.cat(list(layers), dim=1))))  # type: ignore[no-any-return]

    def shares(self) -> Tensor:
        """See `LayerMerge.shares`, and `strengths`."""
        return strengths(self.map.weight, self.widths)


def strengths(weight: Tensor, widths: Sequence[int]) -> Tensor:
    """`[n]`: for each of n blocks of a map's inputs, the root mean square of what it does to a unit vector.

    A block that is a times the identity has a.

    Args:
        weight: `[D, sum of widths, ...]`.
        widths: The number of inputs in each block.
    """
    blocks = torch.split(weight.detach().flatten(1), list(widths), dim=1)
    return torch.stack([block.square().sum(0).mean().sqrt() for block in blocks])
