import json
from pathlib import Path

import pytest

from polytask.data.box_cells import Box, BoxError, read_cell

XML = """<annotation><size><width>{width}</width><height>30</height></size>
<object><name>cat</name><difficult>{difficult}</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{right}</xmax><ymax>4</ymax></bndbox></object></annotation>"""
RECORD = {"xmin": 1, "ymin": 2, "xmax": 3.5, "ymax": 4, "class": "cat"}
BOX = Box((1.0, 2.0, 3.5, 4.0), "cat", False)


def voc(folder: Path, *, width=40, difficult=0, right=3.5) -> str:
    (folder / "a.xml").write_text(XML.format(width=width, difficult=difficult, right=right))
    return "a.xml"


@pytest.mark.parametrize("cell", [None, "", "  "])
def test_an_empty_cell_says_nothing(cell):
    assert read_cell(cell, None) is None


def test_all_forms_say_the_same(tmp_path):
    forms = [[RECORD], json.dumps([RECORD]), {"width": 40, "height": 30, "objects": [RECORD]}, voc(tmp_path)]
    found = [read_cell(form, tmp_path) for form in forms]
    assert [each.boxes for each in found] == [[BOX]] * 4
    assert [each.size for each in found] == [None, None, (30, 40), (30, 40)]


@pytest.mark.parametrize("cell", [[], "[]", {"width": 4, "height": 3, "objects": None}])
def test_no_object_is_a_label_too(cell):
    assert read_cell(cell, None).boxes == []


def test_difficult_ones_and_crowds_are_marked(tmp_path):
    assert read_cell(voc(tmp_path, difficult=1), tmp_path).boxes[0].ignored
    assert read_cell([{**RECORD, "iscrowd": 1.0}, {**RECORD, "ignored": True}, RECORD], None).boxes == [
        BOX._replace(ignored=True),
        BOX._replace(ignored=True),
        BOX,
    ]


@pytest.mark.parametrize("width", [0, "", "wide"])
def test_a_size_that_says_nothing_is_none(tmp_path, width):
    assert read_cell(voc(tmp_path, width=width), tmp_path).size is None


@pytest.mark.parametrize(("name", "expected"), [(3, "3"), (3.0, "3"), ("a b ", "a b")])
def test_classes_are_text(name, expected):
    assert read_cell([{**RECORD, "class": name}], None).boxes[0].name == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("gone.xml", "the annotation 'gone.xml' does not exist"),
        ("broken.xml", "the annotation 'broken.xml' cannot be read: "),
        ("[{]", "the boxes are no JSON"),
        ("cat", "'cat' is no boxes. Allowed: the path of a Pascal VOC file"),
        (7, "7 is no boxes"),
        ([3], "box 1 is 3"),
        ([RECORD, {**RECORD, "xmax": None}], "box 2 has no xmax"),
        ([{**RECORD, "ymin": "low"}], "box 1 has the ymin 'low', which is no number"),
        ([{**RECORD, "ymin": float("nan")}], "box 1 has the ymin nan"),
        ([{**RECORD, "class": None}], "box 1 has no class"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, cell, message):
    (tmp_path / "broken.xml").write_text("<annotation>")
    with pytest.raises(BoxError) as error:
        read_cell(cell, tmp_path)
    assert str(error.value).startswith(message)
