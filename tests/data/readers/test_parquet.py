import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytask.data.readers import ReadOptions, read_table
from polytask.errors import UserError


def test_values_and_types_come_back(tmp_path):
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "x": [0.5, np.nan, 2.0],
            "s": ["a", None, "b"],
            "c": pd.Categorical(["u", "v", "u"]),
            "when": pd.to_datetime(["2026-01-01", "2026-01-02", None]),
            "tags": [["a"], [], None],
        }
    )
    path = tmp_path / "x.parquet"
    frame.to_parquet(path, row_group_size=2)
    table = read_table(path)
    assert table.types == {
        "n": "number",
        "x": "number",
        "s": "category",
        "c": "category",
        "when": "date",
        "tags": "list",
    }
    assert table.take(np.array([2, 0]), ["n", "s", "c", "tags"]).to_pydict() == {
        "n": [3, 1],
        "s": ["b", "a"],
        "c": ["u", "u"],
        "tags": [None, ["a"]],
    }
    np.testing.assert_array_equal(table.numbers("x"), frame["x"])
    assert table.locate(2) == f"{path}, row 3"
    assert table.folder == tmp_path


def test_categories_stay_categories_whatever_their_names(tmp_path):
    names = [f"a long category name {i}" for i in range(80)]
    pd.DataFrame({"c": pd.Categorical(names), "t": names}).to_parquet(tmp_path / "x.parquet")
    for _ in range(2):
        assert read_table(tmp_path / "x.parquet").types == {"c": "category", "t": "text"}


def test_set_types(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": ["1", "2", "b"], "n": [1, 2, 3]}), path, row_group_size=1)
    table = read_table(path, ReadOptions(columns={"n": "category", "x": "text"}))
    assert table.types == {"x": "text", "n": "category"}
    assert table.column("n").to_pylist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"x\.parquet, row 3, column 'x': 'b' is not a number.*set to 'number'"):
        read_table(path, ReadOptions(columns={"x": "number"}))
    with pytest.raises(UserError, match="row 1, column 'n': 1 is not an image's path or bytes"):
        read_table(path, ReadOptions(columns={"n": "image"}))
    with pytest.raises(UserError, match=r"no column 'm', whose type is set"):
        read_table(path, ReadOptions(columns={"m": "number"}))


def test_files_that_are_no_table_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"x\.parquet is not a Parquet file, or is damaged"):
        read_table(path)
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    with pytest.raises(UserError, match=r"x\.parquet has no rows"):
        read_table(path)
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(UserError, match="more than one column called 'a'"):
        read_table(path)


def test_a_damaged_page_is_reported(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).normal(size=10_000)}), path)
    data = bytearray(path.read_bytes())
    data[100:5000] = bytes(4900)
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.parquet is damaged"):
        read_table(path)


MEMORY = """
import resource, sys
import numpy as np
from polytask.data.readers import cache, parquet, read_table
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
cache.BATCH_BYTES = parquet.BATCH_BYTES = 4 << 20
before = peak()
table = read_table(sys.argv[1])
table.take(np.arange(0, len(table), 1000))
print(len(table), peak() - before)
"""


def test_memory_stays_bounded_however_large_the_file(tmp_path):
    path = tmp_path / "large.parquet"
    rows, width = 20_000, 4_000
    offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * width)
    values = pa.Array.from_buffers(pa.binary(), rows, [None, offsets, pa.py_buffer(bytes(rows * width))])
    pq.write_table(
        pa.table({"x": values, "y": np.arange(rows)}),
        path,
        row_group_size=rows,
        compression="none",
        use_dictionary=False,
    )
    assert path.stat().st_size >= 80_000_000
    run = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    count, growth = map(int, run.stdout.split())
    assert count == rows
    assert growth < 40_000_000
