import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polytask.data.readers import ReadOptions, jsonl, read_table
from polytask.errors import UserError


@pytest.fixture
def write(tmp_path):
    def _write(records, name="data.jsonl"):
        path = tmp_path / name
        text = records if isinstance(records, str) else "".join(f"{json.dumps(record)}\n" for record in records)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return _write


def test_values_lists_records_and_missing_keys(write):
    path = write(
        [
            {"n": 1, "s": "NA", "tags": ["a", "b"], "flag": True},
            {"n": 2.5, "s": None, "tags": [], "box": {"x": 1}},
            {"n": None, "s": "", "tags": None},
        ]
    )
    table = read_table(path)
    assert table.take(None).to_pydict() == {
        "n": [1.0, 2.5, None],
        "s": ["NA", None, ""],
        "tags": [["a", "b"], [], None],
        "flag": [True, None, None],
        "box": [None, {"x": 1}, None],
    }
    assert table.types == {"n": "number", "s": "category", "tags": "list", "flag": "boolean", "box": "other"}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.integers(-(2**62), 2**62)},
            optional={
                "x": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
                "s": st.text(st.characters(codec="utf-8"), max_size=10),
                "l": st.lists(st.sampled_from("abc"), max_size=3),
            },
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 200),
)
def test_small_blocks_give_what_was_written(tmp_path, records, block):
    path = tmp_path / "x.jsonl"
    records = [{**record, "s": "~" + record["s"]} if "s" in record else record for record in records]
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_BLOCK_BYTES", block)
        table = read_table(path, cache=tmp_path / f"cache{block}")
    assert table.take(None).to_pylist() == [{name: record.get(name) for name in table.columns} for record in records]


def test_columns_and_kinds_that_show_late_are_found(write, monkeypatch):
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 64)
    records = [{"a": 1, "d": "2026-01-01"}] * 20 + [{"a": 1.5, "d": "soon", "late": ["x"]}]
    table = read_table(write(records))
    assert table.column("a").to_pylist() == [1.0] * 20 + [1.5]
    assert table.column("d").to_pylist() == ["2026-01-01"] * 20 + ["soon"]
    assert table.column("late").to_pylist() == [None] * 20 + [["x"]]
    reverse = read_table(write(records[::-1], "reverse.jsonl"))
    assert reverse.column("d").to_pylist()[0] == "soon"


def test_dates_are_found_and_kept_as_text_where_wanted(write):
    path = write([{"d": "2026-01-31 10:00:00"}, {"d": "2026-02-01 11:00:00"}])
    assert read_table(path).types["d"] == "date"
    table = read_table(path, ReadOptions(columns={"d": "category"}))
    assert table.column("d").to_pylist() == ["2026-01-31 10:00:00", "2026-02-01 11:00:00"]


def test_compressed_files_and_lines(write):
    path = write('{"a": 1}\n\n  \n{"a": 2}', "data.jsonl.gz")
    table = read_table(path)
    assert table.column("a").to_pylist() == [1, 2]
    assert table.locate(1) == f"{path}, row 2 (line 4)"
    assert table.locate(0) == f"{path}, row 1 (line 1)"
    path.unlink()
    assert table.locate(0) == f"{path}, row 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data\.jsonl is empty"),
        ("\n \n", r"data\.jsonl is empty"),
        ('{"a": 1}\n\n{"a": \n', r"data\.jsonl, row 2 \(line 3\): this is not JSON.*one JSON object"),
        ('[{"a": 1}]\n', r"row 1 \(line 1\): a JSON list, but each line must be one JSON object"),
        ("null\n", r"row 1 \(line 1\): a JSON null"),
        ('{"a": 1}\n{"a": "x"}\n', r"row 2 \(line 2\), column 'a': a string, but row 1 has a number"),
        ('{"a": [1]}\n{"a": {"b": 1}}\n', r"row 2 \(line 2\), column 'a': a object, but row 1 has a list"),
        ('[\n{"a": 1}\n]\n', r"row 1 \(line 1\): this is not JSON"),
        ('{"a": 1, "a": 2}\n', r"data\.jsonl"),
    ],
)
def test_lines_that_cannot_be_read_are_named(write, text, message):
    with pytest.raises(UserError, match=message):
        read_table(write(text))


def test_kinds_that_differ_between_blocks_are_named(write, monkeypatch):
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 32)
    with pytest.raises(UserError, match=r"row 21 \(line 21\), column 'a': a string, but row 1 has a number"):
        read_table(write([{"a": 1}] * 20 + [{"a": "x"}]))


def test_lines_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "x"}\n{"a": "\xe9"}\n')
    with pytest.raises(UserError, match=r"row 2 \(line 2\): this is not UTF-8"):
        read_table(path)


def test_damaged_compression_is_explained(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 10_000)[:-20])
    with pytest.raises(UserError, match=r"cannot be read .*damaged, or cut short"):
        read_table(path)


def test_set_types(write):
    path = write([{"x": "1", "y": 3}, {"x": "b", "y": 4}])
    assert read_table(path, ReadOptions(columns={"y": "text"})).column("y").to_pylist() == ["3", "4"]
    with pytest.raises(UserError, match=r"row 2 \(line 2\), column 'x': 'b' is not a number.*set to 'number'"):
        read_table(path, ReadOptions(columns={"x": "number"}))
    with pytest.raises(UserError, match="no column 'z'"):
        read_table(path, ReadOptions(columns={"z": "number"}))


def test_dialogues(data_root):
    path = data_root / "dialogsum" / "dialogsum.dev.jsonl.gz"
    table = read_table(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    assert table.take(None).to_pylist() == expected
    assert table.types["dialogue"] == "text"
