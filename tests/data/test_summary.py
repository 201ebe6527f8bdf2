import numpy as np
import pyarrow as pa
import pytest

from polytask.data.inputs import TabularInput
from polytask.data.preparation import Preparation
from polytask.data.summary import TargetRecord, describe
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec


def _described(targets, table, parts):
    prepared = Preparation.fit(table, np.array(parts["train"]), {"row": TabularInput(["x"])}, targets)
    return describe({name: (table, np.array(rows, dtype=np.int64)) for name, rows in parts.items()}, prepared)


def _table(**columns):
    rows = len(next(iter(columns.values())))
    return Table.from_arrow(pa.table({"x": np.arange(rows) / 3, **columns}), source="films.csv")


def test_each_task_has_a_record_for_each_part():
    table = _table(
        tone=["up", "down", "up", None, "up", None], stars=[1.0, 3.0, None, 5.0, 2.5, None], a=[1, 0, 1, 1, None, 0]
    )
    targets = {
        "tone": TargetSpec("category", ("tone",)),
        "stars": TargetSpec("numbers", ("stars",)),
        "marks": TargetSpec("labels", ("a", "x2")),
    }
    table = _table(
        **{name: table.take(None, [name]).column(0) for name in ("tone", "stars", "a")}, x2=[0, 0, 0, 1, 1, 1]
    )
    assert _described(targets, table, {"train": [0, 1, 2, 3], "valid": [4], "test": [5]}) == [
        TargetRecord("tone", "train", 4, 3, 1, "down: 33 %, up: 67 %"),
        TargetRecord("tone", "valid", 1, 1, 0, "down: 0 %, up: 100 %"),
        TargetRecord("tone", "test", 1, 0, 1, "no labels"),
        TargetRecord("stars", "train", 4, 3, 1, "mean 3, std 1.633"),
        TargetRecord("stars", "valid", 1, 1, 0, "mean 2.5, std 0"),
        TargetRecord("stars", "test", 1, 0, 1, "no labels"),
        TargetRecord("marks", "train", 4, 4, 0, "a: 75 %, x2: 25 %"),
        TargetRecord("marks", "valid", 1, 1, 0, "a: 0 %, x2: 100 %"),
        TargetRecord("marks", "test", 1, 1, 0, "a: 0 %, x2: 100 %"),
    ]


def test_many_classes_are_cut():
    values = [f"c{i % 8}" for i in range(80)] + ["c0"] * 20
    (record,) = _described({"y": TargetSpec("category", ("y",))}, _table(y=values), {"train": range(100)})
    assert record.statistics == "8 classes, from 10 % (c1) to 30 % (c0)"


def test_several_numbers_are_named_and_cut():
    columns = {f"y{i}": np.arange(4.0) + i for i in range(7)}
    (record,) = _described({"y": TargetSpec("numbers", tuple(columns))}, _table(**columns), {"train": range(4)})
    assert record.statistics.startswith("y0: mean 1.5, std 1.118; y1: mean 2.5, std 1.118; ")
    assert record.statistics.endswith("y4: mean 5.5, std 1.118; and 2 more")


def test_an_unseen_class_shows_before_the_training():
    table = _table(y=["a", "b", "c"])
    with pytest.raises(UserError, match=r"films.csv, row 3: the class 'c' of 'y'"):
        _described({"y": TargetSpec("category", ("y",))}, table, {"train": [0, 1], "test": [2]})
