import copy
import json

import pytest

from polytask.data.readers import ReadOptions, read_table
from polytask.errors import UserError

CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "b.jpg", "width": 10, "height": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


@pytest.fixture
def write(tmp_path):
    def make(content=CONTENT, name="instances_train.json", images="train"):
        (tmp_path / images).mkdir(exist_ok=True)
        (tmp_path / images / "a.jpg").write_bytes(b"an image")
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.mark.parametrize("images", [".", "images", "train", "instances_train"])
def test_images_with_their_boxes(write, tmp_path, images):
    table = read_table(write(images=images))
    assert table.folder == tmp_path / images
    assert table.columns == ("image", "boxes")
    first, second = table.take(None).to_pylist()
    assert (first["image"], second["image"]) == ("a.jpg", "b.jpg")
    assert second["boxes"] == {"width": 10, "height": 20, "objects": []}
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 4.5, "ymax": 6.0, "class": "dog", "ignored": False}
    assert first["boxes"]["objects"][0] == box
    assert first["boxes"]["objects"][1]["ignored"]


def test_other_json_is_json_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"images": 1, "annotations": 2}\n{"images": 3, "annotations": 4}\n')
    assert len(read_table(path)) == 2


def changed(**parts):
    content = copy.deepcopy(CONTENT)
    for name, change in parts.items():
        content[name][0].update(change)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(annotations={"image_id": 9}), "annotation 1: there is no image 9 in the file"),
        (changed(annotations={"category_id": 9}), "annotation 1: there is no category 9"),
        (changed(annotations={"bbox": [1, 2]}), r"annotation 1: bbox is \[1, 2\], but must be"),
        (changed(images={"file_name": "gone.jpg"}), "its first image, 'gone.jpg', is in none of"),
        ({**CONTENT, "images": [{"id": 1}]}, "lacks the field 'file_name'"),
        ({**CONTENT, "images": [], "annotations": []}, "has no images"),
    ],
)
def test_broken_files_are_refused(write, content, message):
    with pytest.raises(UserError, match=message):
        read_table(write(content))


def test_the_format_can_be_asked_for(write):
    with pytest.raises(UserError, match="not in the format of COCO: a JSON object with the lists 'images'"):
        read_table(write({"images": []}), ReadOptions(format="coco"))
