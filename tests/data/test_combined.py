"""Several data sets as one table."""

import pickle
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polytask.data.column_types import ColumnType
from polytask.data.combined import combine
from polytask.data.inputs import ImageInput, TabularInput, TextInput
from polytask.data.preparation import Preparation
from polytask.data.readers import ReadOptions, read_table
from polytask.data.source import Source
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec


def source(name, columns, key=None, **others):
    tables = {"train": Table.of(columns, f"{name}.csv")}
    tables |= {part: Table.of(values, f"{name}_{part}.csv") for part, values in others.items()}
    return Source(name, tables, key)


def category(column, sources=None):
    return TargetSpec("category", (column,), sources=sources)


def rows_of(table):
    return table.take(None).to_pylist()


VALUES = {
    "n": st.one_of(st.none(), st.integers(-5, 5)),
    "f": st.one_of(st.none(), st.floats(-5, 5)),
    "s": st.one_of(st.none(), st.sampled_from(["x", "y", "é"])),
}


@st.composite
def frames(draw):
    """One to three sources with some of three columns each."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        columns = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, unique=True))
        rows = draw(st.integers(1, 6))
        values = {c: draw(st.lists(VALUES[c], min_size=rows, max_size=rows)) for c in columns}
        types = {"n": pa.int64(), "f": pa.float64(), "s": pa.string()}
        found.append(pa.table({c: pa.array(v, types[c]) for c, v in values.items()}))
    return found


@settings(max_examples=80, deadline=None)
@given(frames(), st.data())
def test_take_from_the_combined_table_is_take_from_the_sources(parts, data):
    tables = [Table.from_arrow(part, f"{number}.csv") for number, part in enumerate(parts)]
    combined = combine([Source(str(n), {"train": table}) for n, table in enumerate(tables)], {})
    places = [(n, row) for n, table in enumerate(tables) for row in range(len(table))]
    wanted = data.draw(st.lists(st.integers(0, len(places) - 1), max_size=12))
    empty = dict.fromkeys(combined.columns)
    expected = [empty | tables[n].take(np.array([row])).to_pylist()[0] for n, row in (places[w] for w in wanted)]
    rows = np.array(wanted, dtype=np.int64)
    assert combined.take(rows).to_pylist() == expected
    assert [combined.locate(w) for w in wanted] == [f"{places[w][0]}.csv, row {places[w][1] + 1}" for w in wanted]
    np.testing.assert_array_equal(combined.sources_of(rows).argmax(axis=1), [places[w][0] for w in wanted])
    assert (combined.sources_of(rows).sum(axis=1) == 1).all()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_joining_equals_the_outer_merge_of_pandas(data):
    parts, names = [], ["a", "b", "c"][: data.draw(st.integers(2, 3))]
    shared = data.draw(st.integers(0, 9))
    for name in names:
        keys = data.draw(st.lists(st.integers(0, 9), unique=True, max_size=8).map(lambda k: list({*k, shared})))
        order = data.draw(st.permutations(keys))
        values = data.draw(st.lists(VALUES["s"], min_size=len(order), max_size=len(order)))
        parts.append(pd.DataFrame({"id": order, name: pd.Series(values, dtype=object)}))
    joined = combine([source(n, part, "id") for n, part in zip(names, parts, strict=True)], {})
    expected = parts[0].merge(parts[1], on="id", how="outer")
    if len(parts) > 2:
        expected = expected.merge(parts[2], on="id", how="outer")
    expected = expected.sort_values("id").astype(object)
    found = joined.take(None).to_pandas().sort_values("id").astype(object)[list(expected.columns)]
    assert found.where(found.notna(), None).values.tolist() == expected.where(expected.notna(), None).values.tolist()
    members = joined.sources_of()
    for row, key in enumerate(joined.column("id").to_pylist()):
        assert members[row].tolist() == [key in set(part["id"]) for part in parts]


def test_rows_for_training_come_first_then_those_for_validation_and_testing():
    combined = combine([source("a", {"x": [1, 2]}, test={"x": [5]}), source("b", {"x": [3]}, valid={"x": [4]})], {})
    assert combined.column("x").to_pylist() == [1, 2, 3, 4, 5]
    assert [(block.part, block.sources, block.start) for block in combined.blocks] == [
        ("train", ("a",), 0),
        ("train", ("b",), 2),
        ("valid", ("b",), 3),
        ("test", ("a",), 4),
    ]
    assert combined.locate(4) == "a_test.csv, row 1"


def test_rows_of_files_are_located_by_line_and_travel_to_other_processes(tmp_path):
    (tmp_path / "a.csv").write_text("x,s\n1,u\n\n2,v\n")
    (tmp_path / "b.csv").write_text("x\n0.5\n")
    tables = [read_table(tmp_path / f"{name}.csv", cache=tmp_path / "cache") for name in "ab"]
    combined = combine([Source(n, {"train": t}) for n, t in zip("ab", tables, strict=True)], {})
    assert combined.locate(1) == f"{tmp_path / 'a.csv'}, row 2 (line 4)"
    assert combined.column("x").to_pylist() == [1.0, 2.0, 0.5]
    message = pickle.dumps(combined)
    again = pickle.loads(message)
    assert rows_of(again) == rows_of(combined)
    assert again.locate(2) == f"{tmp_path / 'b.csv'}, row 1 (line 2)"
    assert again.fingerprint == combined.fingerprint


def test_files_stay_mapped_and_travel_as_names(tmp_path):
    rows = 200_000
    pd.DataFrame({"x": np.arange(rows) / 3}).to_csv(tmp_path / "a.csv", index=False)
    tables = {"a": read_table(tmp_path / "a.csv", cache=tmp_path / "c"), "b": Table.of({"y": ["u"] * 10}, "b.csv")}
    before = pa.total_allocated_bytes()
    combined = combine([Source(name, {"train": table}) for name, table in tables.items()], {})
    assert pa.total_allocated_bytes() - before < 2 * rows, "the numbers alone are 8 bytes a row"
    assert len(pickle.dumps(combined)) < 10_000
    assert combined.numbers("x", np.array([rows - 1]))[0] == pytest.approx((rows - 1) / 3)


def test_a_joined_table_travels_to_other_processes():
    joined = combine(
        [source("a", {"id": [1, 2], "x": ["p", "q"]}, "id"), source("b", {"id": [2], "y": [0.5]}, "id")], {}
    )
    again = pickle.loads(pickle.dumps(joined))
    assert rows_of(again) == rows_of(joined) == [{"id": 1, "x": "p", "y": None}, {"id": 2, "x": "q", "y": 0.5}]
    assert joined.locate(0) == "a.csv, row 1"
    assert joined.locate(1) == "a.csv, row 2 with b.csv, row 1"


def test_any_change_of_a_source_changes_the_fingerprint():
    def made(last, key=None, other="b"):
        sources = [source("a", {"id": [1, 2]}, key), source(other, {"id": [2, 3], "y": [0.5, last]}, key)]
        return combine(sources, {}).fingerprint

    assert made(1.5) == made(1.5)
    assert len({made(1.5), made(2.5), made(1.5, "id"), made(2.5, "id"), made(1.5, other="c")}) == 5


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.array([1, 2]), pa.array([0.5]), pa.float64()),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string()),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), pa.string()),
        (pa.array([[1]]), pa.array([[0.5]]), pa.list_(pa.float64())),
        (pa.array([1]), pa.array([None], pa.string()), pa.int64()),
        (pa.array([None], pa.string()), pa.array([True]), pa.bool_()),
        (pa.array([1], pa.timestamp("s")), pa.array([1], pa.date32()), pa.timestamp("us")),
    ],
)
def test_types_that_go_together_are_made_one(one, other, expected):
    tables = [Table.from_arrow(pa.table({"x": values}), name) for name, values in (("a.csv", one), ("b.csv", other))]
    combined = combine([Source("a", {"train": tables[0]}), Source("b", {"train": tables[1]})], {})
    assert combined.take(None).schema.field("x").type == expected
    assert combined.column("x").null_count == one.null_count + other.null_count


def test_categories_that_are_numbers_in_one_source_have_the_names_that_classes_have():
    one = Table.from_arrow(pa.table({"x": [1.0, 2.5]}), "a.csv", types={"x": ColumnType.CATEGORY})
    other = Table.of({"x": ["u"]}, "b.csv")
    combined = combine([Source("a", {"train": one}), Source("b", {"train": other})], {})
    assert combined.column("x").to_pylist() == ["1", "2.5", "u"]


@pytest.mark.parametrize("values", [[1, 2], [True, False], [["u"], ["v"]]])
def test_types_that_do_not_go_together_are_refused_by_the_names_of_both_sources(values):
    sources = [source("a", {"x": ["u", "v"]}), source("b", {"x": values})]
    with pytest.raises(UserError, match=r"'x' is of the type category in the source 'a' and of the type .* in 'b'"):
        combine(sources, {})


def test_a_target_of_some_sources_only_is_a_column_of_its_own():
    sources = [
        source("reviews", {"text": ["u", "v"], "label": ["pos", "neg"]}),
        source("scores", {"text": ["w"], "label": [0.5]}),
        source("posts", {"text": ["x"], "label": ["spam"]}),
    ]
    targets = {
        "mood": category("label", ("reviews",)),
        "spam": category("label", ("posts", "reviews")),
        "score": TargetSpec("numbers", ("label",), sources=("scores",)),
    }
    combined = combine(sources, targets)
    assert combined.targets == {
        "mood": ("label (reviews)",),
        "spam": ("label (reviews, posts)",),
        "score": ("label (scores)",),
    }
    assert combined.columns == ("text", "label (reviews)", "label (reviews, posts)", "label (scores)")
    assert combined.column("label (reviews)").to_pylist() == ["pos", "neg", None, None]
    assert combined.column("label (reviews, posts)").to_pylist() == ["pos", "neg", None, "spam"]
    assert combined.column("label (scores)").to_pylist() == [None, None, 0.5, None]


def test_a_target_of_all_its_sources_keeps_its_name_and_what_no_task_reads_of_a_target_is_no_input():
    sources = [
        source("a", {"x": [1, 3], "y": [0.5, 2.0]}),
        source("b", {"x": [2], "y": [1.5]}),
        source("c", {"x": [9]}),
    ]
    combined = combine(sources, {"y": TargetSpec("numbers", ("y",), sources=("a", "b"))})
    assert (combined.targets, combined.columns) == ({"y": ("y",)}, ("x", "y"))
    alone = combine(sources, {"y": TargetSpec("numbers", ("y",), sources=("a",))})
    assert alone.columns == ("x", "y (a)")
    prepared = Preparation.fit(
        alone, np.arange(4), {"row": TabularInput()}, {"y": TargetSpec("numbers", ("y",), sources=("a",))}
    )
    assert prepared.inputs["row"].columns == ("x",)
    assert prepared.targets["y"].spec.columns == ("y (a)",)
    assert prepared.summaries["y"].labelled == 2


def test_several_yes_no_columns_keep_the_names_of_their_classes():
    sources = [source("a", {"x": [1, 3], "p": [True, False], "q": [False, True]}), source("b", {"x": [2], "p": [True]})]
    spec = TargetSpec("labels", ("p", "q"), sources=("a",))
    table = combine(sources, {"tags": spec})
    prepared = Preparation.fit(table, np.arange(3), {"row": TabularInput()}, {"tags": spec})
    assert prepared.targets["tags"].spec.columns == ("p (a)", "q")
    assert prepared.summaries["tags"].classes == ("p", "q")


def test_a_bad_label_is_found_in_the_file_of_its_source():
    sources = [source("a", {"x": [1], "label": ["u"]}), source("b", {"x": [2, 3], "label": ["1", "wrong"]})]
    targets = {"n": TargetSpec("numbers", ("label",), sources=("b",))}
    with pytest.raises(UserError, match=r"b\.csv, row 2, column 'label \(b\)': 'wrong' is not a number"):
        Preparation.fit(combine(sources, targets), np.arange(3), {"row": TabularInput(["x"])}, targets)


def test_images_are_looked_for_in_the_folder_of_their_source(tmp_path):
    tables = {}
    for name, shade in (("a", 50), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), shade).save(tmp_path / name / "0.png")
        tables[name] = Table.of({"image": ["0.png"], "id": [1]}, f"{name}.csv", tmp_path / name)
    apart = combine([Source(name, {"train": table}) for name, table in tables.items()], {})
    inputs = {"image": ImageInput(channels=1, normalize=[0.0, 1.0])}
    prepared = Preparation.fit(apart, np.arange(2), inputs, {"id": TargetSpec("numbers", ("id",))})
    (batch,) = prepared.loader(apart, np.array([1, 0]), batch_size=2)
    assert (batch.inputs["image"][:, 0, 0, 0] * 255).round().tolist() == [200, 50]
    third = Table.of({"id": [2, 1], "image": ["0.png", None]}, "c.csv", tmp_path / "a")
    joined = combine([Source("c", {"train": third}, "id"), Source("b", {"train": tables["b"]}, "id")], {})
    assert [joined.folder_of(row, "image") for row in (0, 1)] == [tmp_path / "a", tmp_path / "b"]


LABELS = source("labels", {"id": [7, 8, 9, 5], "n": [1.0, 2.0, 3.0, 4.0]}, "id")
NUMBER = {"n": TargetSpec("numbers", ("n",))}


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (TextInput("text", tokenizer="words"), ["u", "v"]),
        (ImageInput("text", size=4, normalize=[0.0, 1.0]), ["u.png", "v.png"]),
        (ImageInput("text"), ["u.png", "v.png"]),
        (TabularInput(["text"], missing="error"), [0.5, 1.5]),
    ],
)
def test_a_joined_row_without_what_an_input_reads_says_which_source_lacks_it(read, values):
    table = combine([source("texts", {"id": [7, 5], "text": values}, "id"), LABELS], NUMBER)
    with pytest.raises(UserError) as raised:
        first = np.array([2] if isinstance(read, ImageInput) else [0, 1])
        Preparation.fit(table, first, {"x": read}, NUMBER).loader(table, np.array([2]), batch_size=1)
    for part in (
        "labels.csv, row 2",
        "the row (id 8) is in the source 'labels' only; 'texts', which has the column 'text', does not have it",
        "The same is true of 1 more row",
        ". Add it to 'texts',",
        "take it out of 'labels'",
    ):
        assert part in str(raised.value)


def test_an_empty_cell_of_a_joined_row_is_an_empty_cell():
    table = combine([source("texts", {"id": [7, 5], "text": ["u", None]}, "id"), LABELS], NUMBER)
    with pytest.raises(UserError, match=r"texts.csv, row 2 with labels.csv, row 4: 'text' is empty, .*Fill the cell"):
        Preparation.fit(table, np.array([0, 1]), {"x": TextInput("text", tokenizer="bpe")}, NUMBER)


@pytest.mark.parametrize("key", [None, "id"])
def test_rows_of_a_table_without_the_column_of_an_input_say_so(key):
    texts = source("texts", {"id": [1], "text": ["u"], "n": [1.0]}, key, test={"id": [3], "n": [2.0]})
    table = combine([texts, source("more", {"id": [1], "text": ["u"], "z": ["v"]}, key)], NUMBER)
    prepared = Preparation.fit(table, np.array([0]), {"x": TextInput("text", tokenizer="words")}, NUMBER)
    message = r"texts_test.csv, row 1: 'text' is empty.*: texts_test.csv, of the source 'texts', has no column 'text'"
    with pytest.raises(UserError, match=message):
        prepared.loader(table, np.array([len(table) - 1]), batch_size=1)


def test_an_image_that_a_source_lacks_can_be_left_out(caplog, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "u.png")
    images = Source("images", {"train": Table.of({"id": [7], "image": ["u.png"]}, "i.csv", tmp_path)}, "id")
    table = combine([images, LABELS], NUMBER)
    read = ImageInput(channels=1, on_error="skip", normalize=[0.0, 1.0])
    loader = Preparation.fit(table, np.arange(4), {"x": read}, NUMBER).loader(table, batch_size=4)
    assert loader.skipped == 3
    assert "labels.csv, row 2 is left out: there is no image: the row (id 8) is in the source 'labels'" in caplog.text


def test_the_first_source_with_a_value_gives_it_and_two_that_differ_are_refused():
    one = {"id": ["p", "q", "r"], "x": [1.0, None, float("nan")]}
    joined = combine([source("a", one, "id"), source("b", {"num": ["q", "r", "p"], "x": [2.0, 3.0, 1.0]}, "num")], {})
    assert joined.columns == ("id", "x")
    assert joined.column("x").to_pylist() == [1.0, 2.0, 3.0]
    with pytest.raises(UserError) as raised:
        combine([source("a", one, "id"), source("b", {"num": ["q", "p"], "x": [2.0, 7.0]}, "num")], {})
    for part in (
        "id 'p'",
        "column 'x'",
        "1.0 in the source 'a' (a.csv, row 1)",
        "7.0 in the source 'b' (b.csv, row 2)",
    ):
        assert part in str(raised.value)


def test_lists_are_compared_too():
    one = source("a", {"id": [1, 2], "x": [["u"], None]}, "id")
    assert combine([one, source("b", {"id": [2, 1], "x": [["v"], ["u"]]}, "id")], {}).column("x").to_pylist() == [
        ["u"],
        ["v"],
    ]
    with pytest.raises(UserError, match=r"\['u'\] in the source 'a'.*\['w'\] in the source 'b'"):
        combine([one, source("b", {"id": [1], "x": [["w"]]}, "id")], {})


def test_a_target_of_one_joined_source_is_not_compared_with_that_of_another():
    sources = [source("a", {"id": [1, 2], "label": ["u", "v"]}, "id"), source("b", {"id": [2], "label": [0.5]}, "id")]
    targets = {"c": category("label", ("a",)), "n": TargetSpec("numbers", ("label",), sources=("b",))}
    assert rows_of(combine(sources, targets)) == [
        {"id": 1, "label (a)": "u", "label (b)": None},
        {"id": 2, "label (a)": "v", "label (b)": 0.5},
    ]


@pytest.mark.parametrize(
    ("one", "other", "parts"),
    [
        ({"id": [1, 2, 1]}, {"id": [1]}, ["a.csv, row 3", "the key 1 is there already, in row 1"]),
        ({"id": [1, None]}, {"id": [1]}, ["a.csv, row 2", "no value in 'id'"]),
        ({"idd": [1]}, {"id": [1]}, ["a.csv has no column 'id', the key", "Did you mean 'idd'"]),
        ({"id": [1, 2]}, {"id": [3]}, ["No key 'id' of the source 'a'", "Keys of 'a': 1, 2", "of 'b': 3"]),
        ({"id": [1, 2]}, {"id": ["1"]}, ["'id' is of the type number", "category in 'b'"]),
        ({"id": [[1], [2]]}, {"id": [1]}, ["cannot be a key"]),
    ],
)
def test_keys_that_do_not_do_are_refused(one, other, parts):
    with pytest.raises(UserError) as raised:
        combine([source("a", one, "id"), source("b", other, "id")], {})
    for part in parts:
        assert part in str(raised.value)


def test_a_key_that_would_take_another_columns_name_is_refused():
    with pytest.raises(UserError, match="The key 'num' of the source 'b' would be called 'id'"):
        combine([source("a", {"id": [1]}, "id"), source("b", {"num": [1], "id": [5]}, "num")], {})


@pytest.mark.parametrize("part", ["valid", "test"])
def test_keys_in_training_and_elsewhere_are_listed(part):
    one = source("a", {"id": list(range(20))}, "id", **{part: {"id": list(range(8, 25))}})
    with pytest.raises(UserError) as raised:
        combine([one], {})
    listed = "8, 9, 10, 11, 12, 13, 14, 15, 16, 17 and 2 more"
    for text in (f"12 keys are in the training data (a.csv) and also in the {part} data (a_{part}.csv)", listed):
        assert text in str(raised.value)


def test_a_key_that_leaks_through_another_source_is_found():
    images = source("images", {"id": [1, 2], "x": [0.1, 0.2]}, "id", test={"id": [3], "x": [0.3]})
    with pytest.raises(UserError, match=r"1 key is in the training data \(labels.csv\).*images_test.csv.*: 3\."):
        combine([images, source("labels", {"id": [1, 3], "y": [1, 0]}, "id")], {})


def test_without_keys_equal_rows_are_no_leak():
    combined = combine([source("a", {"id": [1]}, test={"id": [1]})], {})
    assert len(combined) == 2


def test_only_sources_with_a_key_are_joined_and_the_others_rows_follow():
    sources = [
        source("a", {"id": [1], "x": [1]}, "id"),
        source("free", {"x": [5, 6]}),
        source("b", {"id": [2, 1], "y": [7, 8]}, "id"),
    ]
    combined = combine(sources, {})
    assert rows_of(combined) == [
        {"id": 1, "x": 1, "y": 8},
        {"id": 2, "x": None, "y": 7},
        {"id": None, "x": 5, "y": None},
        {"id": None, "x": 6, "y": None},
    ]
    assert combined.sources_of().astype(int).tolist() == [[1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_many_rows_are_joined_in_pieces(monkeypatch):
    from polytask.data import joined

    monkeypatch.setattr(joined, "PIECE", 7)
    draw = np.random.default_rng(0)
    one = pd.DataFrame({"id": draw.permutation(50), "x": [f"x{i}" for i in range(50)]})
    other = pd.DataFrame({"id": draw.permutation(80)[:40], "y": np.arange(40)})
    table = combine([source("a", one, "id"), source("b", other, "id")], {})
    expected = one.merge(other, on="id", how="outer").sort_values("id")
    found = table.take(None).to_pandas().sort_values("id")
    assert found["y"].fillna(-1).tolist() == expected["y"].fillna(-1).tolist()
    assert found["x"].fillna("").tolist() == expected["x"].fillna("").tolist()


def test_options_of_reading_types_hold(tmp_path: Path):
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    table = read_table(tmp_path / "a.csv", ReadOptions(columns={"x": "category"}), cache=tmp_path / "c")
    combined = combine([Source("a", {"train": table}), source("b", {"x": ["u"]})], {})
    assert combined.types["x"] is ColumnType.CATEGORY


def test_keys_that_are_whole_numbers_here_and_fractions_there_are_not_compared():
    large = [2**53, 2**53 + 1]
    sources = [
        source("a", {"id": large, "x": [1.0, 2.0]}, key="id"),
        source("b", {"id": [float(large[0]), 7.5], "y": ["u", "v"]}, key="id"),
    ]
    with pytest.raises(UserError, match="key 'id' of the source 'b' has fractions .* other keys are whole numbers"):
        combine(sources, {"y": category("y")})


def test_keys_must_not_be_in_validation_and_test_data():
    sources = [
        source("a", {"id": [1], "y": ["u"]}, key="id", valid={"id": [2], "y": ["u"]}, test={"id": [2], "y": ["v"]})
    ]
    with pytest.raises(UserError, match=r"1 key is in the validation data \(a_valid.csv\) and also in the test data"):
        combine(sources, {"y": category("y")})


@pytest.mark.parametrize("key", [None, "id"])
def test_the_work_for_many_columns_grows_with_their_number(key):
    def seconds(columns):
        half = columns // 2
        sources = [
            source(name, {"id": [1, 2], **{f"c{number}": [0.5, 1.5] for number in range(first, first + half)}}, key)
            for name, first in (("a", 0), ("b", half))
        ]
        started = time.process_time()
        combined = combine(sources, {})
        assert len(combined.columns) == 2 * half + 1
        return time.process_time() - started

    few, many = (min(seconds(columns) for _ in range(3)) for columns in (800, 6400))
    # 8 times where it grows with the columns, 64 times where it does with their square.
    assert many < 20 * few
