"""From the configuration's sources to tables and parts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask.config import Config
from polytask.errors import UserError
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
    assert set(sources.reserved) == {"id", "num"}


def test_a_group_stays_together_in_joined_rows(config):
    split = {"by": "group", "column": "who"}
    data = {"a": {"train": "a.csv", "key": "id", "split": split}, "b": {"train": "b.csv", "key": "id"}}
    tables = {"a": frame(40)[["id", "x"]].assign(who=np.arange(40) // 4), "b": frame(40)[["id", "y"]]}
    sources = open_sources(config(data, tables))
    owners = [{number // 4 for number in ids(sources, part)} for part in ("train", "valid", "test")]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]


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


def test_a_built_in_data_set_is_a_source_with_its_own_split(config):
    from polytask.data import read_builtin

    table, split = read_builtin("multidigits")
    assert split is not None
    inputs = {"image": {"type": "image"}}
    tasks = {name: "classification" for name in table.columns if name != "image"}
    sources = open_sources(config({"digits": {"train": "multidigits"}}, {}, tasks, inputs))
    assert {name: len(part) for name, part in sources.parts.items()} == {n: len(r) for n, r in split.rows.items()}
