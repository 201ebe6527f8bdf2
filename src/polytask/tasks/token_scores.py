"""The metrics of tokens; imported when first used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection


class TokenScore(Metric):
    """A metric of tokens that were told.

    Args:
        kind: `accuracy` or `perplexity`.
    """

    is_differentiable = False
    full_state_update = False
    tokens: Tensor
    right: Tensor
    loss: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self.add_state("tokens", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add `[N, V]` logits of tokens, and the tokens `[N]`."""
        wide = target.device.type != "mps"
        losses = F.cross_entropy(logits, target, reduction="none")
        self.tokens = self.tokens + len(target)
        self.right = self.right + (logits.argmax(dim=1) == target).sum()
        self.loss = self.loss + (losses.double() if wide else losses).sum()

    def compute(self) -> Tensor:
        """The value, NaN where there is no token."""
        found = self.right.double() if self._kind == "accuracy" else self.loss.cpu().double()
        mean = found.cpu() / self.tokens.cpu()
        return mean if self._kind == "accuracy" else mean.exp()


def token_metrics() -> MetricCollection:
    """Metrics of tokens; fed with logits and tokens."""
    names = ("accuracy", "perplexity")
    return MetricCollection({name: TokenScore(name) for name in names}, compute_groups=[list(names)])
