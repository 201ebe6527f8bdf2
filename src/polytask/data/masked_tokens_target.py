"""Texts some of whose tokens are hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polytask.data.inputs.draws import Draws
from polytask.data.inputs.text import TextInput
from polytask.data.view_target import View, ViewTarget
from polytask.errors import UserError
from polytask.labels import TargetSummary

if TYPE_CHECKING:
    from polytask.data.inputs.input import Input
    from polytask.data.table import Table

HIDDEN, REPLACED = 0.8, 0.1
"""Of the tokens to be told, the shares that the mask hides and that another token replaces; the others stay."""


class MaskedTokensTarget(ViewTarget):
    """The tokens that were chosen to be told: int64 `[B, M, 2]`, the place and the id of each, with a mask `[B, M]`.

    M is the greatest number that a text can have. Of n tokens, special ones aside, `max(1, round(share n))` are chosen,
    as in BERT's code.
    """

    modalities = ("text",)

    def view(self, value: Any, rows: np.ndarray, draws: Draws) -> View:
        """See `ViewTarget.view`."""
        ids, real = value["ids"].numpy(), value["mask"].numpy()
        source = self._text
        special = sorted(source.special)
        candidates = real & ~np.isin(ids, special)
        sizes = candidates.sum(axis=1)
        counts = np.where(sizes > 0, np.maximum(np.floor(self.spec.share * sizes + 0.5), 1), 0).astype(np.int64)
        order = np.where(candidates, draws.grid(rows, self.stream(0), ids.shape[1]), np.inf).argsort(axis=1)
        most = self._most(source.shape.length)
        told = np.arange(most) < counts[:, None]
        places = np.zeros((len(rows), most), dtype=np.int64)
        width = min(most, ids.shape[1])
        places[:, :width] = order[:, :width]
        places[~told] = 0
        at = (np.repeat(np.arange(len(rows)), counts), places[told])
        target = np.zeros((len(rows), most, 2), dtype=np.int64)
        target[..., 0] = places
        target[told, 1] = ids[at]
        fate = draws.grid(rows, self.stream(1), ids.shape[1])[at]
        ordinary = np.setdiff1d(np.arange(source.shape.vocabulary), [*special, source.hiding])
        others = ordinary[(draws.grid(rows, self.stream(2), ids.shape[1])[at] * len(ordinary)).astype(np.int64)]
        shown = np.where(fate < HIDDEN, source.hiding, np.where(fate < HIDDEN + REPLACED, others, ids[at]))
        changed = ids.copy()
        changed[at] = shown
        version = {**value, "ids": torch.from_numpy(changed)}
        return View((version,), torch.from_numpy(target), torch.from_numpy(told))

    @property
    def _text(self) -> TextInput:
        assert isinstance(self._source, TextInput)
        return self._source

    def _most(self, length: int) -> int:
        return max(1, int(np.floor(self.spec.share * length + 0.5)))

    def _check(self, source: Input) -> None:
        assert isinstance(source, TextInput)
        settings = {"weights": source.weights, "affixes": source.affixes, "ngrams": source.ngrams > 1}
        refused = [name for name, value in settings.items() if value]
        if refused:
            raise UserError(
                f"Task '{self.task}' hides tokens, but with {refused[0]} the tokens of the input '{self.spec.input}' "
                f"tell of each other, or stand in no order. Take {refused[0]} out of inputs.{self.spec.input}."
            )

    def _learned(self, source: Input, table: Table, rows: np.ndarray) -> TargetSummary:
        counts = np.zeros(self._text.shape.vocabulary, dtype=np.int64)
        for value in self._sample(source, table, rows):
            counts += np.bincount(value["ids"][value["mask"]].numpy(), minlength=len(counts))
        counts[sorted(self._text.special)] = 0
        longest = self._most(self._text.shape.length)
        return TargetSummary(labelled=len(rows), counts=tuple(counts.tolist()), longest=longest)
