"""What a task is: a target, a head, a loss, metrics. Never how it is shared."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from polytask.errors import UserError, closest, listing
from polytask.features import FeatureKind, Features, FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.target import source_names, weight_column

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_ANSWERS = 2**25
"""How many numbers answers may have together: 128 MiB of them."""


class Task(nn.Module, ABC):
    """One thing to learn.

    A task is a module only so that what it knows of its target (class weights, mean and standard deviation) travels
    with the model and its device; it has no trainable parameters. Its head has them.

    Args:
        name: The task's name, in every table and metric key.
        columns: The target columns.
        weight: Multiplies the loss before the balancer sees it.
        metric: The metric that judges the task: a key of `metrics()`.
        sources: The data sets that the labels are taken from; None: all that have the columns.
        sample_weight: The column with what each row counts in the mean loss; None: all the same.
        auxiliary: Whether it is learned for the sake of the others alone, and choices do not look at it.

    Attributes:
        metric_names: The keys of `metrics()`.
        probabilistic: Whether its outputs say how sure it is: whether `confident` and `divergence` are there.
        condenses: Whether an output is too large to be gathered, so that `condensed` makes less of it for the metrics.
        modalities: The kinds of inputs whose positions it answers for; none for tasks with one answer a row.
        lists_of: What the lists hold that `decode` gives, for tasks with several answers a row.
        reads: What its head reads: a vector for each row, or features at positions of it.
        needs_labels: Whether it learns from labels; else it reads versions of its own of an input that the data are
            asked for (`target_spec`), and no predictions are made for it. See `polytask.tasks.label_free`.

    Raises:
        UserError: The name has a dot or is empty, the weight is negative, or there is no such metric.
    """

    metric_names: ClassVar[tuple[str, ...]]
    probabilistic: ClassVar[bool] = False
    condenses: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...]] = ()
    lists_of: ClassVar[type[str] | type[float]] = str
    reads: ClassVar[FeatureKind] = "vector"
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        weight: float,
        metric: str,
        sources: str | Sequence[str] | None = None,
        *,
        sample_weight: str | None = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if not name or "." in name:
            raise UserError(
                f"'{name}' cannot name a task, as it is empty or has a dot. Give the task a name of its own "
                "(name=...) and the column as its target."
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"Task '{name}': weight is {weight}, but must be a number of at least 0.")
        if metric not in self.metric_names:
            raise UserError(
                f"Task '{name}': there is no metric '{metric}'.{closest(metric, self.metric_names)} "
                f"Allowed: {listing(self.metric_names)}."
            )
        self.name = name
        self.columns = tuple(columns)
        self.weight = weight
        self.metric = metric
        self.auxiliary = auxiliary
        self.sources = source_names(sources, name)
        self.sample_weight = weight_column(sample_weight, self.columns, name)

    @classmethod
    @abstractmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """How the target columns are to be read, given the parameters of the task's `__init__`."""

    @classmethod
    @abstractmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """The parameters of the task's `__init__` with what the training part says filled in, as plain JSON values.

        Args:
            parameters: As the user gave them.
            summary: What the training part says about the target.

        Raises:
            UserError: The task cannot be learned from this training part.
        """

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The number of outputs of the head for one row."""

    @property
    def answer_size(self) -> int:
        """About how many numbers the head gives for one row."""
        return self.outputs

    @abstractmethod
    def make_head(self, shape: FeatureShape) -> nn.Module:
        """A new head.

        It reads `[B, D]` where the task reads vectors, and else `Features`; its output is `[B, outputs]`, or what the
        kind of task calls so: a tensor or row values, with B rows.

        Args:
            shape: The shape of the features.
        """

    def at_labels(self, features: Features, target: Any, mask: Tensor | None) -> Any:
        """What the head reads of rows of which it is known where the labels are, for tasks that need none.

        The features themselves, unless a kind of task overrides it, as it would be costly to answer everywhere.

        Args:
            features: Those of the task's only version of the rows.
            target: As in `Batch.targets`.
            mask: Where it has a label; None: everywhere.
        """
        return features

    @abstractmethod
    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each entry, of the target's shape, in numbers that do not depend on the target's units.

        Args:
            output: `[B, outputs]`, from the head.
            target: As in `Batch.targets`: where there is no label it holds 0, and the entry's loss is not looked at.
        """

    def importance(self, target: Tensor) -> Tensor | None:
        """What each entry counts in the mean, of the target's shape, where `entries` holds it as a factor; None: 1."""
        return None

    @property
    def kin(self) -> Hashable | None:
        """What tasks have in common whose entries `entries_of_kin` computes in one call; None: the task has no kin."""
        return None

    def entries_of_kin(self, tasks: Sequence[Task], output: Tensor, target: Tensor) -> Tensor:
        """`[B, K, E]`, what `entries` gives for each of K tasks with the same `kin` as this one.

        Such tasks have no `importance`.

        Args:
            tasks: The tasks.
            output: `[B, K, outputs]`.
            target: `[B, K, E]`, E being 1 where a task's target is `[B]`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no kin.")

    def loss(
        self,
        output: Any,
        target: Any,
        mask: Tensor | None,
        weights: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """Mean loss over the labelled entries, a scalar that does not depend on the target's units.

        Args:
            output: `[B, outputs]`, from the head.
            target: As in `Batch.targets`.
            mask: Where `target` has a label, at least one entry being true; None: everywhere.
            weights: `[B]`, what each row counts in the mean; None: all the same.
            total: What the sum of the losses is divided by, where other rows belong to the same mean; None: `total` of
                these rows.
        """
        entries = self.entries(output, target)
        if mask is None and weights is None and total is None and self.importance(target) is None:
            return entries.mean()
        if mask is not None:
            entries = entries.masked_fill(~mask, 0.0)
        if weights is not None:
            entries = entries * _per_entry(weights, entries)
        total = self.total(target, mask, weights) if total is None else total
        # Entries may count nothing, such as those of classes of weight 0: their mean is 0, not 0/0.
        return entries.sum() / total.where(total > 0, 1)

    def total(self, target: Any, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """What the labelled entries count together in the mean, a scalar; see `loss`."""
        counts = self.importance(target)
        if weights is not None:
            entries = target if mask is None else mask
            per_entry = _per_entry(weights, entries).expand(entries.shape)
            counts = per_entry if counts is None else counts * per_entry
        if counts is None:
            return torch.tensor(target.numel(), device=target.device) if mask is None else mask.sum()
        return (counts if mask is None else counts.masked_fill(~mask, 0.0)).sum()

    def prediction(self, output: Tensor) -> Tensor:
        """What the task predicts, for other tasks to read: `[B, outputs]`, differentiable.

        Standardised numbers as they are, unless a kind of task overrides it: probabilities of classes or labels.

        Args:
            output: `[B, outputs]`, from the head.
        """
        return in_full_precision(output)

    def confident(self, output: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """What the task would take for labels, and where it is sure enough of them; for tasks with probabilities.

        Args:
            output: `[B, outputs]`, from the head.
            threshold: The least probability of a label that is to be believed.

        Returns:
            Labels, as in `Batch.targets`, and where they are to be believed, bool, of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} has no probabilities.")

    def difference(self, output: Tensor, reference: Tensor) -> Tensor:
        """The squared difference of two predictions for the same rows, of the target's shape.

        Args:
            output: `[B, outputs]`, from the head.
            reference: `[B, outputs]`, from the head: the other one.
        """
        return (self.prediction(output) - self.prediction(reference)).square()

    def divergence(self, output: Tensor, reference: Tensor) -> Tensor:
        """`KL(reference || output)` of two predictions for the same rows, of the target's shape.

        For tasks with probabilities.

        Args:
            output: `[B, outputs]`, from the head.
            reference: `[B, outputs]`, from the head: the one that is taken for the truth.
        """
        raise NotImplementedError(f"{type(self).__name__} has no probabilities.")

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """New metrics, to be fed by `update_metrics`, in the user's units."""

    def condensed(self, output: Any) -> Any:
        """What `update_metrics` reads of an output: a tensor, row values, or a list of tensors by name for each row."""
        return output

    @abstractmethod
    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any, mask: Tensor) -> None:
        """Give the labelled rows to `metrics`; `output` is what `condensed` gave."""

    @abstractmethod
    def baseline(self, rows: int) -> Tensor:
        """`[rows, outputs]`: the best constant output, from the training part alone (class frequencies, mean)."""

    @abstractmethod
    def decode(self, output: Tensor) -> Mapping[str, Any]:
        """Columns of a prediction table, by what comes after the task's name.

        Returns:
            `""`: the prediction itself, a class name or a value in the user's units; `"p_<class>"`: probabilities.
            Several numbers have their columns' names instead. Each is a list or numpy array of B values.
        """


def rows_at_once(tasks: Iterable[Task], wanted: int) -> int:
    """How many rows are answered to together at most, such that the answers take little memory.

    Args:
        tasks: The tasks.
        wanted: How many it would be.
    """
    return max(1, min(wanted, _ANSWERS // max(task.answer_size for task in tasks)))


def in_full_precision(output: Tensor) -> Tensor:
    """`output` in float32 or wider: losses and probabilities are not computed in the half precision of autocast."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _per_entry(weights: Tensor, entries: Tensor) -> Tensor:
    """Weights of rows `[B]`, so that they multiply entries `[B]` or `[B, M]`."""
    return weights.view(-1, *(1 for _ in entries.shape[1:]))
