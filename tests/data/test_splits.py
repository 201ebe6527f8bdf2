import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.readers import read_table
from polytask.data.splits import Split, make_split
from polytask.data.table import Table
from polytask.errors import UserError

ROWS = 200


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(0)
    return Table.of(
        {
            "kind": [None if row % 20 == 0 else "abc"[row % 3] for row in range(ROWS)],
            "rare": ["once" if row == 7 else "often" for row in range(ROWS)],
            "flag": generator.integers(0, 2, ROWS).astype(bool),
            "value": np.where(np.arange(ROWS) % 10 == 0, np.nan, generator.normal(size=ROWS)),
            "person": [None if row < 6 else f"p{row // 8}" for row in range(ROWS)],
            "part": (["Train", "VALID", " dev", "training"] * ROWS)[: ROWS - 20] + ["test"] * 20,
            "list": [["a"]] * ROWS,
            "identifier": [f"row-{row}" for row in range(ROWS)],
        },
        source="data.csv",
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 120),
    st.sampled_from(["random", "stratified", "group"]),
    st.sampled_from([0.0, 0.15, 0.3]),
    st.sampled_from([0.0, 0.2, 0.35]),
    st.integers(0, 3),
)
def test_every_row_is_in_one_part_and_the_same_seed_gives_the_same(rows, by, valid, test, seed):
    data = Table.of({"c": np.random.default_rng(rows).integers(0, 6, rows)})
    column = None if by == "random" else "c"
    split = make_split(data, by=by, column=column, valid=valid, test=test, seed=seed)
    assert set(split.rows) == {"train"} | ({"valid"} if valid else set()) | ({"test"} if test else set())
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.rows.values()))), np.arange(rows))
    for positions in split.rows.values():
        assert positions.dtype == np.int64
        assert (np.diff(positions) > 0).all()
    again = make_split(data, by=by, column=column, valid=valid, test=test, seed=seed)
    assert all(np.array_equal(again[part], split[part]) for part in split.rows)
    if by == "group":
        values = data.column("c").to_numpy()
        owners = [set(values[split[part]].tolist()) for part in split.rows]
        assert sum(map(len, owners)) == len(set.union(*owners))


def test_other_seeds_give_other_splits(table):
    assert not np.array_equal(make_split(table, seed=0)["test"], make_split(table, seed=1)["test"])


def test_the_split_of_a_seed_does_not_change_between_versions():
    split = make_split(Table.of({"x": range(20)}), seed=0)
    assert (split["valid"].tolist(), split["test"].tolist()) == ([2, 6], [4, 19])


def shares(table, split, columns):
    frame = pd.DataFrame({name: table.column(name).to_pylist() for name in columns}).fillna("missing")
    keys = frame.astype(str).agg("/".join, axis=1)
    return {part: keys.iloc[rows].value_counts() for part, rows in split.rows.items()}, keys.value_counts()


@pytest.mark.parametrize("columns", [["kind"], ["kind", "flag"], ["flag"]])
def test_strata_have_the_same_share_of_every_part(table, columns):
    split = make_split(table, by="stratified", column=columns, valid=0.2, test=0.2)
    parts, whole = shares(table, split, columns)
    for part, share in {"train": 0.6, "valid": 0.2, "test": 0.2}.items():
        for key, count in whole.items():
            assert abs(parts[part].get(key, 0) - share * count) < 2, (part, key)
        assert abs(len(split[part]) - share * ROWS) <= 2


def test_missing_values_are_a_stratum(table):
    split = make_split(table, by="stratified", column="kind", valid=0.2, test=0.2)
    kinds = np.array(table.column("kind").to_pylist(), dtype=object)
    assert [sum(value is None for value in kinds[split[part]]) for part in ("train", "valid", "test")] == [6, 2, 2]


def test_a_value_that_occurs_once_stays_in_training(table):
    for seed in range(20):
        assert 7 in make_split(table, by="stratified", column="rare", seed=seed)["train"]


def test_numbers_are_stratified_by_ranges(table):
    split = make_split(table, by="stratified", column="value", valid=0.2, test=0.2)
    values = table.numbers("value")
    edges = np.nanquantile(values, np.linspace(0, 1, 11))
    for part, share in {"valid": 0.2, "test": 0.2}.items():
        chosen = values[split[part]]
        assert abs(np.isnan(chosen).sum() - share * 20) < 2
        counts = np.histogram(chosen[~np.isnan(chosen)], edges)[0]
        assert (np.abs(counts - share * 18) < 2.5).all()


def test_rows_without_a_group_stay_together(table, caplog):
    with caplog.at_level(logging.WARNING, "polytask"):
        split = make_split(table, by="group", column="person")
    assert "data.csv: 6 rows have no 'person'" in caplog.text
    assert len({part for part in split.rows for row in range(6) if row in split[part]}) == 1


def test_a_column_says_the_part(table):
    split = make_split(table, by="column", column="part")
    parts = [value.strip().lower() for value in table.column("part").to_pylist()]
    expected = {"train": {"train", "training"}, "valid": {"valid", "dev"}, "test": {"test"}}
    for part, spellings in expected.items():
        assert split[part].tolist() == [row for row, value in enumerate(parts) if value in spellings]
    only = make_split(Table.of({"p": ["train", "VAL"]}), by="column", column=["p"])
    assert set(only.rows) == {"train", "valid"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"by": "stratifed"}, r"no split by 'stratifed'. Did you mean 'stratified'"),
        ({"by": "stratified"}, "A split by 'stratified' needs a column"),
        ({"by": "group", "column": []}, "A split by 'group' needs a column"),
        ({"by": "random", "column": "kind"}, "A random split uses no column, but has 'kind'"),
        ({"by": "group", "column": ["kind", "flag"]}, "takes one column, not 2: 'kind', 'flag'"),
        ({"by": "stratified", "column": "knd"}, r"data\.csv has no column 'knd'. Did you mean 'kind'"),
        ({"by": "stratified", "column": "list"}, "column 'list': rows cannot be split by values of the type 'list'"),
        ({"by": "group", "column": "list"}, "cannot be split by values of the type 'list'"),
        ({"valid": -0.1}, r"fraction of 'valid' is -0.1: it must be at least 0 and below 1"),
        ({"test": 1.0}, "fraction of 'test' is 1: it must be"),
        ({"test": float("nan")}, "fraction of 'test' is nan: it must be"),
        ({"valid": 0.5, "test": 0.5}, r"valid \(0\.5\) and test \(0\.5\) add up to 1: nothing is left to train"),
        ({"valid": 0.001}, r"part 'valid' of data\.csv would be empty: 0\.001 of 200 rows"),
        ({"by": "stratified", "column": "identifier"}, r"part 'valid' .* would be empty.*occur once stay in 'train'"),
        ({"by": "group", "column": "flag"}, "column 'flag': 2 groups cannot fill 3 parts"),
        ({"by": "column", "column": "kind"}, r"data\.csv, row 1: the column 'kind' does not say which part"),
        (
            {"by": "column", "column": "rare"},
            r"row 1, column 'rare': 'often' is not a part.*'validation'.*'often', 'once'",
        ),
        ({"by": "column", "column": "list"}, "column 'list': rows cannot be split by"),
    ],
)
def test_splits_that_cannot_be_are_refused(table, parameters, message):
    with pytest.raises(UserError, match=message):
        make_split(table, **parameters)


def test_a_column_without_training_rows_is_refused():
    with pytest.raises(UserError, match=r"no row is in 'train'. The column has: 'test'"):
        make_split(Table.of({"p": ["test", "test"]}), by="column", column="p")


def test_parts_are_checked_when_a_split_is_made():
    split = Split({"test": np.array([3, 1]), "train": [2, 0]})
    assert list(split.rows) == ["train", "test"]
    assert split["test"].tolist() == [1, 3]
    assert "valid" not in split
    with pytest.raises(UserError, match="no part 'valid', only 'train', 'test'"):
        split["valid"]
    with pytest.raises(UserError, match=r"no part 'tset' of a split. Did you mean 'test'"):
        Split({"tset": np.array([1])})
    with pytest.raises(UserError, match="Row 2 is in a split more than once"):
        Split({"train": np.array([0, 1]), "test": np.array([1])})
    with pytest.raises(UserError, match="row position -1"):
        Split({"train": np.array([-1])})


def test_splits_are_saved_and_loaded(table, tmp_path):
    split = make_split(table, seed=3)
    path = tmp_path / "split.parquet"
    split.save(path)
    split.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["split.parquet"]
    assert pq.read_table(path)["row"].to_pylist() == list(range(ROWS))
    again = Split.load(path, table)
    assert list(again.rows) == ["train", "valid", "test"]
    assert all(np.array_equal(again[part], split[part]) for part in split.rows)


def test_a_split_of_other_data_is_refused(table, tmp_path):
    path = tmp_path / "split.parquet"
    make_split(table).save(path)
    for rows in (ROWS - 1, ROWS + 1):
        other = Table.of({"x": range(rows)}, source="other.csv")
        with pytest.raises(UserError, match=rf"made for 200 rows, but other\.csv has {rows}: the data have changed"):
            Split.load(path, other)
    Split({"train": np.array([0, 5])}).check(table)
    with pytest.raises(UserError, match="made for 201 rows"):
        Split({"train": np.array([0, 200])}).check(table)


def test_files_that_are_no_split_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"The split .*none\.parquet does not exist"):
        Split.load(tmp_path / "none.parquet")
    path = tmp_path / "x.parquet"
    path.write_text("no")
    with pytest.raises(UserError, match=r"x\.parquet is not a split"):
        Split.load(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=r"x\.parquet is not a split \(a Parquet file with columns 'row' and 'part'\)"):
        Split.load(path)


def test_students_are_split_by_school_and_grade(data_root):
    table = read_table(data_root / "student_performance" / "student-mat.csv")
    split = make_split(table, by="stratified", column=["school", "G3"], valid=0.15, test=0.15)
    schools = np.array(table.column("school").to_pylist())
    whole = (schools == "MS").mean()
    for part in split.rows:
        assert abs((schools[split[part]] == "MS").mean() - whole) < 0.05
    assert abs(len(split["valid"]) - 0.15 * 395) < 8
