import bz2
import csv
import gzip
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polytask.data.column_types import ColumnType
from polytask.data.readers import ReadOptions, read_table
from polytask.data.readers import csv as reader
from polytask.errors import UserError


@pytest.fixture
def write(tmp_path):
    def _write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def values(path, **options):
    return read_table(path, ReadOptions(**options)).take(None).to_pydict()


def test_types_are_found_from_all_values(write):
    path = write(
        "int,float,mixed,flag,day,moment,zone,word,none\n"
        "1,1.5,1,true,2026-01-31,2026-01-31 10:00:00,2026-01-31T10:00:00Z,a,\n"
        "-2,2,2.5,False,2026-02-28,2026-01-31T11:00:00,2026-01-31T12:00:00+01:00,b,NA\n"
        ",,,,,,,,\n"
    )
    table = read_table(path)
    storage = {name: str(table.column(name).type) for name in table.columns}
    assert storage == {
        "int": "int64",
        "float": "double",
        "mixed": "double",
        "flag": "bool",
        "day": "timestamp[us]",
        "moment": "timestamp[us]",
        "zone": "timestamp[us, tz=UTC]",
        "word": "string",
        "none": "string",
    }
    assert table.types == {
        "int": "number",
        "float": "number",
        "mixed": "number",
        "flag": "boolean",
        "day": "date",
        "moment": "date",
        "zone": "date",
        "word": "category",
        "none": "category",
    }
    assert all(table.column(name).null_count >= 1 for name in table.columns)


def test_one_late_value_decides_the_type_of_the_whole_column(write):
    lines = [str(i) for i in range(1_000_000)]
    assert read_table(write("x\n" + "\n".join([*lines, "1.5"]) + "\n", "f.csv")).column("x").type == pa.float64()
    table = read_table(write("x\n" + "\n".join([*lines, "abc"]) + "\n", "s.csv"))
    assert table.column("x").type == pa.string()
    with pytest.raises(UserError, match=r"s\.csv, row 1000001 \(line 1000002\), column 'x': 'abc' is not a number"):
        table.numbers("x")


@pytest.mark.parametrize("value", ["0x1F", "1_000", "1,000", "12:30", "2026", "1e5x"])
def test_codes_are_not_taken_for_numbers_or_dates(write, value):
    kind = read_table(write(f'x\n"{value}"\n')).types["x"]
    assert kind == ("number" if value == "2026" else "category")


def test_zero_and_one_are_numbers_and_not_booleans(write):
    table = read_table(write("x,y\n0,true\n1,1\n"))
    assert table.types == {"x": "number", "y": "boolean"}
    assert table.column("y").to_pylist() == [True, True]


def test_missing_spellings_become_null_also_in_quotes_and_with_spaces(write):
    path = write('n,s\n1, NA\n"?",x\n null ,"None"\nNaN,N/A\n')
    assert values(path) == {"n": [1, None, None, None], "s": [None, "x", None, None]}
    assert values(path, missing=["x"])["s"] == ["NA", None, "None", "N/A"]
    assert values(path, missing=[]) == {"n": ["1", "?", "null", "NaN"], "s": ["NA", "x", "None", "N/A"]}


def test_spaces_around_names_and_values_do_not_count(write):
    assert values(write("a , b\n 1, Never married \n2 ,x\n")) == {"a": [1, 2], "b": ["Never married", "x"]}


def test_quotes_hold_delimiters_quotes_and_line_breaks_and_lines_stay_right(write):
    path = write('a,b\n1,"x, ""y""\nsecond line"\n\n2,z\n')
    table = read_table(path)
    assert table.column("b").to_pylist() == ['x, "y"\nsecond line', "z"]
    assert table.locate(0) == f"{path}, row 1 (line 2)"
    assert table.locate(1) == f"{path}, row 2 (line 5)"


def test_the_row_is_named_without_its_line_when_the_file_is_gone(write):
    path = write("a,b\n1,x\n")
    table = read_table(path)
    assert table.locate(5) == f"{path}, row 6"
    path.unlink()
    assert table.locate(0) == f"{path}, row 1"


def test_without_quoting_quotes_are_plain_characters(write):
    path = write('a\tb\n1\t"Oh," he said\n2\tsay "no"\n', "glue.tsv")
    assert values(path, quoting=False)["b"] == ['"Oh," he said', 'say "no"']


def test_values_that_swallow_lines_are_warned_of(write, caplog):
    text = "a,b,c\n" + "1,2,x\n" * 3 + '1,2,"not closed\n' + "1,2,x\n" * 4 + '1,2,closed"\n'
    with caplog.at_level(logging.WARNING, "polytask"):
        table = read_table(write(text))
    assert len(table) == 4
    assert "row 4 (line 5), column 'c': the value in quotes holds whole lines of 3 values" in caplog.text
    caplog.clear()
    read_table(write('a,b,c\n1,2,"two\nlines, with a comma"\n', "fine.csv"))
    assert not caplog.text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), max_size=8),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.text(alphabet='a ,"\n;', max_size=6),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_the_csv_module_writes_comes_back(tmp_path, rows):
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "number", "free"])
        writer.writerows([f"n{name}", "" if number is None else repr(number), free] for name, number, free in rows)
    table = read_table(path)
    assert table.column("name").to_pylist() == [f"n{name}" for name, _, _ in rows]
    expected = np.array([np.nan if number is None else number for _, number, _ in rows], dtype=float)
    np.testing.assert_array_equal(table.numbers("number"), expected)
    assert [text or "" for text in table.column("free").to_pylist()] == [free.strip() for _, _, free in rows]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".csv.gz", gzip.compress), (".csv.bz2", bz2.compress), (".CSV", lambda data: data)]
)
def test_compressed_files_are_read(write, suffix, pack):
    path = write(pack(b"a,b\n1,x\n2,\n"), f"data{suffix}")
    assert values(path) == {"a": [1, 2], "b": ["x", None]}
    assert read_table(path).locate(1).endswith("row 2 (line 3)")


def test_delimiters(write):
    assert values(write("a;b\n1,5;x\n"), delimiter=";") == {"a": ["1,5"], "b": ["x"]}
    assert values(write("a\tb\n1\tx\n", "data.tsv")) == {"a": [1], "b": ["x"]}
    assert values(write("a|b\n1|x\n", "data.txt"), delimiter="|", format="csv") == {"a": [1], "b": ["x"]}


@pytest.mark.parametrize(("delimiter", "name"), [(";", "x.csv"), ("\t", "x.csv"), ("|", "x.csv"), (",", "x.tsv")])
def test_another_delimiter_is_taken_from_the_header_and_said(write, caplog, delimiter, name):
    path = write(f'first{delimiter}second\n"1"{delimiter}"x\ny"\n2{delimiter}z\n', name)
    for _ in range(2):  # read, and then from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO, "polytask"):
            table = read_table(path)
        assert table.column("second").to_pylist() == ["x\ny", "z"]
        assert f"separated by {delimiter!r}" in caplog.text
        assert "line 4" in table.locate(1)


def test_a_single_column_that_looks_separated_is_read_when_the_delimiter_is_set(write):
    assert values(write("a;b\n1;2\n"), delimiter=",") == {"a;b": ["1;2"]}


def test_names_for_a_file_without_a_header(write):
    path = write("gj04,1,Our friends\ngj05,0,Cats\n")
    assert values(path, names=["source", "label", "sentence"]) == {
        "source": ["gj04", "gj05"],
        "label": [1, 0],
        "sentence": ["Our friends", "Cats"],
    }
    assert read_table(path, ReadOptions(names=["a", "b", "c"])).locate(1).endswith("row 2 (line 2)")
    with pytest.raises(UserError, match=r"row 1 \(line 1\): 3 values, but `names` has 2"):
        read_table(path, ReadOptions(names=["a", "b"]))


def test_columns_without_a_name_get_one(write, caplog):
    with caplog.at_level(logging.INFO, "polytask"):
        assert values(write(",b\n0,x\n1,y\n")) == {"column_1": [0, 1], "b": ["x", "y"]}
    assert "columns without a name are called column_1" in caplog.text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a,b\n1,é\n".encode("latin-1"), "latin-1"),
        ("a,b\n1,é\n".encode("utf-16"), "utf-16"),
        ("\ufeffa,b\n1,é\n".encode(), "utf-8"),
        ("\ufeffa,b\n1,é\n".encode(), "utf-8-sig"),
    ],
)
def test_encodings(write, text, encoding):
    path = write(text)
    assert values(path, encoding=encoding) == {"a": [1], "b": ["é"]}
    assert read_table(path, ReadOptions(encoding=encoding)).locate(0).endswith("(line 2)")


@pytest.mark.parametrize(
    "text", ["a,b\n1,é\n".encode("latin-1"), "é,b\n1,2\n".encode("latin-1"), "a,b\n1,2".encode("utf-16")]
)
def test_text_of_another_encoding_is_refused(write, text):
    with pytest.raises(UserError, match=r"data\.csv is not text in the encoding 'utf-8'\. Set `encoding`"):
        read_table(write(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data\.csv is empty\."),
        ("\n\n", r"data\.csv is empty\."),
        ("a,b", r"data\.csv has no rows, only a header"),
        ("a,b\n", r"data\.csv has no rows\."),
        ("a,b,a\n1,2,3\n", r"data\.csv has more than one column called 'a'"),
        ("a, a\n1,2\n", r"data\.csv has more than one column called 'a'"),
        ("a,b\n1,2\n1,2,3\n", r"data\.csv, row 2 \(line 3\): 3 values, but the header has 2: '1,2,3'"),
        ("a,b\n1,2\n\n\n1\n", r"data\.csv, row 2 \(line 5\): 1 values, but the header has 2: '1'"),
        ('a,b\n"1\n1",2\n1,2,3\n', r"data\.csv, row 2 \(line 4\): 3 values"),
        ('a,b\n1,2\n3,"x" y, z\n', r"If double quotes are plain characters there, set `quoting` to false"),
        ("a,b\n1," + "x" * 200 + ",3\n", r"x{70,80}\.\.\.'\. Put values that contain ',' in double quotes"),
    ],
)
def test_files_that_are_no_table_say_what_and_where(write, text, message):
    with pytest.raises(UserError, match=message):
        read_table(write(text))


def test_a_quote_that_is_never_closed_in_a_large_file_is_explained(write, monkeypatch):
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 1 << 20)
    text = 'a,b\n1,"open\n' + "1,2\n" * 800_000
    with pytest.raises(UserError, match=r"more than 1 MB, so a quote is probably not closed.*`quoting`"):
        read_table(write(text))


def test_damaged_compression_is_explained(write):
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 10_000)
    with pytest.raises(UserError, match=r"x\.csv\.gz cannot be read .*damaged, or cut short"):
        read_table(write(whole[:-30], "x.csv.gz"))
    with pytest.raises(UserError, match=r"y\.csv\.gz cannot be read .*damaged, or cut short"):
        read_table(write(b"a,b\n1,2\n", "y.csv.gz"))


def test_set_types_keep_what_the_file_has(write):
    path = write("zip,grade,flag,when,tags\n01234,1,yes,2026-01-31,a|b\n00501,2,no,,c\n")
    types = {"zip": "category", "grade": "text", "flag": "boolean", "when": "date", "tags": "list"}
    table = read_table(path, ReadOptions(columns=types))
    assert table.types == types
    assert table.column("zip").to_pylist() == ["01234", "00501"]
    assert table.column("grade").to_pylist() == ["1", "2"]
    assert table.column("flag").to_pylist() == [True, False]
    assert table.column("when").type == pa.timestamp("us")
    assert table.column("tags").to_pylist() == ["a|b", "c"]
    assert read_table(path, ReadOptions(columns={"grade": ColumnType.NUMBER})).column("grade").type == pa.int64()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("number", r"data\.csv, row 3 \(line 5\), column 'x': 'abc' is not a number.*set to 'number'"),
        ("boolean", r"data\.csv, row 2 \(line 4\), column 'x': '2' is not true or false.*set to 'boolean'"),
        ("date", r"data\.csv, row 1 \(line 2\), column 'x': '1' is not a date"),
    ],
)
def test_set_types_that_do_not_fit_name_the_first_bad_row(write, kind, message):
    with pytest.raises(UserError, match=message):
        read_table(write("x,y\n1,a\n\n2,b\nabc,c\n"), ReadOptions(columns={"x": kind}))


def test_the_type_of_an_unknown_column_is_refused(write):
    with pytest.raises(UserError, match=r"no column 'star', whose type is set\. Did you mean 'stars'"):
        read_table(write("stars\n1\n"), ReadOptions(columns={"star": "number"}))


def test_student_performance(data_root):
    path = data_root / "student_performance" / "student-mat.csv"
    table = read_table(path)
    expected = pd.read_csv(path)
    assert table.columns == tuple(expected.columns)
    assert len(table) == 395
    for name in expected.columns:
        assert table.column(name).to_pylist() == expected[name].tolist()
        assert (table.types[name] == ColumnType.NUMBER) == pd.api.types.is_numeric_dtype(expected[name])


def test_sts_benchmark_needs_quoting_off(data_root):
    path = data_root / "glue" / "STS-B" / "train.tsv.gz"
    table = read_table(path, ReadOptions(quoting=False))
    expected = pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
    assert len(table) == 5749
    assert table.column("sentence1").to_pylist() == expected["sentence1"].str.strip().tolist()
    np.testing.assert_allclose(table.numbers("score"), expected["score"])
    assert (table.types["sentence1"], table.types["genre"]) == ("text", "category")
    with pytest.raises(UserError, match=r"9 values, but the header has 10.*set `quoting` to false"):
        read_table(path)


def test_missing_labels_of_tox21(data_root):
    path = data_root / "molecules" / "tox21.csv"
    table = read_table(path)
    expected = pd.read_csv(path)
    assert table.types["smiles"] == ColumnType.TEXT
    for name in expected.columns[1:]:
        np.testing.assert_array_equal(table.numbers(name), expected[name].to_numpy(dtype=float))


def test_census_income_has_spaces_and_question_marks(data_root):
    path = data_root / "census_income_kdd" / "census-income.test.gz"
    names = [f"c{position}" for position in range(42)]
    table = read_table(path, ReadOptions(format="csv", names=names))
    assert len(table) == 99_762
    assert sorted(set(table.column("c41").to_pylist())) == ["- 50000.", "50000+."]
    assert table.column("c25").null_count > 0
