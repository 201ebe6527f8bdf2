import hashlib
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from polytask.data.builtin import builtin_names, read_builtin
from polytask.data.column_types import ColumnType
from polytask.data.inputs import ImageInput
from polytask.data.multidigits import _parts, _scans
from polytask.data.preparation import Preparation
from polytask.errors import UserError
from polytask.labels import TargetSpec


@pytest.fixture(scope="module")
def built():
    return read_builtin("multidigits")


@pytest.fixture(scope="module")
def pixels(built):
    table, split = built
    source = ImageInput(channels=1, normalize=[0.0, 1 / 255])
    specs = {task: TargetSpec("category", (task,)) for task in ("left", "right")}
    prepared = Preparation.fit(table, split["train"], {"image": source}, specs)
    (batch,) = prepared.loader(table, batch_size=len(table))
    return batch.inputs["image"][:, 0].round().numpy().astype(np.uint8)


def test_parts_have_the_sizes_promised(built):
    table, split = built
    assert {part: len(split[part]) for part in ("train", "valid", "test")} == {
        "train": 12_000,
        "valid": 2_000,
        "test": 2_000,
    }
    assert len(table) == 16_000
    assert table.columns == ("image", "left", "right")
    assert table.types["image"] is ColumnType.IMAGE


def test_each_image_is_two_scans_of_its_part_with_the_digits_it_says(built, pixels):
    table, split = built
    scans, digits = _scans()
    parts = _parts(digits, np.random.default_rng(2026))
    for part in ("train", "valid", "test"):
        rows = split[part][:40]
        labels = table.take(rows, ["left", "right"]).to_pydict()
        for image, left, right in zip(pixels[rows], labels["left"], labels["right"], strict=True):
            # Where nothing overlaps, the pixels are those of one scan: find it by them.
            assert _fits(image[:2], scans[parts[part]][:, :2], digits[parts[part]], left, columns=slice(0, 8))
            assert _fits(image[-2:], scans[parts[part]][:, -2:], digits[parts[part]], right, columns=slice(2, 10))


def _fits(stripe, candidates, digits, digit, columns):
    return ((candidates == stripe[:, columns]).all(axis=(1, 2)) & (digits == digit)).any()


def test_no_scan_is_in_two_parts_and_each_part_has_all_digits():
    _, digits = _scans()
    parts = _parts(digits, np.random.default_rng(0))
    every = np.concatenate(list(parts.values()))
    assert sorted(every) == list(range(1797))
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [1283, 257, 257]
    for members in parts.values():
        shares = np.bincount(digits[members], minlength=10) / len(members)
        assert abs(shares - 0.1).max() < 0.01


def test_the_scans_are_those_of_scikit_learn():
    scans, digits = _scans()
    reference = load_digits()
    np.testing.assert_array_equal(digits, reference.target)
    np.testing.assert_allclose(scans, reference.images * (255 / 16), atol=0.5)


def test_the_data_set_is_always_the_same(built, pixels):
    table, _ = built
    again, _ = read_builtin("multidigits")
    assert again.fingerprint == table.fingerprint
    digest = hashlib.sha256(pixels.tobytes())
    for task in ("left", "right"):
        digest.update(table.take(None, [task]).column(0).to_numpy().tobytes())
    assert digest.hexdigest()[:16] == "69b90400287a7325"


def test_all_digits_are_as_frequent_left_and_right(built):
    table, split = built
    for task in ("left", "right"):
        counts = np.bincount(table.take(split["train"], [task]).column(0).to_numpy())
        assert counts.min() > 1000
        assert len(counts) == 10


def test_building_is_quick():
    started = time.process_time()
    read_builtin("multidigits")
    assert time.process_time() - started < 1.5


def test_an_unknown_name_is_refused_with_a_suggestion():
    assert builtin_names() == ("multidigits",)
    with pytest.raises(UserError, match=r"There is no built-in data set 'multidigit'. Did you mean 'multidigits'?"):
        read_builtin("multidigit")
