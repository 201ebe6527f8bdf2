"""One class out of several, for each row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.class_weights import class_weight_tensor
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import ClassMetric
from polytask.tasks.target import (
    class_names,
    completed,
    one_column,
    source_names,
    task_name,
    weight_column,
)
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Classification(Task):
    """One class out of two or more: softmax and cross-entropy.

    The loss of a batch is `sum_i w(y_i) l_i / sum_i w(y_i)` over its labelled rows, with `l_i` the cross-entropy of
    row i and `w` the class weights, all 1 by default (the convention of `torch.nn.functional.cross_entropy`).

    Args:
        target: The column to predict; None: the one called as the task is.
        name: The task's name; None: the target.
        classes: The classes in order, or their number C for classes that are called `0` to `C - 1`; None: those of
            the training data.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        class_weights: Weights of the classes in the loss, by name (1 for those not named), or `balanced`: n / (C n_c)
            for a class with n_c of n training rows, C being the number of classes that occur; 1 for one that does not.
        label_smoothing: Share of the target probability that is spread evenly over all classes, in [0, 1).
        metric: The metric that judges the task.
        unseen: What a class that the training data do not have does later: `error`, or `unknown`, an extra class.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: Training rows of each class.

    Raises:
        UserError: A parameter is out of range, or weights name a class that does not exist.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(ClassMetric)
    probabilistic = True
    class_weights: Tensor | None

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        classes: int | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        metric: ClassMetric = "accuracy",
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
            raise UserError(f"Task '{self.name}': without data, classes has to be given: their number or their names.")
        if len(names) < 2:
            raise UserError(
                f"Task '{self.name}' has only one class, {listing(names)}: there is nothing to tell apart. Two or more "
                "are needed."
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"Task '{self.name}': label_smoothing is {label_smoothing}, but must be at least 0 and below 1."
            )
        if counts is not None and len(counts) != len(names):
            raise UserError(f"Task '{self.name}': there are {len(names)} classes, but {len(counts)} counts.")
        self.classes = names
        self.counts = None if counts is None else tuple(counts)
        self.label_smoothing = label_smoothing
        self.unseen = unseen
        self.hidden, self.dropout = tuple(hidden), dropout
        self.register_buffer("class_weights", class_weight_tensor(class_weights, names, self.counts, self.name))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = one_column(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="category",
            columns=columns,
            classes=class_names(parameters.get("classes"), task_name(parameters.get("name"), columns)),
            unseen=parameters.get("unseen", "error"),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
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
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`."""
        return F.cross_entropy(
            in_full_precision(output),
            target,
            weight=self.class_weights,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    @property
    def kin(self) -> Hashable | None:
        """See `Task.kin`; a class derived from this one may compute otherwise."""
        if type(self) is not Classification or self.class_weights is not None:
            return None
        return "classes", self.outputs, self.label_smoothing

    def entries_of_kin(self, tasks: Sequence[Task], output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries_of_kin`."""
        return self.entries(output.flatten(0, 1), target.flatten()).view(target.shape)

    def importance(self, target: Tensor) -> Tensor | None:
        """The weight of each row's class; see `Task.importance`."""
        return None if self.class_weights is None else self.class_weights[target]

    def prediction(self, output: Tensor) -> Tensor:
        """Probabilities of the classes; see `Task.prediction`."""
        return in_full_precision(output).softmax(dim=1)

    def confident(self, output: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """The likeliest class of each row, and whether its probability is large enough; see `Task.confident`."""
        probabilities, classes = self.prediction(output).max(dim=1)
        return classes, probabilities >= threshold

    def difference(self, output: Tensor, reference: Tensor) -> Tensor:
        """The mean over the classes of the squared differences of probabilities; see `Task.difference`."""
        return super().difference(output, reference).mean(dim=1)

    def divergence(self, output: Tensor, reference: Tensor) -> Tensor:
        """See `Task.divergence`."""
        own, truth = (in_full_precision(each).log_softmax(dim=1) for each in (output, reference))
        return F.kl_div(own, truth, reduction="none", log_target=True).sum(dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.scores import class_metrics

        return class_metrics(self.outputs, labels=False)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(in_full_precision(output[mask]).softmax(dim=1), target[mask])

    def baseline(self, rows: int) -> Tensor:
        """Logarithms of the class frequencies in the training rows; half a row for a class without any."""
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, the training rows of each class.")
        frequencies = torch.tensor(self.counts, dtype=torch.float32).clamp(min=0.5)
        return (frequencies / frequencies.sum()).log().expand(rows, -1)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """See `Task.decode`."""
        probabilities = in_full_precision(output.detach()).softmax(dim=1).cpu().numpy()
        named = np.array(self.classes, dtype=object)[probabilities.argmax(axis=1)]
        return {"": named, **{f"p_{c}": probabilities[:, i] for i, c in enumerate(self.classes)}}
