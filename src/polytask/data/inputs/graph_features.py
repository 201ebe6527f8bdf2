"""Features of nodes, or of edges: what the training part says about them, and the numbers that encoders read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.data.class_names import class_names, count_names, in_order
from polytask.data.column_types import ColumnType, is_number
from polytask.data.conversion import BadValue, convert
from polytask.data.inputs.tabular import FIRST, CategoricalColumn, category_codes
from polytask.data.moments import Moments
from polytask.errors import UserError, closest, listing

FeatureType = Literal["number", "category"]
Columns = Mapping[str, pa.Array]
"""Features by name, of all nodes (or edges) one after the other."""


@dataclass(frozen=True)
class NumericFeature:
    """What the training part says about a feature that is a number.

    Attributes:
        name: The feature.
        mean: Of the values that are there.
        std: Of the values that are there; 1 where all are the same.
    """

    name: str
    mean: float
    std: float


class EncodedFeatures(NamedTuple):
    """Features of N nodes, or edges.

    Attributes:
        codes: int64 `[N, F]`: as codes of one vocabulary, see `polytask.shapes.GraphShape`.
        numbers: float32 `[N, M]`; None: there are none.
        problems: What is wrong with a node, by its position; its values here mean nothing.
    """

    codes: np.ndarray
    numbers: np.ndarray | None
    problems: Mapping[int, str]


class GraphFeatures:
    """Features of nodes, or of edges: numbers are standardised, categories become codes.

    Args:
        what: `"node"` or `"edge"`, for messages.
        types: The types of features, by name, for those that are not to be read as what they look like; others' too.
        constant: Whether there is a feature of one value where there is no other.
    """

    def __init__(self, what: str, types: Mapping[str, FeatureType], *, constant: bool = False) -> None:
        self.numeric: list[NumericFeature] = []
        self.categorical: list[CategoricalColumn] = []
        self._what = what
        self._types = types
        self._constant = constant
        self._kinds: dict[str, FeatureType] = {}
        self._moments = Moments(0)
        self._counts: dict[str, Counter[str]] = {}

    @property
    def found(self) -> tuple[str, ...]:
        """The features that were taken in."""
        return tuple(self._kinds)

    @property
    def names(self) -> tuple[str, ...]:
        """The features; after `finish`."""
        return (*(each.name for each in self.numeric), *(each.name for each in self.categorical))

    @property
    def width(self) -> int | None:
        """How many features there are, as far as it is known yet."""
        return len(self.names) or len(self._kinds) or None

    @property
    def sizes(self) -> tuple[int, ...]:
        """For each feature that is a code, the number of its values; after `finish`."""
        sizes = tuple(FIRST + len(each.categories) for each in self.categorical)
        return sizes or ((1,) if self._constant and not self.numeric else ())

    def learn(self, columns: Columns) -> None:
        """Take in nodes (or edges) of the training part; all calls have the same features."""
        if not self._kinds:
            self._kinds = {name: self._kind(name, column.type) for name, column in columns.items()}
            self._moments = Moments(len(self._named("number")))
            self._counts = {name: Counter() for name in self._named("category")}
        if numeric := self._named("number"):
            self._moments.add(np.stack([_numbers(columns[name])[0] for name in numeric], axis=1))
        for name, counts in self._counts.items():
            counts.update(count_names(class_names(columns[name])))

    def finish(self) -> None:
        """Nothing more is taken in.

        Raises:
            UserError: Values are numbers in one place, words in another.
        """
        found = zip(self._named("number"), self._moments.mean, self._moments.std, strict=True)
        self.numeric = [NumericFeature(name, float(mean), float(std) or 1.0) for name, mean, std in found]
        self.categorical = []
        for name, counts in self._counts.items():
            if name not in self._types:
                self._refuse_mixed(name, counts)
            self.categorical.append(CategoricalColumn(name, in_order(counts)))

    def encode(self, columns: Columns, count: int) -> EncodedFeatures:
        """The features of `count` nodes (or edges)."""
        for name in self.names:
            if name not in columns:
                raise UserError(
                    f"There is no {self._what} feature '{name}', which the model reads.{closest(name, columns)} The "
                    f"{self._what}s have: {listing(columns, limit=30) or 'none'}."
                )
        problems: dict[int, str] = {}
        numbers = np.empty((count, len(self.numeric)), dtype=np.float32)
        for place, feature in enumerate(self.numeric):
            values, bad = _numbers(columns[feature.name])
            problems |= {index: f"the {self._what} feature '{feature.name}' is {text}" for index, text in bad.items()}
            scaled = (values - feature.mean) / feature.std
            numbers[:, place] = np.where(np.isnan(scaled), 0.0, scaled)
        codes = np.zeros((count, len(self.sizes)), dtype=np.int64)
        start = 0
        for place, column in enumerate(self.categorical):
            codes[:, place] = start + category_codes(columns[column.name], column.values)
            start += self.sizes[place]
        return EncodedFeatures(codes, numbers if self.numeric else None, problems)

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, ready for JSON."""
        return {
            "numeric": [{"name": each.name, "mean": each.mean, "std": each.std} for each in self.numeric],
            "categorical": [{"name": each.name, "categories": list(each.categories)} for each in self.categorical],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what others learned."""
        self.numeric = [NumericFeature(**each) for each in state["numeric"]]
        self.categorical = [CategoricalColumn(each["name"], tuple(each["categories"])) for each in state["categorical"]]

    def _named(self, kind: FeatureType) -> list[str]:
        return [name for name, found in self._kinds.items() if found == kind]

    def _kind(self, name: str, storage: pa.DataType) -> FeatureType:
        if pa.types.is_nested(storage) or pa.types.is_binary(storage):
            raise UserError(
                f"The {self._what} feature '{name}' holds {storage}, but must be numbers, words or booleans."
            )
        return self._types.get(name, "number" if is_number(storage) or pa.types.is_null(storage) else "category")

    def _refuse_mixed(self, name: str, counts: Counter[str]) -> None:
        """Words among numbers are more likely a mistake than a category."""
        words = [value for value in counts if not _is_number(value)]
        if words and 2 * len(words) < len(counts):
            raise UserError(
                f"The {self._what} feature '{name}' is a number nearly everywhere, but also {listing(words, limit=3)}. "
                f"Mend it, or say what it is: types: {{{name!r}: number}}, where such a {self._what} is an error (or "
                f"skipped with its graph), or types: {{{name!r}: category}}."
            )


def _numbers(values: pa.Array) -> tuple[np.ndarray, dict[int, str]]:
    """float64 `[N]`, NaN where a number is missing; and by position what is there instead of a finite one."""
    try:
        plain = convert(values, ColumnType.NUMBER)
        found = np.array(pc.cast(plain, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        bad = {}
    except BadValue:
        texts = values.to_pylist()
        found = np.array([float(text) if text is not None and _is_number(text) else np.nan for text in texts])
        bad = {
            index: f"'{text}', which is not a number"
            for index, text in enumerate(texts)
            if text is not None and not _is_number(text)
        }
    infinite = np.isinf(found)
    bad |= {int(index): f"{found[index]}, which is not a finite number" for index in np.flatnonzero(infinite)}
    return np.where(infinite, np.nan, found), bad


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True
