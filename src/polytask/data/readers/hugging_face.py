"""What Hugging Face `datasets` write beside the Arrow types: the names of classes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ClassNames = Mapping[str, tuple[str, ...]]


def described_features(schema: pa.Schema) -> Mapping[str, Any]:
    """The features that the schema's metadata describe, none where `datasets` did not write it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: Mapping[str, Any], columns: Collection[str]) -> ClassNames:
    """The names of the classes of each column that holds class numbers, or lists of them."""
    named = {column: _names(feature) for column, feature in features.items() if column in columns}
    return {column: names for column, names in named.items() if names}


def with_class_names(data: pa.Table, names: ClassNames) -> pa.Table:
    """`data` with class numbers as dictionary codes, so that the names are seen; negative numbers are missing."""
    for column, classes in names.items():
        position = data.schema.get_field_index(column)
        dictionary = pa.array(classes, pa.string())
        old = data.column(position)
        kind = _coded(pa.array([], old.type), dictionary).type
        coded = pa.chunked_array([_coded(chunk, dictionary) for chunk in old.chunks], kind)
        data = data.set_column(position, column, coded)
    return data


def _names(feature: Any) -> tuple[str, ...]:
    """The class names of a feature; of its elements for a list."""
    if isinstance(feature, list):
        return _names(feature[0]) if feature else ()
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel":
        return tuple(feature.get("names") or ())
    return _names(feature.get("feature")) if feature.get("_type") in {"Sequence", "List", "LargeList"} else ()


def _coded(codes: pa.Array, dictionary: pa.Array) -> pa.Array:
    if pa.types.is_integer(codes.type):
        if pc.any(pc.less(codes, 0)).as_py():
            codes = pc.if_else(pc.less(codes, 0), pa.scalar(None, codes.type), codes)
        return pa.DictionaryArray.from_arrays(codes, dictionary)
    lengths = pc.fill_null(pc.list_value_length(codes), 0)
    ends = pc.cast(pc.cumulative_sum(lengths), pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, _coded(pc.list_flatten(codes), dictionary), mask=pc.is_null(codes))
