"""What a task can learn from rows that it has no label for: losses on two views of the same rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple, get_args

from torch import Tensor

from polytask.components import Family
from polytask.errors import UserError, listing
from polytask.tasks.task import Task

Measure = Literal["squared", "kl"]

_STEEPNESS = 5.0


class UnlabelledEntries(NamedTuple):
    """The losses of entries without labels.

    Attributes:
        losses: Of the target's shape.
        sure: Where a label was made up, of the same shape; None: none is made up.
    """

    losses: Tensor
    sure: Tensor | None = None


class UnlabelledLoss(NamedTuple):
    """The loss on rows without labels.

    Attributes:
        loss: The mean over the entries that lack a label, a scalar, before it is weighted.
        confident: The share of them that a label was made up for, a scalar; None: none is made up.
    """

    loss: Tensor
    confident: Tensor | None


class Unlabelled(ABC):
    """A loss for rows that a task has no label for.

    It compares the task's outputs for two views of the same rows: the reference, whose output is taken for granted (no
    gradient passes through it), and the other one, which learns from it.

    The loss is multiplied by `weight`, by the task's own weight, and by a ramp: `exp(-5 (1 - t)²)` while t rises
    from 0 to 1 over the first part of the training, then 1 (Laine and Aila, "Temporal ensembling for semi-supervised
    learning", ICLR 2017). At first predictions are worth little.

    Args:
        weight: What multiplies the loss.
        ramp: Share of the training over which the weight rises; 0: it is there from the start.

    Attributes:
        needs_other_view: Whether there is nothing to learn where both views have the same output.
        makes_labels: Whether it makes up labels, for some of the rows.

    Raises:
        UserError: A value is out of range.
    """

    needs_other_view: ClassVar[bool] = False
    makes_labels: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0, ramp: float = 0.0) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"weight is {weight}, but must be a number of at least 0.")
        if not 0 <= ramp <= 1:
            raise UserError(f"ramp is {ramp}, but is a share of the training: it must be between 0 and 1.")
        self.weight = weight
        self.ramp = ramp

    @property
    def of_probabilities(self) -> str | None:
        """What of it is for tasks with probabilities alone, as a configuration says it; None: nothing."""
        return None

    def strength(self, progress: float) -> float:
        """What multiplies the loss when this share of the training is done, from 0 to 1."""
        if progress >= self.ramp:
            return self.weight
        return self.weight * math.exp(-_STEEPNESS * (1 - progress / self.ramp) ** 2)

    @abstractmethod
    def entries(self, task: Task, output: Tensor, reference: Tensor) -> UnlabelledEntries:
        """The loss of each entry of n rows.

        Args:
            task: The task.
            output: `[n, outputs]`, from its head, for the view that learns.
            reference: `[n, outputs]`, from its head, for the other view; without gradient.
        """

    def loss(
        self, task: Task, output: Tensor, reference: Tensor, missing: Tensor | None = None, total: int | None = None
    ) -> UnlabelledLoss:
        """The mean loss over the entries that lack a label.

        Args:
            task: See `entries`.
            output: See `entries`.
            reference: See `entries`.
            missing: Where the target has no label, bool of the target's shape; None: everywhere.
            total: How many entries the mean is over, where other rows belong to it as well; None: those of these rows,
                at least one.
        """
        losses, sure = self.entries(task, output, reference)
        if missing is not None:
            losses = losses.masked_fill(~missing, 0.0)
            sure = None if sure is None else sure & missing
        count: Tensor | int = losses.numel() if missing is None else missing.sum()
        count = count if total is None else total
        return UnlabelledLoss(losses.sum() / count, None if sure is None else sure.sum() / count)


class PseudoLabels(Unlabelled):
    """Labels that the network gives itself, where it is sure of them.

    Where the reference's greatest probability q is at least the threshold τ, its class ŷ is taken for the label of the
    other view: `1/n sum_i 1[max q_i >= τ] l(ŷ_i, p_i)` over all n rows without a label, sure or not, with the task's
    own loss l (class weights and label smoothing included). For several labels a row, each one counts by itself: yes
    where its probability is at least τ, no where it is at most 1 - τ.

    This is FixMatch (Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence",
    NeurIPS 2020) where images are augmented: the reference is then flipped and moved only, the other view changed in
    all ways. Without augmentation and with `threshold: 0` it is Lee ("Pseudo-label", ICML workshop 2013). It is for
    tasks with probabilities: `classification` and `multi_label`.

    Args:
        threshold: The least probability τ of a label that is believed.
        weight: What multiplies the loss.
        ramp: Share of the training over which the weight rises; 0, as in FixMatch: it is there from the start.
    """

    makes_labels = True

    def __init__(self, threshold: float = 0.95, weight: float = 1.0, ramp: float = 0.0) -> None:
        super().__init__(weight, ramp)
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold}, but is a probability: it must be between 0 and 1.")
        self.threshold = threshold

    @property
    def of_probabilities(self) -> str | None:
        """See `Unlabelled.of_probabilities`."""
        return "pseudo_labels"

    def entries(self, task: Task, output: Tensor, reference: Tensor) -> UnlabelledEntries:
        """See `Unlabelled.entries`."""
        labels, sure = task.confident(reference, self.threshold)
        return UnlabelledEntries(task.entries(output, labels).masked_fill(~sure, 0.0), sure)


class Consistency(Unlabelled):
    """The same prediction for two views of a row, whatever it is.

    `squared`: `1/n sum_i ‖p_i - q_i‖² / C`, with the C probabilities of the view that learns and of the reference: the
    Π-model (Laine and Aila, ICLR 2017; Sajjadi, Javanmardi and Tasdizen, NeurIPS 2016), but no gradient passes through
    the reference. For numbers it is the squared difference of the standardised predictions. `kl`:
    `1/n sum_i KL(q_i ‖ p_i)`, as in UDA (Xie et al., NeurIPS 2020), for tasks with probabilities.

    The views have to differ: by augmentation (the reference is flipped and moved only, the other view changed in all
    ways), or by dropout in the network.

    Args:
        measure: How far apart two predictions are.
        weight: What multiplies the loss. Squared differences of probabilities are small: the Π-model's weight is 100
            times the share of rows that have a label.
        ramp: Share of the training over which the weight rises; 0: it is there from the start.
    """

    needs_other_view = True

    def __init__(self, measure: Measure = "squared", weight: float = 1.0, ramp: float = 0.25) -> None:
        super().__init__(weight, ramp)
        if measure not in get_args(Measure):
            raise UserError(f"measure is '{measure}'. Allowed: {listing(get_args(Measure))}.")
        self.measure = measure

    @property
    def of_probabilities(self) -> str | None:
        """See `Unlabelled.of_probabilities`."""
        return "measure: kl" if self.measure == "kl" else None

    def entries(self, task: Task, output: Tensor, reference: Tensor) -> UnlabelledEntries:
        """See `Unlabelled.entries`."""
        return UnlabelledEntries((task.divergence if self.measure == "kl" else task.difference)(output, reference))


def require_probabilities(use: Unlabelled, name: str, task: type[Task]) -> None:
    """Make sure that a task has what a loss for rows without labels needs.

    Args:
        use: The loss.
        name: The task's name.
        task: What it is.

    Raises:
        UserError: The loss needs probabilities, and the task has none.
    """
    if use.of_probabilities is not None and not task.probabilistic:
        raise UserError(
            f"{use.of_probabilities} needs probabilities, but the task '{name}' ({task.__name__}) has none: its "
            "outputs do not say how sure they are. Allowed for it: {type: consistency, measure: squared}."
        )


family: Family[Unlabelled] = Family(
    "use of unlabelled rows", Unlabelled, {"consistency": Consistency, "pseudo_labels": PseudoLabels}
)
names = family.names
create = family.create

__all__ = [
    "Consistency",
    "Measure",
    "PseudoLabels",
    "Unlabelled",
    "UnlabelledEntries",
    "UnlabelledLoss",
    "create",
    "family",
    "names",
    "require_probabilities",
]
