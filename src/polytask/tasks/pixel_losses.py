"""Losses of numbers for each pixel, of standardised values or of logarithms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BERHU_SHARE = 0.2
"""Where the reverse Huber loss turns from linear to square: at this share of the image's greatest error."""


def number_losses(kind: str, output: Tensor, target: Tensor, mask: Tensor, delta: float) -> Tensor:
    """The loss of each pixel, `[B, H, W]`: the mean over the channels.

    Args:
        kind: `mse`, `l1`, `huber` or `berhu`.
        output: Standardised, `[B, C, H, W]`.
        target: Standardised, `[B, C, H, W]`.
        mask: bool `[B, H, W]`: where there is a label.
        delta: Where the Huber loss turns from square to linear.
    """
    if kind == "mse":
        losses = F.mse_loss(output, target, reduction="none")
    elif kind == "l1":
        losses = F.l1_loss(output, target, reduction="none")
    elif kind == "huber":
        losses = F.huber_loss(output, target, reduction="none", delta=delta)
    else:
        losses = _berhu((output - target).abs(), mask)
    return losses.mean(1)


def _berhu(errors: Tensor, mask: Tensor) -> Tensor:
    greatest = errors.detach().masked_fill(~mask[:, None], 0.0).amax((1, 2, 3), keepdim=True)
    turn = (_BERHU_SHARE * greatest).clamp(min=torch.finfo(errors.dtype).tiny)
    return torch.where(errors <= turn, errors, (errors.square() + turn.square()) / (2 * turn))


def scale_invariant_losses(difference: Tensor, mask: Tensor, share: float) -> Tensor:
    """The loss of each pixel, `[B, H, W]`, whose mean over an image's labelled pixels is `mean d² - share (mean d)²`.

    Args:
        difference: d, of logarithms, `[B, H, W]`.
        mask: bool `[B, H, W]`: where there is a label.
        share: How much of a common factor is forgiven, from 0 to 1.
    """
    difference = difference.masked_fill(~mask, 0.0)
    mean = difference.sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True).clamp(min=1)
    return difference * (difference - share * mean)
