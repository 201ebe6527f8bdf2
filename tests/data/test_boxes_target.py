import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from polytask.data.boxes_target import moved_boxes
from polytask.data.geometry import Geometry
from polytask.data.inputs.image import ImageInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.data.target import spec_from_state
from polytask.errors import UserError
from polytask.labels import TargetSpec


def record(left, top, right, bottom, name="cat", **more):
    return {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom, "class": name, **more}


SPEC = TargetSpec(kind="boxes", columns=("boxes",), image="image")


@pytest.fixture
def table(tmp_path):
    """Images of 40 x 20 pixels (width x height), with boxes as JSON text."""

    def make(*cells):
        for number in range(len(cells)):
            Image.fromarray(np.full((20, 40, 3), number * 10, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        texts = [None if cell is None else json.dumps(cell) for cell in cells]
        data = {"image": [f"{number}.png" for number in range(len(cells))], "boxes": pa.array(texts, pa.string())}
        return Table.from_arrow(pa.table(data), "t", tmp_path)

    return make


def prepared(table, size=(10, 10), spec=SPEC):
    return Preparation.fit(table, np.arange(len(table)), {"photo": ImageInput(size=size)}, {"cells": spec})


def labels_of(table, preparation):
    return next(iter(preparation.loader(table, batch_size=len(table))))


def test_boxes_are_in_the_pixels_that_the_encoder_reads(table):
    rows = table([record(4, 5, 20, 20, "dog")], [record(0, 0, 40, 20), record(10, 0, 20, 10, "dog")])
    preparation = prepared(rows)
    batch = labels_of(rows, preparation)
    target = batch.targets["cells"]
    assert target.boxes.tolist() == [[1.0, 2.5, 5.0, 10.0], [0.0, 0.0, 10.0, 10.0], [2.5, 0.0, 5.0, 5.0]]
    assert target.counts.tolist() == [1, 2]
    assert [preparation.summaries["cells"].classes[number] for number in target.classes] == ["dog", "cat", "dog"]
    assert preparation.targets["cells"].follows == "photo"


def test_the_summary_has_classes_counts_and_sizes(table):
    rows = table([record(0, 0, 40, 20)], [record(0, 0, 20, 10, "dog"), record(0, 0, 10, 5, "dog")], None, [])
    summary = prepared(rows).summaries["cells"]
    assert (summary.labelled, summary.classes, summary.counts) == (3, ("cat", "dog"), (1, 2))
    assert summary.image_size == (10, 10)
    assert (summary.sizes[0], summary.sizes[16], summary.sizes[-1]) == (2.5, 5.0, 10.0)


def test_an_empty_cell_is_no_label_and_an_empty_list_is_one(table):
    rows = table([record(0, 0, 4, 4)], None, [])
    batch = labels_of(rows, prepared(rows))
    assert batch.masks["cells"].tolist() == [True, False, True]
    assert batch.labelled["cells"].tolist() == [0, 2]


def test_boxes_beyond_the_image_are_cut_off_and_those_without_area_are_left_out_and_counted(table, caplog):
    rows = table(
        [record(-5, 5, 20, 90), record(9, 5, 9, 8), record(50, 1, 60, 9)], [record(8, 2, 4, 6), record(1, 1, 2, 2)]
    )
    preparation = prepared(rows)
    assert labels_of(rows, preparation).targets["cells"].boxes.tolist() == [
        [0.0, 2.5, 5.0, 10.0],
        [0.25, 0.5, 0.5, 1.0],
    ]
    assert (
        "of 5 boxes in the training part of t, 1 reach beyond their image and are cut off, and 3 have no" in caplog.text
    )
    target = preparation.targets["cells"]
    tally = target.tally()
    tally.add(target.read(rows.take(None), np.arange(2), rows))
    assert str(tally) == "2 boxes (cat: 100 %); 1 cut off at the border; 3 left out, without area"


def test_the_size_of_a_turned_photograph_is_that_of_the_picture(tmp_path, table):
    rows = table([record(0, 0, 20, 40)])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "0.png", exif=exif)
    assert labels_of(rows, prepared(rows)).targets["cells"].boxes.tolist() == [[0.0, 0.0, 10.0, 10.0]]


def test_a_saved_target_reads_the_same(table):
    rows = table([record(0, 0, 4, 4, "a", difficult=1)], [record(3, 3, 5, 9, "b")])
    first = prepared(rows)
    state = json.loads(json.dumps(first.state_dict()))
    again = Preparation.from_state(state, {"photo": ImageInput(size=(10, 10))})
    assert spec_from_state(state["targets"]["cells"]) == SPEC
    one, other = (labels_of(rows, each).targets["cells"] for each in (first, again))
    assert all(
        torch.equal(a, b) for x, y in zip(one.rows(), other.rows(), strict=True) for a, b in zip(x, y, strict=True)
    )
    assert one.ignored.tolist() == [True, False]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[record(0, 0, 4, 4)], [3]], "t, row 2, column 'boxes' (task 'cells'): box 1 is 3. Allowed: the path"),
        ([None, None], "Task 'cells': none of the 2 training rows of t is labelled"),
        ([[], []], "Task 'cells': none of the 2 training rows of t has a box: all 2 labelled ones are empty"),
    ],
)
def test_what_cannot_be_learned_from_is_an_error(table, cells, message):
    with pytest.raises(UserError) as error:
        prepared(table(*cells))
    assert str(error.value).startswith(message)


def test_a_class_that_training_does_not_have_is_an_error(table):
    rows = table([record(0, 0, 4, 4)], [record(0, 0, 4, 4, "cats")])
    preparation = Preparation.fit(rows, np.array([0]), {"photo": ImageInput(size=10)}, {"cells": SPEC})
    with pytest.raises(UserError, match="t, row 2: a box has the class 'cats'.*Did you mean 'cat'.*Allowed: 'cat'"):
        preparation.loader(rows, batch_size=2)


def test_the_images_have_to_be_read_by_an_input(table):
    rows = table([record(0, 0, 4, 4)])
    with pytest.raises(UserError, match="no column 'picture' with the images"):
        prepared(rows, spec=TargetSpec(kind="boxes", columns=("boxes",), image="picture"))
    other = rows.arranged([("image", "image"), ("boxes", "boxes"), ("picture", "image")])
    with pytest.raises(UserError, match="on the images of the column 'picture', which no image input reads.*'image'"):
        prepared(other, spec=TargetSpec(kind="boxes", columns=("boxes",), image="picture"))


def test_what_is_decoded_is_restored_to_the_files_own_pixels(table):
    rows = table([record(4, 5, 20, 20)], [record(0, 0, 40, 20)])
    target = prepared(rows).targets["cells"]
    found = [[{"class": "cat", "score": 0.5, "xmin": 1.0, "ymin": 2.5, "xmax": 5.0, "ymax": 10.0}], []]
    restored = target.restored({"": found}, np.array([0, 1]), rows)
    assert [json.loads(text) for text in restored[""]] == [[{**record(4, 5, 20, 20), "score": 0.5}], []]


def test_boxes_stay_on_what_they_show_when_images_are_changed(tmp_path):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[12:22, 30:48] = 255
    Image.fromarray(pixels).save(tmp_path / "0.png")
    cell = json.dumps([record(30, 12, 48, 22)])
    rows = Table.from_arrow(pa.table({"image": ["0.png"] * 24, "boxes": [cell] * 24}), "t", tmp_path)
    source = ImageInput(size=(80, 120), normalize=[0, 1], flip=True, crop=9, scale=[0.8, 1.3], rotate=30)
    preparation = Preparation.fit(rows, np.arange(24), {"photo": source}, {"cells": SPEC})
    seen = set()
    for epoch_batch in preparation.loader(rows, batch_size=24, training=True):
        for image, row in zip(epoch_batch.inputs["photo"], epoch_batch.targets["cells"].rows(), strict=True):
            where = (image[0] > 0.5).nonzero()
            if not len(row.boxes):
                continue
            (left, top, right, bottom), (first, last) = row.boxes[0].tolist(), (where.min(0)[0], where.max(0)[0] + 1)
            found = [first[1], first[0], last[1], last[0]]
            assert all(abs(one - other) <= 2.5 for one, other in zip((left, top, right, bottom), found, strict=True))
            seen.add((round(left), round(top)))
    assert len(seen) > 10


def flipped(size):
    return np.array([[[-1.0, 0, size[1]], [0, 1, 0]]])


def test_a_mirrored_image_has_mirrored_boxes():
    boxes, kept = moved_boxes(np.array([[1.0, 2, 4, 6]]), flipped((10, 20)), (10, 20))
    assert boxes.tolist() == [[16, 2, 19, 6]] and kept.all()


SIDE = st.floats(0, 30, allow_nan=False)


@given(st.floats(-3, 3), st.floats(0.5, 2), st.floats(-20, 20), st.floats(-20, 20), SIDE, SIDE, st.floats(2, 9))
def test_a_moved_box_holds_what_it_held_as_far_as_it_is_seen(angle, zoom, right, down, x, y, side):
    size = (40, 40)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([turn, [[right], [down]]], axis=1)
    (found,), _ = moved_boxes(np.array([[x, y, x + side, y + side]]), matrix[None], size)
    inside = np.array([x, y]) + side * np.random.default_rng(0).random((50, 2))
    points = Geometry(matrix[None], size).points(inside[None])[0]
    seen = points[((points >= 0) & (points <= 40)).all(axis=1)]
    assert (seen >= found[:2] - 1e-6).all() and (seen <= found[2:] + 1e-6).all()


def test_a_box_that_leaves_the_image_is_left_out():
    matrices = np.array([[[1.0, 0, 18], [0, 1, 0]]] * 2)
    _, kept = moved_boxes(np.array([[0.0, 0, 20, 8], [10, 0, 30, 8]]), matrices, (10, 40))
    assert kept.tolist() == [False, True]
