import pytest

from polytask.data.readers import ReadOptions, read_table
from polytask.errors import UserError


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet", "x.jsonl", "x.arrow"])
def test_missing_files_are_named_with_the_closest(tmp_path, name):
    (tmp_path / "y.txt").write_text("")
    (tmp_path / f"{name[0]}x{name[1:]}").write_text("")
    with pytest.raises(UserError, match=rf"{name} does not exist\. Did you mean 'x{name}'"):
        read_table(tmp_path / name)


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match=r"x.csv does not exist: there is no folder .*nowhere"):
        read_table(tmp_path / "nowhere" / "x.csv")


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.csv").write_text("a\n1\n")
    assert len(read_table("~/x.csv")) == 1


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.gz", ".gz"])
def test_unknown_suffixes_are_refused(tmp_path, name):
    (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(UserError, match=r"Cannot tell what .* is from its name\. Known: '\.csv', .*set `format`"):
        read_table(tmp_path / name)


def test_a_set_format_decides_whatever_the_name(tmp_path):
    path = tmp_path / "table.data"
    path.write_text("a\tb\n1\t2\n")
    assert read_table(path, ReadOptions(format="tsv")).columns == ("a", "b")


def test_folders_with_nothing_usable_are_refused_with_what_is_there(tmp_path):
    with pytest.raises(UserError, match=r"is a folder with no images.*It is empty"):
        read_table(tmp_path)
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=r"It has 'a\.csv'; name one of them"):
        read_table(tmp_path)


def test_formats_that_are_files_refuse_folders_and_the_other_way_round(tmp_path):
    with pytest.raises(UserError, match="is a folder, but the format 'csv' is a file"):
        read_table(tmp_path, ReadOptions(format="csv"))
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match="is a file, but the format 'image_folder' is a folder"):
        read_table(tmp_path / "a.csv", ReadOptions(format="image_folder"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "csvv"}, "There is no format 'csvv'. Did you mean 'csv'"),
        ({"delimiter": ";;"}, "delimiter is ';;': it must be one character"),
        ({"delimiter": ""}, "delimiter is '': it must be one character"),
        ({"delimiter": "→"}, "must be one character"),
        ({"encoding": "utf-88"}, "There is no encoding 'utf-88'. Common ones"),
        ({"columns": {"x": "numbr"}}, "Column 'x': there is no type 'numbr'. Did you mean 'number'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ReadOptions(**options)
