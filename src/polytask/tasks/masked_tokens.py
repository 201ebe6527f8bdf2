"""Which tokens of a text were hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks.label_free import LabelFreeTask
from polytask.tasks.metrics import TokenMetric
from polytask.tasks.target import completed
from polytask.tasks.task import in_full_precision
from polytask.tasks.token_head import ChosenTokens, TokenHead, TokenLogits

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MaskedTokens(LabelFreeTask):
    """Tells the tokens of a text that were hidden, from those around them; needs no labels.

    Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", NAACL 2019, https://arxiv.org/abs/1810.04805. Of n tokens, special ones aside, `max(1, round(share
    n))` are to be told. 80 % of these are hidden by the mask, 10 % become another token, drawn from all, and 10 % stay.
    The loss is the mean cross-entropy over these tokens alone, each counting the same; elsewhere nothing is computed.
    The head is BERT's: a layer, GELU, layer normalisation, and a linear map to the vocabulary.

    The mask is the tokenizer's own, where a pretrained one has one, and else the token for unknown words (of `words`,
    padding), which texts have no other use for. It needs an encoder that gives a vector for each token, and is not for
    `ngrams`, `affixes` and `weights`. The vocabulary decides what it costs: of `words`, set a small number of
    `buckets`.

    Args:
        input: The input with the texts; None: the only one.
        name: The task's name.
        sources: The named sources of `data` whose rows it learns from; None: all.
        weight: Multiplies the loss before the balancer sees it.
        auxiliary: Whether it is learned for the sake of the others alone, so that the mean gain leaves it out.
        metric: The metric that judges the task.
        share: The share of the tokens that are to be told.
        counts: How often each token occurs in the training rows (in a sample, where there are many).
        longest: The greatest number of tokens that are to be told of one text.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(TokenMetric)
    reads = "tokens"
    condenses = True

    def __init__(
        self,
        input: str | None = None,
        *,
        name: str = "masked_tokens",
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        auxiliary: bool = True,
        metric: TokenMetric = "accuracy",
        share: float = 0.15,
        counts: FromData[Sequence[int]] = (),
        longest: FromData[int] = 1,
    ) -> None:
        super().__init__(name, weight, metric, sources, auxiliary=auxiliary)
        _check(name, share)
        if not counts:
            raise UserError(f"Task '{name}': without data, counts has to be given: how often each token occurs.")
        self.input, self.share = input, share
        self.counts, self.longest = tuple(counts), longest

    @classmethod
    def view_spec(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """See `LabelFreeTask.view_spec`."""
        share = parameters.get("share", 0.15)
        _check(parameters.get("name"), share)
        return {"kind": "masked_tokens", "share": share}

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return {**completed(parameters, summary, counts=map(int, summary.counts)), "longest": int(summary.longest)}

    @property
    def outputs(self) -> int:
        """The size of the vocabulary."""
        return len(self.counts)

    @property
    def answer_size(self) -> int:
        """See `Task.answer_size`."""
        return self.outputs * self.longest

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return TokenHead(shape.width, self.outputs)

    def at_labels(self, features: Features, target: Tensor, mask: Tensor | None) -> ChosenTokens:
        """The features of the tokens that are to be told; see `Task.at_labels`."""
        there = torch.ones_like(target[..., 0], dtype=torch.bool) if mask is None else mask
        rows, numbers = there.nonzero(as_tuple=True)
        return ChosenTokens(features.values[rows, target[rows, numbers, 0]], there)

    def entries(self, output: Any, target: Tensor) -> Tensor:
        """See `Task.entries`: `[B, M]`; `target` is `[B, M, 2]`, the place and the id of each token."""
        there = _there(output, target, None)
        found = torch.zeros(there.shape, device=target.device)
        return found.masked_scatter(there, self._losses(output, target, there))

    def loss(
        self,
        output: Any,
        target: Tensor,
        mask: Tensor | None,
        weights: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """See `Task.loss`; rows all count the same."""
        losses = self._losses(output, target, _there(output, target, mask))
        return losses.mean() if total is None else losses.sum() / total.where(total > 0, 1)

    def total(self, target: Tensor, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """See `Task.total`."""
        return torch.tensor(target[..., 0].numel(), device=target.device) if mask is None else mask.sum()

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.token_scores import token_metrics

        return token_metrics()

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        logits = _at(output, mask)
        metrics.update(logits, target[mask][:, 1])

    def baseline(self, rows: int) -> Tensor:
        """Logarithms of the tokens' frequencies in the training rows; half an occurrence for a token without any."""
        frequencies = torch.tensor(self.counts, dtype=torch.float32).clamp(min=0.5)
        return (frequencies / frequencies.sum()).log().expand(rows, -1)

    def _losses(self, output: Any, target: Tensor, there: Tensor) -> Tensor:
        """The loss of each token that is to be told, in the rows' order."""
        return F.cross_entropy(_at(output, there), target[there][:, 1], reduction="none")


def _there(output: Any, target: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens there are to be told, bool `[B, M]`."""
    if isinstance(output, TokenLogits):
        return output.there
    return torch.ones_like(target[..., 0], dtype=torch.bool) if mask is None else mask


def _at(output: Any, there: Tensor) -> Tensor:
    """The logits of the tokens that are to be told (bool `[B, M]`); a plain output has the same for all of a row."""
    logits = output.logits if isinstance(output, TokenLogits) else output[there.nonzero()[:, 0]]
    return in_full_precision(logits)


def _check(task: str | None, share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"Task '{task}': share is {share}, but must be above 0 and below 1. BERT's is 0.15.")
