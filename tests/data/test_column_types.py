import datetime

import numpy as np
import pyarrow as pa
import pytest

from polytask.data.column_types import CATEGORY_MARK, ColumnType, check_names, check_types, infer_type, plain_type
from polytask.data.table import Table
from polytask.errors import UserError


def inferred(values, storage=None):
    array = pa.chunked_array([pa.array(values, storage)])
    return infer_type(array, pa.field("x", array.type))


@pytest.mark.parametrize(
    ("values", "storage", "expected"),
    [
        ([1, 2, 3], pa.int8(), "number"),
        ([0, 1, 0, None], pa.uint64(), "number"),
        ([0.5, float("nan")], pa.float32(), "number"),
        ([1, 2], pa.decimal128(5, 2), "number"),
        ([True, None], pa.bool_(), "boolean"),
        ([None, None], pa.null(), "category"),
        ([None, None], pa.string(), "category"),
        ([datetime.date(2026, 1, 1)], pa.date32(), "date"),
        ([datetime.datetime(2026, 1, 1)], pa.timestamp("ns", "UTC"), "date"),
        ([["a"], []], pa.list_(pa.string()), "list"),
        ([[1, 2]], pa.list_(pa.int64(), 2), "list"),
        ([b"\x89PNG"], pa.binary(), "image"),
        ([{"bytes": b"x", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "image"),
        ([{"a": 1}], pa.struct([("a", pa.int64())]), "other"),
        ([datetime.timedelta(1)], pa.duration("s"), "other"),
    ],
)
def test_arrow_types_are_understood(values, storage, expected):
    assert inferred(values, storage) == expected


@pytest.mark.parametrize("storage", [pa.string(), pa.large_string()])
def test_strings_that_end_like_images_are_images(storage):
    assert inferred(["a/b.JPG", "c.png", None], storage) == ColumnType.IMAGE
    assert inferred(["a/b.jpg", "c.txt"], storage) == ColumnType.CATEGORY
    assert inferred(["ajpg", "bjpg"], storage) == ColumnType.CATEGORY


def test_few_distinct_strings_are_categories_also_when_long():
    names = ["Married civilian spouse is present", "Never married at all so far", "Lives elsewhere than their spouse"]
    assert inferred(names * 20) == ColumnType.CATEGORY
    assert inferred(["red", "green", "blue"]) == ColumnType.CATEGORY


def test_long_or_hardly_repeated_strings_are_text():
    assert inferred(["this film was very good", "I did not like it at all"]) == ColumnType.TEXT
    assert inferred([f"C{'C' * i}O" for i in range(60)]) == ColumnType.TEXT
    assert inferred([f"product-{i}" for i in range(40)]) == ColumnType.CATEGORY
    chinese = ["这部电影非常好看" * 8, "我一点也不喜欢它" * 8]
    assert inferred(chinese) == ColumnType.TEXT


def test_dictionary_codes_and_marks_mean_categories_whatever_the_values():
    many = [f"long name number {i} of all" for i in range(100)]
    codes = pa.chunked_array([pa.array(many).dictionary_encode()])
    plain = pa.chunked_array([pa.array(many)])
    assert infer_type(plain, pa.field("x", codes.type)) == ColumnType.CATEGORY
    assert infer_type(plain, pa.field("x", pa.string(), metadata=CATEGORY_MARK)) == ColumnType.CATEGORY
    assert infer_type(plain, pa.field("x", pa.string(), metadata={"a": "b"})) == ColumnType.TEXT


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.dictionary(pa.int32(), pa.int64()), pa.int64()),
        (pa.list_(pa.dictionary(pa.int8(), pa.string())), pa.list_(pa.string())),
        (pa.large_list(pa.dictionary(pa.int8(), pa.string())), pa.large_list(pa.string())),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.list_(pa.float32(), 4)),
        (pa.int64(), pa.int64()),
        (pa.list_(pa.int64()), pa.list_(pa.int64())),
    ],
)
def test_plain_types_have_no_codes_views_or_extensions(storage, expected):
    assert plain_type(storage) == expected


def test_names_must_exist_and_differ():
    check_names(["a", "b"], "x.csv")
    with pytest.raises(UserError, match=r"x\.csv has no columns"):
        check_names([], "x.csv")
    with pytest.raises(UserError, match=r"x.csv has more than one column called 'a', 'b'"):
        check_names(list("abcab"), "x.csv")


def test_the_type_of_an_unknown_column_is_refused_with_the_closest():
    check_types({"stars": ColumnType.NUMBER}, ["stars"], "x.csv")
    with pytest.raises(UserError, match=r"x\.csv has no column 'star', whose type is set\. Did you mean 'stars'\?"):
        check_types({"star": ColumnType.NUMBER}, ["stars", "review"], "x.csv")


def test_inference_of_a_large_column_is_quick_enough_to_repeat():
    values = np.random.default_rng(0).choice(["cat", "dog"], 10_000).tolist()
    assert inferred(values) == ColumnType.CATEGORY


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image"),
        (b"fLaC\x00", "audio"),
        (b"OggS\x00", "audio"),
        (b"ID3\x04", "audio"),
        (b"\xff\xfb\x90", "audio"),
        (b"FORM\x00\x00\x00\x00AIFF", "audio"),
        (b"\xff\xd8\xff\xe0", "image"),
        (b"\x89PNG", "image"),
        (b"", "image"),
    ],
)
def test_files_of_sounds_are_told_from_images_by_how_they_begin(content, expected):
    table = Table.of({"file": [None, content, b"other"], "x": [1, 2, 3]})
    assert table.types["file"] == expected
    record = pa.array([None, {"bytes": content, "path": None}])
    assert Table.from_arrow(pa.table({"file": record})).types["file"] == expected


def test_paths_of_sounds_are_told_by_their_endings():
    assert Table.of({"file": ["a/b.wav", "c.FLAC", None]}).types["file"] == "audio"
    assert Table.of({"file": ["a/b.wav", "c.jpg", "d.wav"]}).types["file"] == "category"
