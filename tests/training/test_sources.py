"""From the configuration's sources to tables and parts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask.config import Config, DataConfig
from polytask.data.source import Source
from polytask.data.splits import Split
from polytask.errors import UserError
from polytask.training.combined_sources import combine_sources, split_rows
from polytask.training.open_table import open_table
from polytask.training.sources import open_sources


@pytest.fixture
def config(tmp_path: Path):
    """A configuration over tables that are written for it."""

    def config(data: dict, tables: dict[str, pd.DataFrame], tasks: dict | None = None, inputs: dict | None = None):
        for name, frame in tables.items():
            frame.to_csv(tmp_path / f"{name}.csv", index=False)
        given = {
            "data": data,
            "inputs": inputs or {"row": {"type": "tabular", "columns": ["x"]}},
            "tasks": tasks or {"y": "regression"},
        }
        return Config.from_mapping(given, folder=tmp_path)

    return config


def frame(rows: int, first: int = 0, **columns) -> pd.DataFrame:
    number = np.arange(first, first + rows)
    return pd.DataFrame({"id": number, "x": number / 4, **(columns or {"y": number / 2})})


def ids(sources, part: str) -> list[int]:
    found = sources.parts[part]
    return found.table.take(found.rows, ["id"]).column(0).to_pylist()


def test_each_source_has_its_own_split_or_files(config):
    data = {
        "a": {"train": "a.csv", "test": "late.csv", "split": {"valid": 0.25}},
        "b": {"train": "b.csv", "split": {"by": "column", "column": "part"}},
    }
    b = frame(6, 200).assign(part=["train", "test", "train", "valid", "train", "test"])
    sources = open_sources(config(data, {"a": frame(20), "late": frame(5, 100), "b": b}))
    assert {name: len(part) for name, part in sources.parts.items()} == {"train": 15 + 3, "valid": 5 + 1, "test": 5 + 2}
    assert {row for row in ids(sources, "test") if row >= 100} == {*range(100, 105), 201, 205}
    assert sorted(ids(sources, "train") + ids(sources, "valid") + ids(sources, "test")) == [
        *range(20),
        *range(100, 105),
        *range(200, 206),
    ]
    assert list(sources.reserved) == ["part"]
    assert len({id(part.table) for part in sources.parts.values()}) == 1


def test_a_saved_split_is_used_as_it_is_and_must_fit(config, tmp_path):
    data = {"a": {"train": "a.csv"}, "b": {"train": "b.csv"}}
    given = config(data, {"a": frame(20), "b": frame(10, 100)})
    sources = open_sources(given)
    again = open_sources(given, sources.split)
    assert all(np.array_equal(again.parts[name].rows, part.rows) for name, part in sources.parts.items())
    assert again.fingerprint == sources.fingerprint
    frame(9, 100).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match="made for 30 rows.* has 29"):
        open_sources(given, sources.split)


def test_joined_sources_are_split_after_joining(config):
    data = {"a": {"train": "a.csv", "key": "id"}, "b": {"train": "b.csv", "key": "num", "split": {"test": 0.5}}}
    tables = {"a": frame(20, x=np.arange(20.0)), "b": pd.DataFrame({"num": np.arange(5, 30), "y": np.arange(25.0)})}
    sources = open_sources(config(data, tables))
    assert {name: len(part) for name, part in sources.parts.items()} == {"train": 12, "valid": 3, "test": 15}
    every = ids(sources, "train") + ids(sources, "valid") + ids(sources, "test")
    assert sorted(every) == list(range(30))
    assert list(sources.reserved) == ["id"]


def joined(config, split: dict, tasks: dict | None = None, **columns):
    """The sources of `a` (ids 0 to 39) and `b` (ids 20 to 59, its key called `num`), joined and split."""
    a, b = ({name: values for name, values in columns.items() if name.startswith(which)} for which in "ab")
    tables = {
        "a": pd.DataFrame({"id": np.arange(40), "x": np.arange(40.0), **{name[2:]: v for name, v in a.items()}}),
        "b": pd.DataFrame({"num": np.arange(20, 60), **{name[2:]: v for name, v in b.items()}}),
    }
    data = {"a": {"train": "a.csv", "key": "id", "split": split}, "b": {"train": "b.csv", "key": "num"}}
    return open_sources(config(data, tables, tasks))


def test_a_group_stays_together_in_joined_rows(config):
    split = {"by": "group", "column": "who", "valid": 0.3, "test": 0.2}
    sources = joined(config, split, a_who=np.arange(40) // 4, b_who=np.arange(20, 60) // 4, b_y=np.arange(40))
    owners = [{number // 4 for number in ids(sources, part)} for part in ("train", "valid", "test")]
    assert sorted(number for part in owners for number in part) == list(range(15))
    assert [len(part) for part in owners] == pytest.approx([7.5, 4.5, 3], abs=1)


def test_joined_rows_can_be_split_by_the_key_of_any_of_them(config):
    sources = joined(config, {"by": "group", "column": "num"}, b_y=np.arange(40))
    assert {name: len(part) for name, part in sources.parts.items()} == {"train": 48, "valid": 6, "test": 6}


def test_joined_rows_can_be_split_by_a_target_of_one_source_whichever_tasks_there_are(config):
    split = {"by": "stratified", "column": "kind", "valid": 0.25, "test": 0}
    kind = {"type": "classification", "target": "kind", "sources": "a"}
    columns = {"a_kind": ["u", "v"] * 20, "b_kind": ["u", "v"] * 20, "b_y": np.arange(40)}
    several = joined(config, split, {"k": kind, "y": "regression"}, **columns)
    assert "kind (a)" in several.parts["valid"].table.columns
    chosen = np.array(ids(several, "valid"))
    assert abs((chosen % 2 == 0).sum() - 7.5) < 1 and len(chosen) == 15
    alone = joined(config, split, {"y": "regression"}, **columns)
    assert ids(alone, "valid") == chosen.tolist()


def test_a_target_with_a_meaning_in_each_joined_source_splits_no_rows(config):
    split = {"by": "stratified", "column": "kind", "valid": 0.25, "test": 0}
    tasks = {
        "k": {"type": "classification", "target": "kind", "sources": "a"},
        "n": {"type": "regression", "target": "kind", "sources": "b"},
    }
    with pytest.raises(UserError, match=r"data\.a\.split\.column: The column 'kind' is of the type category.*`rename`"):
        joined(config, split, tasks, a_kind=["u", "v"] * 20, b_kind=np.arange(40))
    renamed = {"n": {"type": "regression", "target": "size", "sources": "b"}, "k": tasks["k"]}
    sources = joined(config, split, renamed, a_kind=["u", "v"] * 20, b_size=np.arange(40))
    part = sources.parts["valid"]
    found = part.table.take(part.rows, ["kind"]).column(0).drop_null().to_pylist()
    assert sorted(found) == ["u"] * 5 + ["v"] * 5


def test_a_column_says_the_part_of_joined_rows(config):
    parts = np.array(["train", "valid", "test"])[np.arange(60) % 3]
    sources = joined(config, {"by": "column", "column": "part"}, a_part=parts[:40], b_part=parts[20:], b_y=range(40))
    assert [sorted(ids(sources, part)) for part in ("train", "valid", "test")] == [
        list(range(start, 60, 3)) for start in range(3)
    ]
    with pytest.raises(
        UserError, match=r"b.csv, row 21.*'part' does not say which part.*\(id 40\) is in the source 'b'"
    ):
        joined(config, {"by": "column", "column": "part"}, a_part=parts[:40], b_y=range(40))
    with pytest.raises(UserError, match=r"data\.a\.split\.column.*'a', 'b' has a column 'parts'.*Did you mean 'part'"):
        joined(config, {"by": "column", "column": "parts"}, a_part=parts[:40], b_y=range(40))


def test_a_column_that_is_called_like_another_sources_key_stays_an_input(config):
    assert "num" not in joined(config, {}, a_num=np.arange(40.0), b_y=range(40)).reserved


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"by": "stratified", "column": "kind"},
        {"by": "group", "column": "kind"},
        {"by": "column", "column": "part"},
    ],
)
def test_sources_below_one_another_are_split_by_their_own_columns_as_if_each_were_alone(config, split):
    parts = np.array(["train", "valid", "test"])[np.arange(40) % 3]
    table = frame(40).assign(sort=np.arange(40) // 5, part=parts)
    data = {"a": {"train": "a.csv", "rename": {"sort": "kind"}, "split": split}, "b": {"train": "b.csv"}}
    inputs = {"row": {"type": "tabular", "columns": ["x"]}}
    several = open_sources(config(data, {"a": table, "b": frame(30, 100)}, inputs=inputs))
    alone = open_sources(config(data["a"], {"a": table}, inputs=inputs))
    for part in ("train", "valid", "test"):
        assert [number for number in ids(several, part) if number < 100] == ids(alone, part)


def test_a_source_can_be_split_by_a_target_that_is_its_own(config):
    split = {"by": "stratified", "column": "y", "valid": 0.5, "test": 0}
    data = {"a": {"train": "a.csv", "split": split}, "b": {"train": "b.csv"}}
    tables = {"a": frame(8, y=["u", "v"] * 4), "b": frame(20, 50)}
    tasks = {
        "c": {"type": "classification", "target": "y", "sources": "a"},
        "n": {"type": "regression", "target": "y", "sources": "b"},
    }
    sources = open_sources(config(data, tables, tasks))
    part = sources.parts["valid"]
    labels = part.table.take(part.rows, ["y (a)"]).column(0).drop_null().to_pylist()
    assert sorted(labels) == ["u", "u", "v", "v"]


@pytest.mark.parametrize("test", [None, "test.csv"])
def test_a_single_source_with_a_key_has_each_key_once_and_none_leaks(config, test):
    data = {"train": "a.csv", "key": "id", **({} if test is None else {"test": test})}
    assert "id" in open_sources(config(data, {"a": frame(20), "test": frame(5, 20)})).reserved
    if test is None:
        with pytest.raises(UserError, match=r"a.csv, row 21 .*the key 0 is there already, in row 1"):
            open_sources(config(data, {"a": pd.concat([frame(20), frame(1)])}))
    else:
        with pytest.raises(UserError, match="2 keys are in the training data .* and also in the test data .*: 18, 19"):
            open_sources(config(data, {"a": frame(20), "test": frame(5, 18)}))


@pytest.mark.parametrize("form", ["single", "named"])
def test_columns_get_the_names_that_inputs_and_tasks_use(config, form):
    source = {"train": "a.csv", "rename": {"ex": "x", "why": "y"}}
    data = source if form == "single" else {"a": source}
    renamed = frame(20).rename(columns={"x": "ex", "y": "why"})
    assert open_sources(config(data, {"a": renamed})).parts["train"].table.columns == ("id", "x", "y")
    with pytest.raises(UserError, match="a.csv has no column 'why', which is to be renamed. Did you mean 'whyy'"):
        open_sources(config(data, {"a": renamed.rename(columns={"why": "whyy"})}))


def test_a_source_without_the_column_of_an_input_is_refused(config):
    data = {"a": {"train": "a.csv"}, "b": {"train": "b.csv"}}
    with pytest.raises(
        UserError, match="input 'row' reads 'x', but the source 'b' has no such column. Did you mean 'xx'"
    ):
        open_sources(config(data, {"a": frame(20), "b": frame(20).rename(columns={"x": "xx"})}))


def test_what_counts_as_missing_is_told(config, caplog):
    data = {"a": {"train": "a.csv", "test": "t.csv"}, "b": {"train": "b.csv"}}
    tables = {"a": frame(20).assign(z=1), "b": frame(20), "t": frame(4, 90)}
    open_sources(config(data, tables, inputs={"row": {"type": "tabular", "columns": ["x", "z"]}}))
    assert "The input 'row' reads 'z', which the source 'b' does not have: missing there." in caplog.text
    assert "t.csv (test of 'a') has no 'z': missing there." in caplog.text


def test_checks_of_sources_and_tasks_are_made(config):
    data = {"a": {"train": "a.csv"}, "b": {"train": "b.csv"}}
    tables = {"a": frame(20), "b": frame(20)}
    with pytest.raises(UserError, match="no source has the column 'yy'"):
        open_sources(config(data, tables, {"yy": "regression"}))
    tables = {"a": frame(20, y=["p", "q"] * 10), "b": frame(20, y=["pos", "neg"] * 10)}
    with pytest.raises(UserError, match="none in common"):
        open_sources(config(data, tables, {"y": "classification"}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, None),
        ({"test": "b.csv"}, "but 'b' has a table for testing"),
        ({"split": {"by": "group", "column": "y"}}, "but data.a.split asks for another one, by: group"),
    ],
)
def test_a_data_set_with_a_split_of_its_own_keeps_it_when_it_is_joined(config, more, message):
    data = {"a": {"train": "a.csv", "key": "id"}, "b": {"train": "b.csv", "key": "id", **more}}
    given = config(data, {"a": frame(4)[["id", "x"]], "b": frame(4)[["id", "y"]]})
    sources = [Source(name, {"train": open_table(each.train, each)[0]}, "id") for name, each in given.sources.items()]
    own = {"a": Split({"train": np.array([0, 3]), "test": np.array([1, 2])})}
    if message is not None:
        with pytest.raises(UserError, match=f"The source 'a' brings a split of its own.*{message}"):
            split_rows(given, combine_sources(given, sources), sources, own)
    else:
        found = split_rows(given, combine_sources(given, sources), sources, own)
        assert {part: rows.tolist() for part, rows in found.rows.items()} == {"train": [0, 3], "test": [1, 2]}


def test_a_built_in_data_set_is_a_source_with_its_own_split(config):
    from polytask.data import read_builtin

    table, split = read_builtin("multidigits")
    assert split is not None
    inputs = {"image": {"type": "image"}}
    tasks = {name: "classification" for name in table.columns if name != "image"}
    sources = open_sources(config({"digits": {"train": "multidigits"}}, {}, tasks, inputs))
    assert {name: len(part) for name, part in sources.parts.items()} == {n: len(r) for n, r in split.rows.items()}


def test_a_split_that_is_asked_for_in_vain_is_said(caplog):
    open_sources(DataConfig(train="multidigits"))
    assert not caplog.records
    sources = open_sources(DataConfig(train="multidigits", split={"seed": 1}))
    assert "brings a split of its own, which is used: data.split is not." in caplog.text
    assert sources.split is not None and set(sources.parts) == {"train", "valid", "test"}
