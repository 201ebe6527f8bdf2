"""How much each token of a text counts, learned from the training part."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from polytask.data.encoded import Ragged

Weighting = Literal["idf", "log_ratio"]


class TokenWeights:
    """One or several weights of each token.

    A text's weights are those of its tokens, each token once, divided by their Euclidean length, so that long texts do
    not count for more than short ones.

    Args:
        table: float32 `[V, M]`: M weights of each of V ids.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def of(self, tokens: Ragged) -> np.ndarray:
        """float32 `[total, M]`: the weights of the tokens of some texts, of length 1 in each text.

        Args:
            tokens: int32 ids, in each text each id once and no text without any. A text whose weights are all 0 has 0.
        """
        weights: np.ndarray = self.table[tokens.values]
        starts = np.cumsum(tokens.lengths) - tokens.lengths
        lengths = np.sqrt(np.add.reduceat(np.square(weights), starts, axis=0))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        weights *= np.repeat(scale, tokens.lengths, axis=0)
        return weights

    def state_dict(self) -> dict[str, Any]:
        """The table, ready for JSON."""
        return {"shape": list(self.table.shape), "table": to_text(self.table)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TokenWeights:
        """The weights whose `state_dict` this is."""
        return cls(from_text(state["table"], np.float32).reshape(state["shape"]))


class TokenCounts:
    """In how many training texts each token occurs, over all and class by class: 4 bytes for each token and class.

    Tasks whose classes have the same names are taken together: what says "positive" of books says it of films.

    Args:
        vocabulary: The number of ids.
        classes: The class names of each task whose labels are counted, by task.
    """

    def __init__(self, vocabulary: int, classes: Mapping[str, Sequence[str]]) -> None:
        self._texts = 0
        self._containing = np.zeros(vocabulary, dtype=np.int64)
        self._places: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        self._by_class: dict[tuple[str, ...], np.ndarray] = {}
        for task, names in classes.items():
            group = tuple(sorted(names))
            self._places[task] = group, np.array([group.index(name) for name in names])
            self._by_class.setdefault(group, np.zeros((len(group), vocabulary), dtype=np.int32))

    def add(self, tokens: Ragged, labels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Count some texts.

        Args:
            tokens: The ids of N texts, each id once in a text.
            labels: For each task int64 `[N]`, positions among its classes, and bool `[N]`: which texts have a label.
        """
        self._texts += len(tokens)
        self._containing += np.bincount(tokens.values, minlength=len(self._containing))
        rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
        for group, per_row in self._per_row(len(tokens), labels).items():
            for place, times in enumerate(per_row):
                found = np.bincount(tokens.values, weights=times[rows], minlength=len(self._containing))
                self._by_class[group][place] += found.astype(np.int32)

    def weights(self, wanted: Sequence[Weighting], unweighted: Iterable[int]) -> TokenWeights:
        """The weights that follow.

        Args:
            wanted: Which, in order.
            unweighted: Ids that stand for nothing: their weight is 0.
        """
        found = {"idf": self._idf, "log_ratio": self._log_ratio}
        table = np.stack([found[weighting]() for weighting in wanted], axis=1).astype(np.float32)
        table[list(unweighted)] = 0
        return TokenWeights(table)

    def _per_row(
        self, count: int, labels: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> dict[tuple[str, ...], np.ndarray]:
        """For each group of tasks `[C, N]`: how many of them say that a text is of a class."""
        times: dict[tuple[str, ...], np.ndarray] = {}
        for task, (places, known) in labels.items():
            group, order = self._places[task]
            per_row = times.setdefault(group, np.zeros((len(group), count)))
            rows = np.flatnonzero(known)
            per_row[order[places[rows]], rows] += 1
        return times

    def _idf(self) -> np.ndarray:
        return np.log(max(self._texts, 1) / np.maximum(self._containing, 1))

    def _log_ratio(self) -> np.ndarray:
        squares = [_mean_square_log_ratio(counts) for counts in self._by_class.values()]
        return np.asarray(np.sqrt(np.mean(squares, axis=0)))


def _mean_square_log_ratio(counts: np.ndarray) -> np.ndarray:
    """For each token, over the classes: its share of a class's tokens over its share of the others', all counts plus 1.

    Args:
        counts: `[C, V]`: in how many texts of each class each token occurs.
    """
    everywhere = counts.sum(axis=0, dtype=np.float64)
    total = np.zeros(counts.shape[1])
    for one in counts:
        inside, outside = one + 1.0, everywhere - one + 1.0
        total += np.square(np.log(inside / inside.sum()) - np.log(outside / outside.sum()))
    return total / len(counts)


def to_text(values: np.ndarray) -> str:
    """An array's numbers as text, compressed."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes())).decode("ascii")


def from_text(text: str, dtype: type[np.generic]) -> np.ndarray:
    """The numbers that `to_text` wrote, in one row."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)


def distinct(tokens: Ragged, vocabulary: int) -> Ragged:
    """Each text's ids once, in ascending order.

    Args:
        tokens: int32 ids.
        vocabulary: The number of ids.
    """
    rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
    pairs = np.sort(rows * vocabulary + tokens.values)
    pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])] if len(pairs) else pairs
    return Ragged((pairs % vocabulary).astype(np.int32), np.bincount(pairs // vocabulary, minlength=len(tokens)))
