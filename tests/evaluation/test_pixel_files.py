import io

import numpy as np
from PIL import Image

from polytask.evaluation.pixel_files import color, file_of, picture, range_of
from polytask.pixels import PixelValues


def test_classes_become_an_image_of_their_numbers_with_colours():
    values = np.array([[0, 3], [200, 3]], dtype=np.uint8)
    ending, content = file_of(PixelValues(values, {0: "a", 3: "b", 200: "c"}))
    image = Image.open(io.BytesIO(content))
    assert ending == ".png" and image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), values)
    shown = np.asarray(image.convert("RGB"))
    assert tuple(shown[0, 1]) == color(3) and tuple(shown[1, 0]) == color(200)
    np.testing.assert_array_equal(picture(PixelValues(values, {0: "a", 3: "b", 200: "c"})), shown)
    assert len({color(number) for number in range(256)}) > 250, "colours differ"


def test_numbers_and_great_class_numbers_become_arrays():
    for found in (PixelValues(np.ones((2, 3), np.float32)), PixelValues(np.array([[1, 1000]]), {1: "a", 1000: "b"})):
        ending, content = file_of(found)
        assert ending == ".npy"
        np.testing.assert_array_equal(np.load(io.BytesIO(content)), found.values)


def test_pictures_of_numbers_go_from_dark_to_bright_and_leave_out_what_is_unknown():
    values = np.linspace(2, 4, 12, dtype=np.float32).reshape(3, 4)
    mask = np.ones((3, 4), bool)
    mask[0, 0] = False
    shown = picture(PixelValues(values), mask, (2.0, 4.0)).astype(int)
    bright = shown.reshape(-1, 3) @ [299, 587, 114]
    assert (np.diff(bright[1:]) > 0).all() and len(set(shown[0, 0])) == 1
    assert range_of(PixelValues(values), np.zeros((3, 4), bool)) == (0.0, 1.0)
    up = picture(PixelValues(np.tile(np.array([0, 0, 1.0]), (2, 2, 1)), vectors=True))
    assert up[0, 0].tolist() == [128, 128, 255]
