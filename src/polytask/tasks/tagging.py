"""One class for each word of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureKind, FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.sequences import BLANK, Sequences, padded
from polytask.tasks.metrics import TagMetric
from polytask.tasks.spans import tagset
from polytask.tasks.target import (
    class_names,
    completed,
    named_weights,
    one_column,
    source_names,
    task_name,
    weight_column,
)
from polytask.tasks.task import Task, in_full_precision
from polytask.tasks.word_head import WordHead, WordPooling

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Tagging(Task):
    """One class for each word: parts of speech, names, phrases.

    The target is a list of tags, or text with a tag for each word, separated by spaces; a null in a list is a word
    without a label. The words are those of a text input with `words: true`. The loss of a batch is
    `sum_w c(y_w) l_w / sum_w c(y_w)` over the labelled words of its rows, `l_w` being the cross-entropy of a word and
    `c` the class weights, all 1 by default.

    Names and phrases have tags that begin with a mark: `B-` (begin), `I-` (inside), `E-` or `L-` (end), `S-` or `U-`
    (single), and `O` (outside). Where all tags are such, `span_f1` counts whole spans.

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name; None: the target.
        classes: The tags in order; None: those of the training data.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row's words count in the mean loss of training: a number of at least 0;
            an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        words: The text input whose words are tagged; None: the only one that is read word by word.
        pool: What a word is of the tokens that it is split into: its `first`, or the `mean` of all.
        class_weights: Weights of the classes in the loss, by name, 1 for those not named.
        label_smoothing: Share of the target probability that is spread evenly over all classes, in [0, 1).
        metric: The metric that judges the task.
        unseen: What a tag that the training data do not have does later: `error`, or `unknown`, an extra class.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: Training words of each class.

    Raises:
        UserError: A parameter is out of range, or weights name a class that does not exist.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(TagMetric)
    reads: ClassVar[FeatureKind] = "tokens"
    modalities: ClassVar[tuple[str, ...]] = ("text",)
    condenses = True
    class_weights: Tensor | None

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        words: str | None = None,
        pool: WordPooling = "first",
        class_weights: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        metric: TagMetric = "accuracy",
        unseen: Literal["error", "unknown"] = "error",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        counts: FromData[Sequence[int] | None] = None,
    ) -> None:
        columns = one_column(target, name)
        super().__init__(
            task_name(name, columns),
            columns,
            weight,
            metric,
            sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        names = class_names(classes, self.name)
        if names is None:
            raise UserError(f"Task '{self.name}': without data, classes has to be given: the tags in order.")
        if len(names) < 2:
            raise UserError(
                f"Task '{self.name}' has only one tag, {listing(names)}: there is nothing to tell apart. Two or more "
                "are needed."
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"Task '{self.name}': label_smoothing is {label_smoothing}, but must be at least 0 and below 1."
            )
        if pool not in get_args(WordPooling):
            raise UserError(f"Task '{self.name}': pool is '{pool}'. Allowed: {listing(get_args(WordPooling))}.")
        if counts is not None and len(counts) != len(names):
            raise UserError(f"Task '{self.name}': there are {len(names)} classes, but {len(counts)} counts.")
        self.classes = names
        self.counts = None if counts is None else tuple(counts)
        self.label_smoothing = label_smoothing
        self.pool = pool
        self.hidden, self.dropout = tuple(hidden), dropout
        self._tagset = tagset(names, other="unknown" if unseen == "unknown" else None)
        weights = None
        if class_weights is not None:
            weights = torch.tensor(named_weights(class_weights, names, task=self.name, parameter="class_weights"))
            if not weights.any():
                raise UserError(f"Task '{self.name}': class_weights are all 0, so there is nothing to learn.")
        self.register_buffer("class_weights", weights)

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = one_column(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="tags",
            columns=columns,
            classes=class_names(parameters.get("classes"), task_name(parameters.get("name"), columns)),
            unseen=parameters.get("unseen", "error"),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            words=parameters.get("words"),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(parameters, summary, classes=summary.classes, counts=map(int, summary.counts))

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return WordHead(shape.width, self.hidden, self.outputs, self.dropout, self.pool, task=self.name)

    def entries(self, output: Any, target: Any) -> Tensor:
        """The sum of the losses of each row's labelled words, `[B]`.

        Args:
            output: `Sequences` `[B, W, outputs]`, from the head; one word alone stands for all of its row.
            target: `Sequences` `[B, W]`.
        """
        tags: Tensor = target.values
        losses = F.cross_entropy(
            _for_words(in_full_precision(output.values), tags.shape[1]).flatten(0, 1),
            tags.flatten(),
            weight=self.class_weights,
            ignore_index=BLANK,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return losses.view(tags.shape).sum(dim=1)

    def importance(self, target: Any) -> Tensor:
        """What the labelled words of each row count together, `[B]`; see `Task.importance`."""
        tags: Tensor = target.values
        known = tags >= 0
        if self.class_weights is None:
            return known.sum(dim=1)
        return self.class_weights[tags.clamp(min=0)].masked_fill(~known, 0.0).sum(dim=1)

    def total(self, target: Any, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """See `Task.total`."""
        return super().total(target, torch.ones_like(target.lengths).bool() if mask is None else mask, weights)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.tag_scores import tag_metrics

        return tag_metrics(self._tagset)

    def condensed(self, output: Any) -> Any:
        """The likeliest tag of each word; see `Task.condensed`."""
        return Sequences(output.values.argmax(dim=2), output.lengths)

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(output, target, mask)

    def baseline(self, rows: int) -> Any:
        """Logarithms of the tags' frequencies in the training rows, for one word that stands for all of its row."""
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, the training words of each class.")
        frequencies = torch.tensor(self.counts, dtype=torch.float32).clamp(min=0.5)
        values = (frequencies / frequencies.sum()).log().expand(rows, 1, -1)
        return Sequences(values, torch.ones(rows, dtype=torch.int64))

    def decode(self, output: Any) -> dict[str, Any]:
        """A list of tags for each row, one for each word that was read; see `Task.decode`."""
        found = self.condensed(output)
        rows = zip(found.values.tolist(), found.lengths.tolist(), strict=True)
        return {"": [[self.classes[tag] for tag in tags[:length]] for tags, length in rows]}


def _for_words(values: Tensor, words: int) -> Tensor:
    """Outputs `[B, W, ...]` for so many words."""
    return values.expand(-1, words, -1) if values.shape[1] == 1 else padded(values, words)
