"""Batch normalisation that can train on one value a channel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation over rows; a single row is normalised by the running statistics.

    One row has no variance, and PyTorch refuses to train on it. It occurs, though: in the last batch of an epoch, or
    where one row of a batch is labelled for a task.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        return _by_running_statistics(self, input) if _is_single(self, input) else super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over rows and positions; a single position is normalised by the running statistics.

    See `BatchNorm1d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        return _by_running_statistics(self, input) if _is_single(self, input) else super().forward(input)


def _is_single(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> bool:
    return norm.training and values.numel() == values.shape[1]


def _by_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> Tensor:
    # Copies: the backward pass reads them, and other rows may have changed the layer's own by then.
    mean, variance = (None if each is None else each.clone() for each in (norm.running_mean, norm.running_var))
    return F.batch_norm(values, mean, variance, norm.weight, norm.bias, eps=norm.eps)
