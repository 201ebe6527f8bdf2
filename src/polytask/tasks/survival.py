"""How long it takes until an event, for each row, where for some it is known only that it takes longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import SurvivalMetric
from polytask.tasks.survival_curves import Curves
from polytask.tasks.target import completed, source_names, weight_column
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Survival(Task):
    """The time until an event, from two columns: a time, and whether the event happened then or had not until then.

    Time is cut into intervals with about as many events of the training rows each. An output is the logarithm of the
    odds of `h_j`, the probability of the event in interval j for a row that had none before it; `S_j`, the product of
    `1 - h_i` up to j, is that of being without it at the end of j. The loss of a row is minus its log-likelihood

        event in interval j:           -log h_j - sum_(i < j) log(1 - h_i)
        no event, observed up to t:    -sum_(i: t is at least the middle of i) log(1 - h_i)

    (Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural networks", PeerJ 2019). It does not
    depend on the time's units, does not assume proportional hazards, and rows do not depend on each other as in Cox's
    partial likelihood.

    A row's risk is the share of the time, up to the latest event of the training rows, that it is expected to lose:
    1 - (mean time without the event) / (that time), with S linear within an interval.

    Args:
        time: The column with the time, a number of at least 0.
        event: The column that says whether the event happened at that time (yes or no). A row that lacks either has no
            label.
        name: The task's name; None: that of the time's column.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its columns.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training, such as a confidence: a number
            of at least 0; an empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        intervals: The greatest number of intervals; where few times have events there are fewer.
        metric: The metric that judges the task.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        edges: The ends of the intervals, in the time's units, the first one beginning at 0.
        events: Events of training rows in each interval.
        at_risk: Training rows that had an event in each interval or are known to have had none up to its end.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(SurvivalMetric)
    edges: Tensor

    def __init__(
        self,
        time: str,
        event: str,
        *,
        name: str | None = None,
        sources: str | Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        intervals: int = 20,
        metric: SurvivalMetric = "concordance",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        edges: FromData[Sequence[float] | None] = None,
        events: FromData[Sequence[int] | None] = None,
        at_risk: FromData[Sequence[int] | None] = None,
    ) -> None:
        super().__init__(
            time if name is None else name,
            _both(time, event, name),
            weight,
            metric,
            sources,
            sample_weight=sample_weight,
            auxiliary=auxiliary,
        )
        if intervals < 1:
            raise UserError(f"Task '{self.name}': intervals is {intervals}, but must be at least 1.")
        if edges is None:
            raise UserError(
                f"Task '{self.name}': without data, edges has to be given: the ends of the intervals of time."
            )
        if not edges or edges[0] <= 0 or any(late <= early for early, late in pairwise(edges)):
            raise UserError(f"Task '{self.name}': edges is {list(edges)}, but must be rising numbers above 0.")
        for values, parameter in ((events, "events"), (at_risk, "at_risk")):
            if values is not None and len(values) != len(edges):
                raise UserError(
                    f"Task '{self.name}': there are {len(edges)} intervals, but {len(values)} numbers in {parameter}."
                )
        self.intervals = intervals
        self.events = None if events is None else tuple(events)
        self.at_risk = None if at_risk is None else tuple(at_risk)
        self.hidden, self.dropout = tuple(hidden), dropout
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32))

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = _both(parameters["time"], parameters["event"], parameters.get("name"))
        return TargetSpec(
            kind="survival",
            columns=columns,
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            intervals=parameters.get("intervals", 20),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        return completed(
            parameters,
            summary,
            edges=map(float, summary.edges),
            events=map(int, summary.counts),
            at_risk=map(int, summary.known),
        )

    @property
    def outputs(self) -> int:
        """The number of intervals."""
        return len(self.edges)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name)

    def entries(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Task.entries`; a target is a time, below 0 where there was no event until then."""
        output = in_full_precision(output)
        happened, time = target >= 0, target.abs().to(self.edges.dtype)
        starts = F.pad(self.edges[:-1], (1, 0))
        within = torch.searchsorted(self.edges, time)
        seen = torch.searchsorted((starts + self.edges) / 2, time, right=True)
        passed = within.where(happened, seen)
        interval = torch.arange(self.outputs, device=output.device)
        without = interval < passed.unsqueeze(1)
        event = (interval == within.unsqueeze(1)) & happened.unsqueeze(1)
        # -log(1 - h) and -log h; filled, not multiplied: an infinite one that does not count is none.
        losses = F.softplus(output).masked_fill(~without, 0.0) + F.softplus(-output).masked_fill(~event, 0.0)
        return losses.sum(dim=1)

    def prediction(self, output: Tensor) -> Tensor:
        """The probabilities of being without the event at the end of each interval; see `Task.prediction`."""
        return (-F.softplus(in_full_precision(output)).cumsum(dim=1)).exp()

    def difference(self, output: Tensor, reference: Tensor) -> Tensor:
        """The mean over the intervals of the squared differences of probabilities; see `Task.difference`."""
        return super().difference(output, reference).mean(dim=1)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.survival_scores import survival_metrics

        return survival_metrics(self.edges)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        metrics.update(self.prediction(output[mask]), target[mask])

    def baseline(self, rows: int) -> Tensor:
        """The log-odds of an event in each interval, over the training rows; half a row where there is none."""
        if self.events is None or self.at_risk is None:
            raise UserError(f"Task '{self.name}' has no baseline without events and at_risk, from the training rows.")
        events = torch.tensor(self.events, dtype=torch.float64)
        others = torch.tensor(self.at_risk, dtype=torch.float64) - events
        return (events.clamp(min=0.5) / others.clamp(min=0.5)).log().float().expand(rows, -1)

    def decode(self, output: Tensor) -> dict[str, Any]:
        """The median time, infinite where half of such rows outlive the last interval, and the risk."""
        curves = Curves(self.prediction(output.detach()).cpu().double(), self.edges.cpu().double())
        return {"": curves.medians().numpy(), "risk": curves.risks().numpy()}


def _both(time: str, event: str, name: str | None) -> tuple[str, str]:
    if time == event:
        raise UserError(
            f"Task '{name or time}': time and event are the same column, '{time}'. The one has how long a row was "
            "observed, the other whether the event happened then."
        )
    return time, event
