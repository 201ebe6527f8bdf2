"""From the outputs of connectionist temporal classification to texts."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import Tensor

from polytask.sequences import BLANK

NOTHING = 0
"""The output that stands for no symbol; symbol number s is output s + 1."""


def best_path(outputs: np.ndarray) -> list[int]:
    """The symbols of the likeliest output at each position: repetitions are one, and what is nothing is left out.

    Args:
        outputs: `[T, 1 + C]`, of any scale.
    """
    path = outputs.argmax(axis=1)
    kept = np.concatenate([[True], path[1:] != path[:-1]]) & (path != NOTHING)
    return [int(output) - 1 for output in path[kept]]


def beam_search(log_probabilities: np.ndarray, width: int) -> list[int]:
    """The likeliest text, over all ways to spell it, of those that a search with so many beginnings finds.

    Prefix beam search (Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014, https://arxiv.org/abs/1408.2873), without a language model.

    Args:
        log_probabilities: `[T, 1 + C]`.
        width: How many beginnings are kept at each position; with enough, the search is exact.
    """
    # For each beginning, the logarithms of the probabilities of the paths that end in nothing and in its last symbol.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -np.inf)}
    for row in log_probabilities.astype(np.float64):
        nothing: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
        symbol: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
        # A beginning can only come to the front by a symbol that is among the likeliest ones.
        likely = np.argsort(-row[1:], kind="stable")[:width]
        for text, (ends_in_nothing, ends_in_symbol) in beams.items():
            whole = np.logaddexp(ends_in_nothing, ends_in_symbol)
            nothing[text] = np.logaddexp(nothing[text], whole + row[NOTHING])
            if text:
                symbol[text] = np.logaddexp(symbol[text], ends_in_symbol + row[text[-1] + 1])
            for number in map(int, likely):
                # The same symbol again is a new one only behind nothing.
                before = ends_in_nothing if text and text[-1] == number else whole
                longer = (*text, number)
                symbol[longer] = np.logaddexp(symbol[longer], before + row[number + 1])
        found = {text: (nothing[text], symbol[text]) for text in {**nothing, **symbol}}
        ranked = sorted(found.items(), key=lambda each: (-np.logaddexp(*each[1]), each[0]))
        beams = dict(ranked[:width])
    return list(max(beams.items(), key=lambda each: np.logaddexp(*each[1]))[0])


def decoded(outputs: Tensor, lengths: Tensor, beam: int) -> list[list[int]]:
    """The symbols of each row.

    Args:
        outputs: Logarithms of probabilities `[B, T, 1 + C]`.
        lengths: int64 `[B]`: how many positions each row has.
        beam: 1 for the best path, else the width of the beam search.
    """
    rows = [row[:length] for row, length in zip(outputs.cpu().numpy(), lengths.tolist(), strict=True)]
    if beam == 1:
        return [best_path(row) if len(row) else [] for row in rows]
    return [beam_search(row, beam) for row in rows]


def as_array(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of symbols padded to one length, int64 `[B, L]`, and their lengths `[B]`."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    values = np.full((len(rows), max(int(lengths.max(initial=0)), 1)), BLANK, dtype=np.int64)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
    return values, lengths
