import json
import pickle

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from polytask.data.readers import ReadOptions, read_table
from polytask.errors import UserError

DATA = pa.table({"n": [1, 2, 3], "s": ["1", "b", None], "c": pa.array(["u", "v", "u"]).dictionary_encode()})


def write(path, data=DATA, stream=False, compression=None, batch=2):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), data.schema, options=options) as writer:
        writer.write_table(data, max_chunksize=batch)
    return path


@pytest.fixture
def saved(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "eel"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["p", "q", "r"])),
            "text": datasets.Value("string"),
            "numbers": datasets.Sequence(datasets.Value("float32")),
        }
    )
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    data = datasets.Dataset.from_dict(
        {
            "image": [image] * 5,
            "label": [0, 1, 2, -1, None],
            "tags": [[0, 1], [], None, [2], [1]],
            "text": list("abcde"),
            "numbers": [[1.0]] * 5,
        },
        features=features,
    )
    return data, tmp_path


@pytest.mark.parametrize("stream", [True, False])
def test_files_are_mapped_where_they_lie(tmp_path, stream):
    path = write(tmp_path / "x.arrow", stream=stream)
    cache = tmp_path / "cache"
    table = read_table(path, cache=cache)
    assert not cache.exists()
    assert table.take(None).to_pylist() == [
        {"n": 1, "s": "1", "c": "u"},
        {"n": 2, "s": "b", "c": "v"},
        {"n": 3, "s": None, "c": "u"},
    ]
    assert pickle.loads(pickle.dumps(table)).take(np.array([2])).to_pylist() == [{"n": 3, "s": None, "c": "u"}]
    assert table.types["c"] == "category"
    assert table.locate(0) == f"{path}, row 1"


@pytest.mark.parametrize("stream", [True, False])
def test_compressed_files_are_converted_once(tmp_path, stream):
    data = pa.table({"x": np.arange(5000), "s": ["word"] * 5000})
    path = write(tmp_path / "x.arrow", data, stream, "zstd", 1000)
    cache = tmp_path / "cache"
    for _ in range(2):
        assert read_table(path, cache=cache).take(None).equals(data.combine_chunks())
        assert len(list(cache.iterdir())) == 1


def test_feather_files_of_pandas(tmp_path):
    frame = pd.DataFrame({"x": np.arange(3000.0), "c": pd.Categorical(["a", "b", "c"] * 1000)})
    frame.to_feather(tmp_path / "x.feather")
    table = read_table(tmp_path / "x.feather")
    assert table.column("c").to_pylist() == ["a", "b", "c"] * 1000
    assert table.types == {"x": "number", "c": "category"}


def test_set_types_are_only_meanings_or_converted(tmp_path):
    path, cache = write(tmp_path / "x.arrow"), tmp_path / "cache"
    assert read_table(path, ReadOptions(columns={"n": "category"}), cache).types["n"] == "category"
    assert not cache.exists()
    assert read_table(path, ReadOptions(columns={"n": "text"}), cache).column("n").to_pylist() == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"x\.arrow, row 2, column 's': 'b' is not a number"):
        read_table(path, ReadOptions(columns={"s": "number"}), cache)
    with pytest.raises(UserError, match="no column 'm', whose type is set"):
        read_table(path, ReadOptions(columns={"m": "number"}), cache)


def test_files_that_are_no_table_are_refused(tmp_path):
    path = tmp_path / "x.arrow"
    path.write_bytes(b"something else entirely")
    with pytest.raises(UserError, match=r"x\.arrow is not an Arrow file, or is damaged"):
        read_table(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.arrow is not an Arrow file, or is damaged"):
        read_table(path)
    write(path, DATA.slice(0, 0))
    with pytest.raises(UserError, match=r"x\.arrow has no rows"):
        read_table(path)
    whole = write(path, pa.table({"x": np.arange(10_000)}), stream=True, batch=1000).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"x\.arrow cannot be read|damaged"):
        read_table(path)


def test_saved_data_sets_show_class_names(saved):
    data, folder = saved
    data.save_to_disk(folder / "one", num_shards=2)
    table = read_table(folder / "one")
    taken = table.take(None, ["label", "tags", "text"]).to_pydict()
    assert taken == {
        "label": ["cat", "dog", "eel", None, None],
        "tags": [["p", "q"], [], None, ["r"], ["q"]],
        "text": list("abcde"),
    }
    expected = {"image": "image", "label": "category", "tags": "list", "text": "category", "numbers": "list"}
    assert table.types == expected
    image = table.take(np.array([3]), ["image"])["image"][0].as_py()
    assert image["bytes"].startswith(b"\x89PNG")
    assert table.folder == folder / "one"
    assert pickle.loads(pickle.dumps(table)).column("label").to_pylist() == taken["label"]


def test_class_names_are_seen_in_the_files_themselves(saved):
    data, folder = saved
    data.save_to_disk(folder / "one")
    file = next((folder / "one").glob("*.arrow"))
    assert read_table(file).column("label").to_pylist() == ["cat", "dog", "eel", None, None]
    data.to_parquet(folder / "x.parquet")
    table = read_table(folder / "x.parquet")
    assert table.column("label").to_pylist() == ["cat", "dog", "eel", None, None]
    assert table.column("tags").to_pylist() == [["p", "q"], [], None, ["r"], ["q"]]
    assert (table.types["label"], table.types["tags"]) == ("category", "list")


def test_several_splits_are_listed(saved):
    data, folder = saved
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(folder / "all")
    for options in (ReadOptions(), ReadOptions(format="arrow")):
        with pytest.raises(
            UserError, match=r"all holds several splits: 'train', 'test'\. Name one of them: .*all/train"
        ):
            read_table(folder / "all", options)
    assert len(read_table(folder / "all" / "test")) == 5


def test_damaged_folders_are_explained(saved):
    data, folder = saved
    data.save_to_disk(folder / "one")
    file = next((folder / "one").glob("*.arrow"))
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name} is missing"):
        read_table(folder / "one")
    (folder / "one" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no rows: its state\.json names no files"):
        read_table(folder / "one")
    (folder / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json is not JSON"):
        read_table(folder / "one")
    (folder / "one" / "state.json").unlink()
    with pytest.raises(UserError, match=r"no state\.json"):
        read_table(folder / "one", ReadOptions(format="arrow"))


def test_older_descriptions_of_lists_of_classes_are_understood(tmp_path):
    features = {"tags": [{"_type": "ClassLabel", "names": ["a", "b"]}], "x": {"_type": "Value"}, "y": None, "z": []}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    data = pa.table({"tags": [[1, 0], [1]], "x": [1, 2], "y": [1, 2], "z": [1, 2]}).replace_schema_metadata(metadata)
    write(tmp_path / "x.arrow", data)
    assert read_table(tmp_path / "x.arrow").column("tags").to_pylist() == [["b", "a"], ["b"]]
