import errno
import os
from pathlib import Path

import pytest

from polytask.errors import UserError
from polytask.training.atomic import replacing, unwritable, write_text


def test_writes_a_new_file_and_leaves_nothing_beside_it(tmp_path: Path):
    write_text(tmp_path / "sub" / "a.txt", "hällo")
    assert (tmp_path / "sub" / "a.txt").read_text(encoding="utf-8") == "hällo"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.txt"]


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_clear_message_and_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"disk is full.*a\.txt.*--resume"), replacing(path) as temporary:
        with Path("/dev/full").open("w") as full:
            full.write("x")
        temporary.write_text("never")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_a_file_is_a_clear_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / "file" / "a.txt", "")


def test_other_errors_say_what_the_system_said():
    message = str(unwritable(Path("x"), OSError(errno.EACCES, os.strerror(errno.EACCES))))
    assert "'x' could not be written: Permission denied" in message


def test_permissions_follow_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
