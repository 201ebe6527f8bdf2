"""What all mixtures of experts have in common: what is shared, what the experts are, what keeps gates alive."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

from polytask.encoders import Encoder
from polytask.encoders.limits import dropout_rate
from polytask.errors import UserError, listing
from polytask.sharing.experts import ExpertKind, MLPKind, StageKind
from polytask.sharing.levels import LevelsTrunk
from polytask.sharing.mixture_plan import Mixture
from polytask.sharing.sharing import Sharing, only_encoder

LEAST_WIDTH, GREATEST_WIDTH = 32, 256
"""Bounds of the default width of experts."""


class MixtureOfExperts(Sharing):
    """Base of the schemes in which gates mix what experts find.

    Args:
        share_until: The last stage that all tasks share, by name, or the number of such stages (negative: counted
            from the end); at least the first, since the gates read features. If it is not the last stage of the
            encoder, an expert is a copy of all stages behind it; those of a pretrained encoder start alike, others
            from different random weights. `None` shares the whole encoder, and an expert is a multi-layer perceptron
            over its features.
        hidden: The widths of the layers of such a perceptron, each followed by a ReLU; `None`: one layer, a quarter
            as wide as the encoder's features, from 32 to 256.
        gate_dropout: Probability of dropping an expert while training, at random for each row and gate; the weights
            of the others grow to the same sum. Against gates that come to use one expert alone.
        balance: Strength of the penalty `gate_balance`: the Kullback-Leibler divergence of the experts' shares
            (mean weight over rows and gates) in a batch from those under uniform gates, summed over levels. For one
            gate it is `log E` minus the entropy of its mean weights. It keeps experts from being forgotten, yet lets
            each task have its favourites.
    """

    name: ClassVar[str]

    def __init__(
        self,
        share_until: str | int | None = None,
        hidden: Sequence[int] | None = None,
        gate_dropout: float = 0.0,
        balance: float = 0.0,
    ) -> None:
        if hidden is not None and (not hidden or any(width < 1 for width in hidden)):
            raise UserError(f"{self.name}: 'hidden' is {list(hidden)}, but needs at least one width, each at least 1.")
        dropout_rate(gate_dropout=gate_dropout)
        not_negative(self.name, balance=balance)
        self.share_until = share_until
        self.hidden = hidden
        self.gate_dropout = gate_dropout
        self.balance = balance
        self.levels: int | Sequence[str | int] = 1

    @abstractmethod
    def mixture(self) -> Mixture:
        """How experts and tasks belong together."""

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> LevelsTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        shared = encoder.depth_of(self.share_until)
        if shared == 0:
            raise UserError(
                f"{self.name}: 'share_until' is {self.share_until}, but the gates cannot read the raw input of "
                f"{type(encoder).__name__}: at least its first stage has to be shared. "
                f"Its stages, in order: {listing(encoder.stage_names, limit=60)}."
            )
        kind = self._perceptrons(encoder) if shared == len(encoder.stage_names) else self._stages(encoder, shared)
        return LevelsTrunk(name, encoder, tasks, shared=shared, kind=kind, mixture=self.mixture())

    def _perceptrons(self, encoder: Encoder) -> ExpertKind:
        if not isinstance(self.levels, int):
            raise UserError(
                f"{self.name}: 'levels' lists stages of {type(encoder).__name__}, but all of them are shared. Set "
                "'share_until' to a stage before them, or give a number of levels."
            )
        width = encoder.shape.width
        return MLPKind(width, self.hidden or (min(GREATEST_WIDTH, max(LEAST_WIDTH, width // 4)),), self.levels)

    def _stages(self, encoder: Encoder, shared: int) -> ExpertKind:
        if self.hidden is not None:
            raise UserError(
                f"{self.name}: 'hidden' is for experts on top of the whole encoder, but behind 'share_until' "
                f"({self.share_until!r}) the experts are copies of {type(encoder).__name__}'s own stages. "
                "Leave one of the two out."
            )
        return StageKind(encoder, [shared, *self._starts(encoder, shared)])

    def _starts(self, encoder: Encoder, shared: int) -> list[int]:
        """Where the levels but the first begin."""
        behind = encoder.stage_names[shared:]
        if isinstance(self.levels, int):
            if self.levels > len(behind):
                raise UserError(
                    f"{self.name}: {self.levels} levels were asked for, but behind 'share_until' "
                    f"({self.share_until!r}) {type(encoder).__name__} has {len(behind)} stages: "
                    f"{listing(behind, limit=60)}. Take fewer levels, or share less."
                )
            size, more = divmod(len(behind), self.levels)
            return [shared + level * size + min(level, more) for level in range(1, self.levels)]
        starts = [encoder.depth_of(stage) for stage in self.levels]
        bounds = [shared, *starts, len(encoder.stage_names)]
        if any(later <= earlier for earlier, later in pairwise(bounds)):
            raise UserError(
                f"{self.name}: 'levels' is {list(self.levels)}, but must name the last stage of each level except the "
                f"last level, in order, each behind 'share_until' ({self.share_until!r}) and before the end. "
                f"{type(encoder).__name__}'s stages, in order: {listing(encoder.stage_names, limit=60)}."
            )
        return starts


def not_negative(scheme: str, **values: float) -> None:
    """Refuse what is not a finite number of at least 0.

    Raises:
        UserError: A value is not.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{scheme}: '{name}' must be a number of at least 0, but {value} was given.")
