import json
import logging

import numpy as np
import pandas as pd
import pytest

from polytask.data.readers import ReadOptions, read_table
from polytask.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"

    def make(*names, **files):
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"an image")
        for name, text in files.items():
            (root / name.replace("_csv", ".csv").replace("_jsonl", ".jsonl")).write_text(text)
        return root

    return make


def test_each_sub_folder_is_a_class(folder):
    root = folder(
        "dog/2.png", "cat/1.JPG", "cat/deep/3.jpeg", "cat/notes.txt", ".hidden/4.png", "cat/.5.png", "__MACOSX/6.png"
    )
    table = read_table(root)
    assert table.take(None).to_pydict() == {
        "image": ["cat/1.JPG", "cat/deep/3.jpeg", "dog/2.png"],
        "label": ["cat", "cat", "dog"],
    }
    assert table.types == {"image": "image", "label": "category"}
    assert table.folder == root
    assert table.locate(1) == f"{root}, row 2"


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    root = folder("cat/1.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_bytes(b"")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "back").symlink_to(root)
    assert read_table(root).column("image").to_pylist() == ["cat/1.png", "dog/2.png"]


def test_empty_classes_are_warned_of(folder, caplog):
    root = folder("dog/2.png")
    (root / "fish").mkdir()
    with caplog.at_level(logging.WARNING, "polytask"):
        read_table(root)
    assert "sub-folders without images are left out: 'fish'" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_describe_the_images(folder, kind):
    root = folder("a.png", "sub/b.png", "unused.png")
    frame = pd.DataFrame({"file_name": ["sub/b.png", "a.png"], "age": [3, 4], "kind": ["cat", "dog"]})
    if kind == "csv":
        frame.to_csv(root / "metadata.csv", index=False)
    elif kind == "jsonl":
        frame.to_json(root / "metadata.jsonl", orient="records", lines=True)
    else:
        frame.to_parquet(root / "metadata.parquet")
    table = read_table(root)
    assert table.take(np.array([1, 0])).to_pydict() == {
        "image": ["a.png", "sub/b.png"],
        "age": [4, 3],
        "kind": ["dog", "cat"],
    }
    assert table.types == {"image": "image", "age": "number", "kind": "category"}
    assert table.folder == root
    assert table.locate(0).startswith(f"{root}/metadata.{kind}, row 1")


def test_types_are_set_by_the_new_names(folder):
    root = folder("a.png", metadata_csv="file_name,age\na.png,3\n")
    assert read_table(root, ReadOptions(columns={"age": "category", "image": "image"})).types["age"] == "category"
    classes = folder("cat/a.png")
    (root / "metadata.csv").unlink()
    (root / "a.png").unlink()
    assert read_table(classes, ReadOptions(columns={"label": "text"})).types["label"] == "text"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            "file_name,x\na.png,1\nb.pgn,2\n",
            r"metadata\.csv, row 2 \(line 3\): there is no file .*b\.pgn\. Did you mean 'b\.png'",
        ),
        ("file_name,x\na.png,1\n,2\n", r"metadata\.csv, row 2 \(line 3\): 'file_name' is missing"),
        ("filename,x\na.png,1\n", r"metadata\.csv has no column 'file_name'.*Did you mean 'filename'"),
        ("file_name,image\na.png,1\n", "more than one column called 'image'"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(folder, metadata, message):
    root = folder("a.png", "b.png", metadata_csv=metadata)
    with pytest.raises(UserError, match=message):
        read_table(root)


def test_paths_written_in_another_way_are_found(folder):
    root = folder("sub/a.png", metadata_csv="file_name\n./sub/a.png\n")
    assert len(read_table(root)) == 1


def test_images_without_classes_or_metadata_are_refused(folder):
    with pytest.raises(UserError, match=r"others in none, such as a\.png, and no metadata file"):
        read_table(folder("a.png", "cat/b.png"))


def test_loose_images_alone_are_a_table_of_images(folder):
    table = read_table(folder("b.png", "a.png"))
    assert table.columns == ("image",) and table.take(np.arange(2)).column("image").to_pylist() == ["a.png", "b.png"]


def test_folders_of_splits_are_refused_but_classes_may_be_called_so(folder):
    root = folder("train/cat/1.png", "test/dog/2.png")
    with pytest.raises(UserError, match=r"several splits: 'test', 'train'\. Name one of them: .*pets/test"):
        read_table(root)
    assert read_table(root / "train").column("label").to_pylist() == ["cat"]
    (root / "train" / "cat" / "1.png").rename(root / "train" / "1.png")
    (root / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png"}))
    with pytest.raises(UserError, match="several splits"):
        read_table(root)


def test_a_class_may_be_called_like_a_split(folder):
    assert read_table(folder("train/1.png", "test/2.png")).column("label").to_pylist() == ["test", "train"]


def test_a_folder_without_images_is_refused_when_the_format_is_set(folder):
    with pytest.raises(UserError, match=r"pets has no images\. Images end in '\.jpg'"):
        read_table(folder("notes.txt"), ReadOptions(format="image_folder"))


def test_pacs(data_root, tmp_path):
    import zipfile

    with zipfile.ZipFile(data_root / "pacs_112" / "PACS.zip") as archive:
        members = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".png"))][:40]
        archive.extractall(tmp_path, members)
    top = tmp_path / members[0].split("/")[0]
    table = read_table(top)
    assert len(table) == len(members)
    assert all((table.folder / name).is_file() for name in table.column("image").to_pylist())
