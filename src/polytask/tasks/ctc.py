"""A text spelled out over the positions of a row."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.components import FromData
from polytask.errors import UserError, listing
from polytask.features import FeatureKind, Features, FeatureShape
from polytask.labels import TargetSpec, TargetSummary
from polytask.sequences import Sequences
from polytask.tasks.ctc_decoding import NOTHING, as_array, decoded
from polytask.tasks.head import mlp_head
from polytask.tasks.metrics import SpellingMetric
from polytask.tasks.target import class_names, completed, one_column, source_names, task_name, weight_column
from polytask.tasks.task import Task, in_full_precision

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

log = logging.getLogger("polytask")

_UNKNOWN_LETTER = "\N{REPLACEMENT CHARACTER}"


class CTC(Task):
    """A text for each row, of which it is not known at which position of the row each of its symbols is.

    Connectionist temporal classification (Graves et al., ICML 2006): at each position the head gives a symbol or
    nothing; repetitions of a symbol are one, and the loss is `-log` of the probability of all ways to spell the text,
    divided by the text's length (by 1 where it is empty). The rows' mean is the loss of a batch. It reads tokens: those
    of `crnn` and `speech_model` over audio, or of a text. A row with fewer positions than its text needs cannot be
    spelled: its loss is 0, which is said once.

    Args:
        target: The column with the texts; None: the one called as the task is.
        name: The task's name; None: the target.
        unit: What texts consist of: `characters`, or `words` that are separated by white space.
        classes: The characters or words in order; None: those of the training data.
        sources: The named sources of `data` whose labels it learns, where they are not all that have its column.
        weight: Multiplies the loss before the balancer sees it.
        sample_weight: The column with what each row counts in the mean loss of training: a number of at least 0; an
            empty cell counts 1. None: all rows the same. Metrics do not look at it.
        auxiliary: Whether it is learned for the sake of the others alone: it is trained and scored, but the mean gain,
            by which epochs are chosen and training stops early, leaves it out.
        beam: How texts are found: 1 takes the likeliest symbol at each position; more, such as 10, searches for the
            likeliest text with so many beginnings at a time, which takes far longer.
        metric: The metric that judges the task.
        unseen: What a character or word that the training data do not have does later: `error`, or `unknown`, a further
            symbol, which is always an error of the prediction.
        hidden: Widths of the head's hidden layers; none: a linear head.
        dropout: Probability of dropping a value before each linear map of the head.
        counts: How often each symbol occurs in the training data.
        longest: The length of the longest training text.

    Raises:
        UserError: A parameter is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = get_args(SpellingMetric)
    reads: ClassVar[FeatureKind] = "tokens"
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text", "sequence")
    condenses = True

    def __init__(
        self,
        target: str | None = None,
        *,
        name: str | None = None,
        unit: Literal["characters", "words"] = "characters",
        sources: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        weight: float = 1.0,
        sample_weight: str | None = None,
        auxiliary: bool = False,
        beam: int = 1,
        metric: SpellingMetric = "wer",
        unseen: Literal["error", "unknown"] = "error",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        counts: FromData[Sequence[int] | None] = None,
        longest: FromData[int] = 1,
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
            raise UserError(f"Task '{self.name}': without data, classes has to be given: the {unit} in order.")
        if unit not in ("characters", "words"):
            raise UserError(f"Task '{self.name}': unit is '{unit}'. Allowed: {listing(('characters', 'words'))}.")
        if beam < 1:
            raise UserError(f"Task '{self.name}': beam is {beam}, but must be at least 1.")
        if counts is not None and len(counts) != len(names):
            raise UserError(f"Task '{self.name}': there are {len(names)} classes, but {len(counts)} counts.")
        self.classes = names
        self.unit = unit
        self.beam = beam
        self.counts = None if counts is None else tuple(counts)
        self.longest = longest
        self.hidden, self.dropout = tuple(hidden), dropout
        extra = unit == "characters" and unseen == "unknown"
        self._spelled = tuple(_UNKNOWN_LETTER if extra and each == "unknown" else each for each in names)
        self._told = False

    @classmethod
    def target_spec(cls, parameters: Mapping[str, Any]) -> TargetSpec:
        """See `Task.target_spec`."""
        columns = one_column(parameters.get("target"), parameters.get("name"))
        return TargetSpec(
            kind="text",
            columns=columns,
            classes=class_names(parameters.get("classes"), task_name(parameters.get("name"), columns)),
            unseen=parameters.get("unseen", "error"),
            sources=source_names(parameters.get("sources"), parameters.get("name")),
            sample_weight=weight_column(parameters.get("sample_weight"), columns, parameters.get("name")),
            unit=parameters.get("unit", "characters"),
        )

    @classmethod
    def complete(cls, parameters: Mapping[str, Any], summary: TargetSummary) -> dict[str, Any]:
        """See `Task.complete`."""
        found = completed(parameters, summary, classes=summary.classes, counts=map(int, summary.counts))
        return {**found, "longest": int(summary.longest)}

    @property
    def outputs(self) -> int:
        """The number of symbols, and one more for nothing."""
        return 1 + len(self.classes)

    def make_head(self, shape: FeatureShape) -> nn.Module:
        """See `Task.make_head`."""
        return _PositionHead(mlp_head(shape.width, self.hidden, self.outputs, self.dropout, task=self.name))

    def entries(self, output: Any, target: Any) -> Tensor:
        """The loss of each row, `[B]`.

        Args:
            output: `Sequences` `[B, T, outputs]`, from the head.
            target: `Sequences` `[B, L]`.
        """
        values = in_full_precision(output.values).log_softmax(dim=2)
        lengths: Tensor = target.lengths
        self._tell_of_short_rows(output.lengths, target)
        losses = F.ctc_loss(
            values.transpose(0, 1),
            target.values.clamp(min=0) + 1,
            output.lengths,
            lengths,
            blank=NOTHING,
            reduction="none",
            zero_infinity=True,
        )
        return losses / lengths.clamp(min=1)

    def total(self, target: Any, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """See `Task.total`."""
        return super().total(target, torch.ones_like(target.lengths).bool() if mask is None else mask, weights)

    def metrics(self) -> MetricCollection:
        """See `Task.metrics`."""
        from polytask.tasks.spelling_scores import spelling_metrics

        return spelling_metrics()

    def condensed(self, output: Any) -> Any:
        """The symbols of each row; see `Task.condensed`."""
        values = in_full_precision(output.values.detach()).log_softmax(dim=2)
        found, lengths = as_array(decoded(values, output.lengths, self.beam))
        device = output.values.device
        return Sequences(torch.from_numpy(found).to(device), torch.from_numpy(lengths).to(device))

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any, mask: Tensor) -> None:
        """See `Task.update_metrics`."""
        rows = mask.nonzero().squeeze(1)
        metrics.update(self.texts(output.select(rows)), self.texts(target.select(rows)))

    def baseline(self, rows: int) -> Any:
        """The frequencies of the symbols in the training rows, at positions enough for the longest text.

        No symbol is likelier than nothing, so the text is empty.
        """
        if self.counts is None:
            raise UserError(f"Task '{self.name}' has no baseline without counts, how often each symbol occurs.")
        frequencies = torch.tensor(self.counts, dtype=torch.float32).clamp(min=0.5)
        values = torch.cat([torch.ones(1), frequencies / frequencies.sum()]).log()
        positions = 2 * self.longest + 1
        return Sequences(values.expand(rows, positions, -1), torch.full((rows,), positions))

    def decode(self, output: Any) -> dict[str, Any]:
        """A text for each row; see `Task.decode`."""
        return {"": self.texts(self.condensed(output))}

    def texts(self, symbols: Sequences) -> list[str]:
        """Symbols `[B, L]` as texts."""
        separator = " " if self.unit == "words" else ""
        rows = zip(symbols.values.tolist(), symbols.lengths.tolist(), strict=True)
        return [separator.join(self._spelled[number] for number in row[:length]) for row, length in rows]

    def _tell_of_short_rows(self, positions: Tensor, target: Any) -> None:
        """Warn, once, of rows with too few positions for their text."""
        if self._told:
            return
        values: Tensor = target.values
        # A symbol that follows itself needs nothing in between.
        repeated = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] >= 0)
        short = int((target.lengths + repeated.sum(dim=1) > positions).sum())
        if short:
            self._told = True
            log.warning(
                "Task '%s': %d of the %d rows of a batch have fewer positions than their text needs, so they cannot be "
                "spelled and their loss is 0. An encoder with less stride gives more; see also `unit: words`.",
                self.name,
                short,
                len(positions),
            )


class _PositionHead(nn.Module):
    """Tokens to one output for each position: `Sequences` `[B, T, outputs]`."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Features) -> Sequences:
        values, mask = features.values, features.mask
        mask = values.new_ones(values.shape[:2]) if mask is None else mask
        return Sequences(self.layers(values), mask.sum(dim=1).long())
