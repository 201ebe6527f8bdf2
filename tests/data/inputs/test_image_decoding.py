import io

import numpy as np
import pytest
from PIL import Image

from polytask.data.inputs.image_decoding import UnreadableError, decode

COLOUR = np.random.default_rng(0).integers(0, 256, size=(6, 4, 3), dtype=np.uint8)


def _file(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_bytes_paths_and_records_hold_the_same_image(tmp_path):
    content = _file(COLOUR)
    (tmp_path / "a.png").write_bytes(content)
    expected = COLOUR.transpose(2, 0, 1)
    for cell in (content, "a.png", str(tmp_path / "a.png"), {"bytes": content}, {"bytes": None, "path": "a.png"}):
        pixels = decode(cell, tmp_path, 3, None)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected)


def test_colour_and_grey_are_converted():
    grey = COLOUR[:, :, 0]
    np.testing.assert_array_equal(decode(_file(grey), None, 3, None), np.stack([grey] * 3))
    np.testing.assert_array_equal(decode(_file(grey), None, 1, None), grey[None])
    as_grey = decode(_file(COLOUR), None, 1, None)[0].astype(float)
    np.testing.assert_allclose(as_grey, COLOUR @ [0.299, 0.587, 0.114], atol=1)


def test_transparency_is_dropped():
    with_alpha = np.concatenate([COLOUR, np.full((6, 4, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode(_file(with_alpha), None, 3, None), COLOUR.transpose(2, 0, 1))


def test_16_bits_are_scaled_to_8():
    deep = np.array([[0, 256, 65535]], dtype=np.uint16)
    assert decode(_file(deep), None, 1, None).tolist() == [[[0, 1, 255]]]


def test_floating_point_pixels_are_refused():
    with pytest.raises(UnreadableError, match=r"floating-point"):
        decode(_file(np.zeros((2, 2), np.float32), "TIFF"), None, 1, None)


def test_images_are_stretched_to_the_size_asked_for():
    flat = np.full((10, 20, 3), 77, np.uint8)
    pixels = decode(_file(flat), None, 3, (5, 4))
    assert pixels.shape == (3, 5, 4)
    assert (pixels == 77).all()


def test_a_large_jpeg_shrinks_to_nearly_the_same_as_by_careful_means():
    x = np.linspace(0, 255, 640)
    smooth = np.stack([np.tile(x, (480, 1)), np.tile(x[::-1], (480, 1)), np.full((480, 640), 128)], axis=2)
    small = decode(_file(smooth.astype(np.uint8), "JPEG", quality=95), None, 3, (24, 32)).astype(float)
    expected = smooth.reshape(24, 20, 32, 20, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert abs(small - expected).max() < 6


def test_a_photograph_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _file(COLOUR, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content, None, 3, None), np.rot90(COLOUR, -1).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "there is no image"),
        ("", "there is no image"),
        (b"", "there is no image"),
        ({"bytes": None, "path": None}, "there is no image"),
        ("absent.png", "the image 'absent.png' does not exist"),
        (b"no image at all", "the image in the cell cannot be read: it is no image"),
        ({"bytes": b"nothing", "path": "x.png"}, "the image 'x.png' cannot be read"),
    ],
)
def test_what_is_no_image_is_named(cell, message, tmp_path):
    with pytest.raises(UnreadableError, match=message):
        decode(cell, tmp_path, 3, None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_named(kind, tmp_path):
    content = _file(np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8), kind)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableError, match=r"the image 'cut' cannot be read"):
        decode("cut", tmp_path, 3, None)


def test_a_directory_is_no_image(tmp_path):
    with pytest.raises(UnreadableError, match=r"cannot be read"):
        decode(str(tmp_path), None, 3, None)
