import io
import json
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from polytask.data.inputs import ImageInput
from polytask.data.inputs.draws import Draws
from polytask.data.table import Table
from polytask.errors import MissingExtra, UserError
from polytask.shapes import ImageShape

PIXELS = np.random.default_rng(0).integers(0, 256, size=(80, 6, 5, 3), dtype=np.uint8)


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _table(cells, **others):
    return Table.from_arrow(pa.table({"image": pa.array(cells)}), source="scans.parquet", **others)


def _fitted(table, rows=None, **parameters):
    source = ImageInput(**parameters)
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)) if rows is None else np.array(rows), {})
    return source


def _encode(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    return source.encode(table.take(rows), rows, table)


def _images(source, table, draws=None):
    return source.collate(_encode(source, table).values, np.arange(len(table)), draws)


@pytest.fixture(scope="module")
def table():
    return _table([_png(pixels) for pixels in PIXELS])


def test_training_images_have_mean_0_and_deviation_1_in_each_channel(table):
    source = _fitted(table)
    images = _images(source, table)
    assert source.shape == ImageShape(3, 6, 5)
    assert images.shape == (80, 3, 6, 5)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_statistics_are_those_of_the_training_images_alone(table):
    source = _fitted(table, rows=[3, 4])
    expected = PIXELS[3:5].reshape(-1, 3) / 255
    np.testing.assert_allclose(source.state_dict()["mean"], expected.mean(axis=0))
    np.testing.assert_allclose(source.state_dict()["std"], expected.std(axis=0))


def test_statistics_of_many_images_come_from_a_sample(table, monkeypatch):
    monkeypatch.setattr("polytask.data.inputs.image._SAMPLE_ROWS", 20)
    mean = _fitted(table).state_dict()["mean"]
    np.testing.assert_allclose(mean, [0.5] * 3, atol=0.05)
    assert mean != _fitted(table, rows=range(20)).state_dict()["mean"]


def test_a_fixed_normalization_needs_no_statistics(table):
    pixels = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2) / 255.0).float()
    imagenet = _images(_fitted(table, normalize="imagenet"), table)
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(imagenet, expected, atol=1e-4, rtol=1e-4)
    given = _images(_fitted(table, normalize=[0.5, [0.1, 0.2, 0.5]]), table)
    torch.testing.assert_close(
        given, (pixels - 0.5) / torch.tensor([0.1, 0.2, 0.5])[:, None, None], atol=1e-4, rtol=1e-4
    )


def test_black_images_stay_finite():
    table = _table([_png(np.zeros((4, 4), np.uint8))] * 3)
    assert (_images(_fitted(table, channels=1), table) == 0).all()


@pytest.mark.parametrize(("size", "expected"), [(8, (8, 8)), ([4, 9], (4, 9))])
def test_images_are_stretched_to_the_size_asked_for(table, size, expected):
    source = _fitted(table, size=size, channels=1)
    assert source.shape == ImageShape(1, *expected)
    assert _images(source, table).shape == (80, 1, *expected)


def test_images_of_several_sizes_need_a_size():
    table = _table([_png(PIXELS[0]), _png(PIXELS[1]), _png(PIXELS[2][:4])])
    with pytest.raises(UserError, match=r"row 3: the image is 4 x 5 pixels .* image is 6 x 5. Set size: \[6, 5\]"):
        _fitted(table)
    assert _images(_fitted(table, size=6), table).shape == (3, 3, 6, 6)


def test_grey_images_need_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    table = _table([_png(pixels[..., 0]) for pixels in PIXELS])
    source = _fitted(table, channels=1, size=12, flip=True, crop=1)
    assert _images(source, table, Draws(0, 0)).shape == (80, 1, 12, 12)
    with pytest.raises(MissingExtra, match=r"torchvision"):
        _fitted(table, rand_augment=True)


def test_augmentation_happens_where_random_numbers_are_given(table):
    source = _fitted(table, flip=True)
    plain = _images(source, table)
    assert source.augments
    assert not _fitted(table).augments
    torch.testing.assert_close(plain, _images(_fitted(table), table))
    first = _images(source, table, Draws(0, 0))
    assert not torch.equal(plain, first)
    assert torch.equal(first, _images(source, table, Draws(0, 0)))


def test_a_state_that_went_through_json_encodes_the_same(table):
    source = _fitted(table, rows=range(9))
    restored = ImageInput()
    restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert restored.shape == source.shape
    assert restored.columns == ("image",)
    assert torch.equal(_images(restored, table), _images(source, table))


def test_an_unreadable_image_is_an_error_that_names_row_and_file(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(PIXELS[0]))
    (tmp_path / "b.png").write_bytes(b"broken")
    table = _table(["a.png", "b.png", "c.png"], folder=tmp_path)
    with pytest.raises(UserError, match=r"scans.parquet, row 2: the image 'b.png' cannot be read.*on_error: skip"):
        _fitted(table)
    source = _fitted(table, rows=[0])
    with pytest.raises(UserError, match=r"row 3: the image 'c.png' does not exist"):
        _encode(source, table, [0, 2])


def test_unreadable_images_can_be_skipped(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(PIXELS[0]))
    (tmp_path / "b.png").write_bytes(b"broken")
    table = _table(["c.png", "b.png", None, "a.png"], folder=tmp_path)
    source = _fitted(table, on_error="skip")
    expected = PIXELS[0].reshape(-1, 3) / 255
    np.testing.assert_allclose(source.state_dict()["mean"], expected.mean(axis=0))
    encoding = _encode(source, table, [1, 2, 3])
    assert list(encoding.failures) == [1, 2]
    assert "'b.png' cannot be read" in encoding.failures[1]
    assert encoding.failures[2] == "there is no image"
    assert len(encoding.values) == 3


def test_not_one_readable_image_is_an_error(tmp_path):
    table = _table(["a.png", "b.png"], folder=tmp_path)
    for parameters in ({}, {"size": 4}):
        with pytest.raises(UserError, match=r"[Nn]one of the training images in 'image' can be read"):
            _fitted(table, on_error="skip", **parameters)
    with pytest.raises(UserError, match=r"row 1: the image 'a.png' does not exist"):
        _fitted(table)


def test_a_column_of_numbers_holds_no_images():
    with pytest.raises(UserError, match=r"the column 'image' holds int64, not images"):
        _fitted(_table([1, 2]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"channels": 2}, r"channels is 2. Allowed: 1 \(grey\), 3 \(colour\)"),
        ({"size": [1, 2, 3]}, r"size is \[1, 2, 3\]. Allowed"),
        ({"size": 0}, "size is 0"),
        ({"normalize": "imagenet", "channels": 1}, "imagenet is for colour"),
        ({"normalize": [0.5]}, "normalize is"),
        ({"normalize": [[0.5, 0.5], 1]}, "a list of 3"),
        ({"normalize": [0.5, 0.0]}, "std above 0"),
        ({"crop": -1}, "crop is -1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        ImageInput(**parameters)


def test_what_is_not_fitted_has_no_shape():
    with pytest.raises(RuntimeError, match=r"not fitted"):
        _ = ImageInput().shape


def test_photographs_and_paintings(data_root, tmp_path):
    with zipfile.ZipFile(data_root / "pacs_112" / "PACS.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::140]
        archive.extractall(tmp_path, names)
    table = Table.from_arrow(pa.table({"image": names}), source="PACS", folder=tmp_path)
    source = _fitted(table, size=64, flip=True, color=0.2)
    images = _images(source, table)
    assert images.shape == (len(names), 3, 64, 64)
    assert len(names) >= 19
    assert images.mean().abs() < 1e-3
    assert _images(source, table, Draws(0, 0)).shape == images.shape
    assert _fitted(table).shape == ImageShape(3, 112, 112)
