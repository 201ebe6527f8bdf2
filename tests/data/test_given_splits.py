"""Splits that joined data sets bring."""

import numpy as np
import pytest

from polytask.data.given_splits import joined_split
from polytask.data.joined import JoinedTable
from polytask.data.splits import Split
from polytask.data.table import Table
from polytask.errors import UserError


def table(**keys):
    return JoinedTable({name: Table.of({"id": ids}, f"{name}.csv") for name, ids in keys.items()}, "id")


def split(**rows):
    return Split({part: np.array(found) for part, found in rows.items()})


def keys_of(joined, found):
    values = joined.column("id").to_pylist()
    return {part: [values[row] for row in rows] for part, rows in found.rows.items()}


def test_a_row_is_in_the_part_that_its_source_puts_it_in_wherever_that_stands():
    own = split(train=[0, 3], valid=[1], test=[2])
    for joined in (table(a=[10, 11, 12, 13], b=[13, 11]), table(b=[13, 11], a=[10, 11, 12, 13])):
        found = keys_of(joined, joined_split(joined, {"a": own}))
        assert {part: sorted(keys) for part, keys in found.items()} == {"train": [10, 13], "valid": [11], "test": [12]}


def test_a_row_that_its_source_puts_nowhere_is_nowhere():
    joined = table(a=[10, 11, 12], b=[11])
    assert keys_of(joined, joined_split(joined, {"a": split(train=[0], test=[2])})) == {"train": [10], "test": [12]}


def test_two_that_agree_are_one_and_two_that_contradict_each_other_are_refused():
    joined = table(a=[10, 11], b=[11, 12])
    one, other = split(train=[0], test=[1]), split(train=[1], test=[0])
    assert keys_of(joined, joined_split(joined, {"a": one, "b": other})) == {"train": [10, 12], "test": [11]}
    with pytest.raises(UserError) as raised:
        joined_split(joined, {"a": one, "b": split(train=[0, 1])})
    for part in ("'a' and 'b' bring", "1 row", "id 11 is in 'test' of 'a' and in 'train' of 'b'", "take `key` out"):
        assert part in str(raised.value)


def test_rows_that_are_in_no_data_set_with_a_split_are_refused():
    joined = table(a=[10, 11], b=[11, 12, 13])
    with pytest.raises(UserError) as raised:
        joined_split(joined, {"a": split(train=[0], test=[1])})
    for part in ("'a' brings a split of its own", "2 of the joined rows are not in it", "b.csv, row 2 (id 12)", "take"):
        assert part in str(raised.value)
