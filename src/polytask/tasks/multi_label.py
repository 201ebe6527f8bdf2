"""Any number of classes, for each row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import ClassMetric
from polytask.tasks.target import (
    class_names,
    completed,
    named_weights,
    source_names,
    target_columns,
    task_name,
    weight_column,
)
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MultiLabel(Task):
    """Any number of labels a row: a yes/no decision for each, sigmoid and binary cross-entropy.

    The loss is the mean over the labelled entries (row and label). A label is predicted where its probability is above
    one half.

    Args:
        target: One column of lists (or of text with a separator), or several yes/no columns, one a label; None: the
            column called as the task is.
        name: The task's name; None: the target's, several joined by `_`.
        classes: The labels in order, or their number C for labels that are called `0` to `C - 1`; None: those of the
            training data. Several columns are their own labels unless they are given names here.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        pos_weight: Weights of the entries that are yes, by label (1 for those not named), or `balanced`: the number of
            no entries over that of yes entries in the training rows, 1 where either is 0.
        metric: The metric that judges the task.
        unseen: What a label that the training data do not have does later: `error`, or `unknown`, an extra label.
        separator: What separates the labels in a text column, and in predictions.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: Training rows that have each label.
        known: Training rows in which it is known whether they have each label.

    Raises:
        UserError: A parameter is out of range, or weights name a label that does not exist.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(ClassMetric)
    probabilistic = True
    pos_weight: Tensor | None

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        classes: int | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        pos_weight: Literal["balanced"] | Mapping[str, float] | None = None,
        metric: ClassMetric = "auroc",
        unseen: Literal["error", "unknown"] = "error",
        separator: str = "|",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        counts: FromData[Sequence[int] | None] = None,
        known: FromData[Sequence[int] | None] = None,
    ) -> None:
        columns = target_columns(target, name)
        super().__init__(
            task_name(name, columns),
            columns,
            weight,
            metric,
            sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        names = _labels(classes, columns, self.name)
        if names is None:
            raise UserError(f"Task '{self.name}': without data, classes has to be given: their number or their names.")
        for values, parameter in ((counts, "counts"), (known, "known")):
            if values is not None and len(values) != len(names):
                raise UserError(f"Task '{self.name}': there are {len(names)} labels, but {len(values)} {parameter}.")
        self.classes = names
        self.unseen, self.separator = unseen, separator
        self.hidden, self.dropout = tuple(hidden), dropout
        self._entries = None if counts is None or known is None else _entries(counts, known)
        self.register_buffer("pos_weight", self._weights(pos_weight))

    def _weights(self, given: Literal["balanced"] | Mapping[str, float] | None) -> Tensor | None:
        if given is None:
            return None
        if given != "balanced":
            if isinstance(given, str):
                raise UserError(
                    f"Task '{self.name}': pos_weight is '{given}'. Allowed: 'balanced', or weights by label."
                )
            return torch.tensor(named_weights(given, self.classes, task=self.name, parameter="pos_weight"))
        if self._entries is None:
            raise UserError(f"Task '{self.name}': balanced pos_weight needs counts and known, from the training rows.")
        yes, no = self._entries
        return (no / yes).where((yes > 0) & (no > 0), 1.0)

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = target_columns(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="labels",
            columns=columns,
            classes=_labels(parameters.get("classes"), columns, task_name(parameters.get("name"), columns)),
            unseen=parameters.get("unseen", "error"),
            separator=parameters.get("separator", "|"),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        known = summary.known or [summary.labelled] * len(summary.classes)
        return completed(
            parameters, summary, classes=summary.classes, counts=map(int, summary.counts), known=map(int, known)
        )

    @property
    def outputs(self) -> int:
        """The number of labels."""
        return len(self.classes)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        output = in_full_precision(output)
        return F.binary_cross_entropy_with_logits(
            output, target.to(output.dtype), pos_weight=self.pos_weight, reduction="none"
        )

    @property
    def kin(self) -> Hashable | None:
        """See `Task.kin`; a class derived from this one may compute otherwise."""
        if type(self) is not MultiLabel or self.pos_weight is not None:
            return None
        return "labels", self.outputs

    def entries_of_kin(self, tasks: Sequence[Task], output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries_of_kin`."""
        return self.entries(output, target)

    def prediction(self, output: Tensor) -> Tensor:
        """The probability of each label; see `Task.prediction`."""
        return in_full_precision(output).sigmoid()

    def confident(self, output: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Each label's likelier answer, and whether its probability is large enough; see `Task.confident`."""
        probabilities = self.prediction(output)
        answers = probabilities > 0.5
        return answers.to(probabilities.dtype), probabilities.where(answers, 1 - probabilities) >= threshold

    def divergence(self, output: Tensor, reference: Tensor) -> Tensor:
        """That of each label's yes and no; see `Task.divergence`."""
        probabilities = self.prediction(reference)
        # The cross-entropy with these probabilities, less their own entropy.
        own, other = (
            F.binary_cross_entropy_with_logits(in_full_precision(each), probabilities, reduction="none")
            for each in (reference, output)
        )
        return other - own

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.scores import class_metrics

        return class_metrics(self.outputs, labels=True)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        from polytask.tasks.scores import NO_LABEL

        metrics.update(in_full_precision(output), target.long().masked_fill(~mask, NO_LABEL))

    def baseline(self, rows: int) -> Tensor:
        """Log-odds of each label in the training rows; half a row for an answer that does not occur."""
        if self._entries is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts and known, from the training rows.")
        yes, no = (entries.clamp(min=0.5) for entries in self._entries)
        return (yes / no).log().expand(rows, -1)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """See `Task.decode`; the prediction itself is the labels, joined by the separator."""
        probabilities = in_full_precision(output.detach()).sigmoid().cpu().numpy()
        joined = [
            self.separator.join(c for c, chosen in zip(self.classes, row, strict=True) if chosen)
            for row in (probabilities > 0.5).tolist()
        ]
        return {"": joined, **{f"p_{c}": probabilities[:, i] for i, c in enumerate(self.classes)}}


def _labels(classes: int | Sequence[str] | None, columns: tuple[str, ...], task: str) -> tuple[str, ...] | None:
    names = class_names(classes, task)
    if len(columns) == 1:
        return names
    if names is not None and len(names) != len(columns):
        raise UserError(
            f"Task '{task}': its {len(columns)} columns, {listing(columns)}, are its labels, but {len(names)} classes "
            "are given. Leave classes out, or give a name for each column."
        )
    return names or columns


def _entries(counts: Sequence[int], known: Sequence[int]) -> tuple[Tensor, Tensor]:
    yes = torch.tensor(counts, dtype=torch.float32)
    return yes, torch.tensor(known, dtype=torch.float32) - yes
