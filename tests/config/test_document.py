import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polytask.config.document import Document, parse_document, parse_value, read_document, write_document
from polytask.errors import UserError


def parse(text):
    return parse_document(text, "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("08", 8),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[1, a, null]", [1, "a", None]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_values_follow_the_core_schema_of_yaml_1_2(text, value):
    read = parse_value(text, "value")
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse_value(".nan", "value"))


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "off", "y", "12:30", "1:2:3", "2024-01-31", "2024-01-31 10:00:00", "1_000", "e3", "1e", "."],
)
def test_words_dates_and_times_are_text(text):
    assert parse_value(text, "value") == text


def test_keys_are_text_as_they_are_written():
    document = parse("{1: a, no: b, 1.50: c, null: d, 2024-01-31: e, true: f}")
    assert list(document.data) == ["1", "no", "1.50", "null", "2024-01-31", "true"]


def test_every_key_and_entry_knows_its_line():
    document = parse("a: 1\nb:\n  c:\n    - x\n    - d: 2\n\n# comment\ne: {f: 3}\n")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": 2}]}, "e": {"f": 3}}
    lines = {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 1): 5,
        ("b", "c", 1, "d"): 5,
        ("e",): 8,
        ("e", "f"): 8,
    }
    assert document.origins == {path: f"c.yaml, line {line}" for path, line in lines.items()}


def test_a_place_that_is_not_written_is_that_of_what_is_around_it():
    document = parse("a: 1\nb:\n  c: 2\n")
    assert document.place(("b", "x", "y")) == "c.yaml, line 2"
    assert document.place(("x",)) == "c.yaml"
    assert Document("values", {}).place(("a",)) == "values"


def test_anchors_aliases_and_merges_work_and_have_lines():
    document = parse("base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\nlist: [*b]\nboth: {<<: [*b, {z: 4}]}\n")
    assert document.data["other"] == {"x": 1, "y": 3}
    assert document.data["list"] == [{"x": 1, "y": 2}]
    assert document.data["both"] == {"x": 1, "y": 2, "z": 4}
    assert document.place(("other", "x")) == "c.yaml, line 1"
    assert document.place(("other", "y")) == "c.yaml, line 4"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml, line 3: the key 'a' is there twice; it was first given in line 1."),
        ("a:\n  b: 1\n  b: 2\n", "c.yaml, line 3: the key 'b' is there twice"),
        ("a: {1: x, '1': y}", "c.yaml, line 1: the key '1' is there twice"),
        ("a: 1\nb: [\n", "c.yaml, line 3, column 1: this is not valid YAML"),
        (
            "a: b: c\n",
            "c.yaml, line 1, column 5: this is not valid YAML: mapping values are not allowed",
        ),
        ("a:\n\tb: 1\n", "Indent with spaces, not with tabs."),
        ("a: *\n", 'Text that starts with * goes in quotes: "*".'),
        ("a: *x\n", "c.yaml, line 1, column 4: this is not valid YAML: found undefined alias"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("a: &a {b: *a}\n", "c.yaml, line 1: 'b' contains itself."),
        ("? [a, b]\n: 1\n", "c.yaml, line 1: a key must be a name, not a list or a mapping."),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("", "c.yaml is empty"),
        ("# only a comment\n", "c.yaml is empty"),
        ("- a\n- b\n", "c.yaml holds a list, not a mapping. A configuration has at least the keys 'data', 'inputs'"),
        ("just text", "c.yaml holds a single value, not a mapping."),
        ("a: \x01", "c.yaml is not valid YAML: the character '\\x01' at position 3 is not allowed."),
        ("[" * 600, "c.yaml is not a configuration: it is nested too deeply."),
    ],
)
def test_what_is_not_a_configuration_is_said_with_its_place(text, problem):
    with pytest.raises(UserError) as raised:
        parse(text)
    assert problem in str(raised.value)


def test_files_are_read_with_or_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa4\n")
    document = read_document(path)
    assert document.data == {"a": "ä"}
    assert document.source == str(path)


def test_files_that_cannot_be_read_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"There is no configuration file '.*none\.yaml'"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_document(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    with pytest.raises(UserError, match="is not a text file in UTF-8"):
        read_document(tmp_path / "latin.yaml")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(
        st.characters(
            codec="utf-8", exclude_categories=["Cs", "Cc", "Co", "Cn"], exclude_characters="\ufeff\u2028\u2029"
        )
    )
    | st.sampled_from(
        [
            "no",
            "yes",
            "1e3",
            "1e-3",
            "08",
            "0o7",
            "0x1",
            "~",
            "null",
            "<<",
            "=",
            "12:30",
            "1_0",
            "2024-01-31",
            "*",
            "a: b",
        ]
    )
)
texts = st.text("abc019eE-+.:_~ #*&!'\"<=", max_size=8)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(texts, values, min_size=1, max_size=4))
def test_what_is_written_is_read_back(data):
    text = write_document(data)
    assert parse(text).data == data


@given(
    st.dictionaries(texts.filter(lambda key: key != "<<"), st.floats(allow_nan=False) | texts, min_size=1, max_size=4)
)
def test_other_readers_of_yaml_find_the_same_values(data):
    read = yaml.safe_load(write_document(data))
    assert read == data
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in data.items()}


def test_keys_are_written_in_their_order_and_equal_values_each_time():
    shared = ["x"]
    assert write_document({"b": shared, "a": shared}) == "b: [x]\na: [x]\n"
