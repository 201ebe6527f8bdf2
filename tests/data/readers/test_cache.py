import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from polytask.data.readers import ReadOptions, cache, csv, read_table
from polytask.errors import UserError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "in" / "data.csv"
    path.parent.mkdir()
    path.write_text("a,b\n" + "1,x\n" * 10)
    return path


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_converted_once_and_nothing_is_written_beside_it(path, tmp_path):
    read_table(path, cache=tmp_path / "cache")
    (made,) = (tmp_path / "cache").iterdir()
    assert made.name.startswith("data.csv-")
    before = made.stat().st_mtime_ns
    assert len(read_table(path, cache=tmp_path / "cache")) == 10
    assert made.stat().st_mtime_ns == before
    assert files(path.parent) == ["data.csv"]


def test_changed_data_and_options_are_converted_anew(path, tmp_path):
    folder = tmp_path / "cache"
    read_table(path, cache=folder)
    os.utime(path, ns=(1, 1))
    read_table(path, cache=folder)
    read_table(path, ReadOptions(columns={"a": "text"}), folder)
    read_table(path, ReadOptions(missing=["1"]), folder)
    assert len(files(folder)) == 4
    path.write_text("a,b\n2,y\n")
    assert read_table(path, cache=folder).column("a").to_pylist() == [2]


def test_where_the_cache_is(path, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "own"))
    read_table(path)
    assert files(tmp_path / "own")
    monkeypatch.delenv("POLYTASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    read_table(path)
    assert files(tmp_path / "xdg" / "polytask")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read_table(path)
    assert files(tmp_path / "home" / ".cache" / "polytask")


def test_record_batches_have_one_size_in_rows_and_are_bounded_in_bytes(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("a\n" + "".join(f"{i}\n" for i in range(150_000)))
    mapped = pa.ipc.open_file(pa.memory_map(str(next(iter(_cache_of(path, tmp_path / "c").iterdir())))))
    sizes = [mapped.get_batch(index).num_rows for index in range(mapped.num_record_batches)]
    assert sizes == [65_536, 65_536, 18_928]
    monkeypatch.setattr(cache, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(csv, "_BLOCK_BYTES", 50_000)
    folder = _cache_of(path, tmp_path / "d")
    mapped = pa.ipc.open_file(pa.memory_map(str(next(folder.iterdir()))))
    assert mapped.num_record_batches > 8
    np.testing.assert_array_equal(read_table(path, cache=folder).numbers("a"), np.arange(150_000))


def _cache_of(path, folder):
    read_table(path, cache=folder)
    return folder


def test_a_failed_conversion_leaves_nothing_behind(path, tmp_path):
    with pytest.raises(UserError, match="is not a number"):
        read_table(path, ReadOptions(columns={"b": "number"}), tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_full_disk_is_explained_and_leaves_nothing_behind(path, tmp_path, monkeypatch):
    class Full:
        def __init__(self, writer):
            self.writer = writer

        def write_table(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.writer.close()

    new_file = pa.ipc.new_file
    monkeypatch.setattr(pa.ipc, "new_file", lambda *arguments: Full(new_file(*arguments)))
    with pytest.raises(
        UserError, match=r"Cannot write to the cache .*No space left on device.*Make room.*POLYTASK_CACHE"
    ):
        read_table(path, cache=tmp_path / "cache")
    assert files(tmp_path / "cache") == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
from polytask.data.readers import read_table
from polytask.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    read_table(sys.argv[1], cache=Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


def test_a_disk_that_really_refuses_bytes_is_explained(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\n" + "".join(f"{i}\n" for i in range(100_000)))
    folder = tmp_path / "cache"
    run = subprocess.run([sys.executable, "-c", LIMITED, path, folder], capture_output=True, text=True, check=True)
    assert "Cannot write to the cache" in run.stdout
    assert files(folder) == []


def test_a_cache_that_cannot_be_a_folder_is_explained(path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to the cache .*file"):
        read_table(path, cache=tmp_path / "file")


def test_data_that_change_while_they_are_read_are_refused(path, tmp_path, monkeypatch):
    close = cache._Writer.close

    def close_and_change(writer):
        close(writer)
        path.write_text("a,b\n2,y\n")

    monkeypatch.setattr(cache._Writer, "close", close_and_change)
    with pytest.raises(UserError, match="changed while they were being read"):
        read_table(path, cache=tmp_path / "cache")
    assert files(tmp_path / "cache") == []
