"""Low-rank changes of weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from polytask.encoders import Stage
from polytask.sharing.task_weights import Change


class LowRank(Change):
    """A matrix of low rank that is added to a weight: `W + scale * up @ down`, at first zero.

    A weight of more than two dimensions is a matrix of its first against all its others, so that it works for
    convolutions, grouped ones too. Linear maps, convolutions and look-ups can add the change to their output instead,
    `W x + scale * up (down (dropout(x)))`, for which the matrix is never made; they do so where it costs less. Where
    it cannot be, in recurrent layers and packed attention, dropout leaves out the same features for all rows and
    positions, as Gal and Ghahramani (NeurIPS 2016) do in recurrent networks. Look-ups have no features to drop.

    Args:
        weight: The shared weight.
        rank: The rank.
        scale: What the product is multiplied by.
        dropout: Probability of dropping a feature on its way to `down` while training.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def changed(self, weight: Tensor) -> Tensor:
        """See `Change.changed`."""
        down = self.down * self.dropout(torch.ones_like(self.down[:1]))
        change: Tensor = (self.up @ down).view_as(weight)
        return weight + self.scale * change

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """See `Change.call`."""
        way = _WAYS.get(function)
        if way is None or self._cheaper_as_weight(*arguments[:2]):
            return NotImplemented
        return function(*arguments, **keywords) + way(self, function, *arguments, **keywords)

    def _cheaper_as_weight(self, values: Tensor, weight: Tensor) -> bool:
        """Whether the task's weight is smaller than what it is applied to, and its gradient is needed anyway."""
        dropping = self.training and isinstance(self.dropout, nn.Dropout)
        needed = weight.requires_grad or not torch.is_grad_enabled()
        return needed and not dropping and weight.numel() <= values.numel()


def _linear(change: LowRank, function: Any, values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: ARG001
    return F.linear(change.scale * F.linear(change.dropout(values), change.down), change.up)


def _convolution(
    change: LowRank,
    function: Any,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,  # noqa: ARG001
    *options: Any,
    **keywords: Any,
) -> Tensor:
    # After the stride, the padding and the dilation.
    groups = options[3] if len(options) > 3 else keywords.get("groups", 1)
    down = change.down.view(-1, *weight.shape[1:])
    if groups > 1:
        down = down.repeat(groups, *[1] * (down.ndim - 1))
    inner = function(change.dropout(values), down, None, *options, **keywords)
    up = change.up.view(*change.up.shape, *[1] * (down.ndim - 2))
    return function(change.scale * inner, up, groups=groups)  # type: ignore[no-any-return]


def _look_up(change: LowRank, function: Any, ids: Tensor, weight: Tensor, *options: Any, **keywords: Any) -> Tensor:  # noqa: ARG001
    # Of the options only the padding's id matters: it gets no gradient.
    padding = options[0] if options else keywords.get("padding_idx")
    return F.linear(change.scale * F.embedding(ids, change.up, padding), change.down.T)


_WAYS: Mapping[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.embedding: _look_up,
}


def low_rank_weights(stage: Stage, *, embeddings: bool) -> dict[str, nn.Parameter]:
    """The weights of a stage that get low-rank changes: those of linear, convolutional, recurrent, attention layers.

    Args:
        stage: The stage.
        embeddings: Whether embedding tables get them, too.
    """
    layers: tuple[type[nn.Module], ...] = (nn.Linear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)
    if embeddings:
        layers += (nn.Embedding,)
    # The linear layers of GPT-2 and its kin are a class of the library.
    library = sys.modules.get("transformers.pytorch_utils")
    if library is not None:
        layers += (library.Conv1D,)
    # So are those of graph layers.
    library = sys.modules.get("torch_geometric.nn.dense.linear")
    if library is not None:
        layers += (library.Linear,)
    found: dict[nn.Parameter, str] = {}
    for path, layer in stage.named_modules():
        if isinstance(layer, layers):
            for name, parameter in layer.named_parameters(path, recurse=False):
                if parameter.ndim > 1 and "bias" not in name.rpartition(".")[2]:
                    found.setdefault(parameter, name)
    return {name: parameter for parameter, name in found.items()}
