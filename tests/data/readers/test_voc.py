import pytest

from polytask.data.readers import read_table
from polytask.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "voc"

    def make(images=("a", "b", "c"), annotations=("a", "b"), **lists):
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True)
        for name in images:
            (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"an image")
        for name in annotations:
            (root / "Annotations" / f"{name}.xml").write_text("<annotation/>")
        for name, text in lists.items():
            (root / "ImageSets/Main" / f"{name}.txt").write_text(text)
        return root

    return make


def test_a_folder_has_its_images_and_annotations(folder):
    table = read_table(folder())
    assert table.take(None).to_pydict() == {
        "image": ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "JPEGImages/c.jpg"],
        "boxes": ["Annotations/a.xml", "Annotations/b.xml", None],
    }
    assert table.types["image"] == "image"


def test_lists_say_the_parts_and_images_of_none_are_left_out(folder):
    table = read_table(folder(train="b\n", val="a\n", trainval="a\nb\n"))
    assert table.take(None, ["image", "part"]).to_pydict() == {
        "image": ["JPEGImages/b.jpg", "JPEGImages/a.jpg"],
        "part": ["train", "valid"],
    }


def test_a_list_is_a_table_of_its_images(folder):
    root = folder(trainval="c\na 1\n\n")
    table = read_table(root / "ImageSets/Main/trainval.txt")
    assert table.take(None).to_pydict() == {
        "image": ["JPEGImages/c.jpg", "JPEGImages/a.jpg"],
        "boxes": [None, "Annotations/a.xml"],
    }
    assert table.folder == root.resolve()


@pytest.mark.parametrize(
    ("lists", "path", "message"),
    [
        ({"train": "x1\n"}, ".", "the image 'x1' is listed, but not in"),
        ({"train": "a\n", "test": "a\n"}, ".", "lists 'a', which is in the part 'train' already"),
        ({"train": "\n"}, "ImageSets/Main/train.txt", "train.txt lists no image"),
    ],
)
def test_lists_that_do_not_fit_are_refused(folder, lists, path, message):
    with pytest.raises(UserError, match=message):
        read_table(folder(**lists) / path)


def test_without_images_there_is_nothing(folder):
    with pytest.raises(UserError, match="JPEGImages has no images"):
        read_table(folder(images=()))
