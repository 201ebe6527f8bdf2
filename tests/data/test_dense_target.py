import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.maps import SIZE, prepared, read, spec, table_of

from polytask.data.geometry import Geometry, flips, rotations, zooms
from polytask.data.targets import target_from_state
from polytask.errors import UserError

NUMBERS = np.random.default_rng(0).uniform(1, 5, (3, *SIZE)).astype(np.float32)


def as_npy(folder, i, each):
    np.save(folder / f"m{i}.npy", each)
    return f"m{i}.npy"


def as_csv(folder, i, each):
    np.savetxt(folder / f"m{i}.csv", each, delimiter=",")
    return f"m{i}.csv"


def as_tiff(folder, i, each):
    Image.fromarray(each).save(folder / f"m{i}.tiff")
    return f"m{i}.tiff"


def as_png16(folder, i, each):
    Image.fromarray(np.round(each * 1000).astype(np.uint16)).save(folder / f"m{i}.png")
    return f"m{i}.png"


@pytest.mark.parametrize(("save", "scale"), [(as_npy, 1), (as_csv, 1), (as_tiff, 1), (as_png16, 0.001)])
def test_numbers_come_from_files_of_several_kinds(tmp_path, save, scale):
    table = table_of(tmp_path, list(NUMBERS), save)
    preparation = prepared(table, spec("dense", scale=scale))
    target = preparation.targets["task"]
    labels, mask = target.labels(read(preparation, table), None)
    assert labels.dtype == torch.float32 and labels.shape == (3, 1, *SIZE) and mask.shape == (3, *SIZE) and mask.all()
    assert torch.allclose(labels[:, 0], torch.from_numpy(NUMBERS), atol=1e-3)
    assert target.summary.mean[0] == pytest.approx(NUMBERS.mean(), rel=1e-3)
    assert target.summary.std[0] == pytest.approx(NUMBERS.std(), rel=1e-3)


def test_invalid_pixels_have_no_label_and_no_say_in_the_mean(tmp_path):
    maps = NUMBERS.copy()
    maps[0, :3], maps[1, 0, 0], maps[2] = -1, np.nan, -1
    table = table_of(tmp_path, list(maps), as_npy)
    preparation = prepared(table, spec("dense", invalid=(-1.0,)))
    target = preparation.targets["task"]
    labels, mask = target.labels(read(preparation, table), None)
    valid = np.isfinite(maps) & (maps != -1)
    assert torch.equal(mask, torch.from_numpy(valid)) and labels.isfinite().all()
    assert target.summary.labelled == 2
    assert target.summary.mean[0] == pytest.approx(maps[valid].mean(), rel=1e-5)
    tally = target.tally()
    tally.add(read(preparation, table))
    assert f"({100 * valid.mean():.0f} % of the pixels)" in str(tally)
    again = target_from_state("task", json.loads(json.dumps(target.state_dict())))
    values = again.read(table.take(np.arange(3), ["map"]), np.arange(3), table)
    assert torch.equal(again.labels(values, None)[0], labels)


def test_several_channels(tmp_path):
    maps = np.stack([NUMBERS, -NUMBERS], axis=-1)
    table = table_of(tmp_path, list(maps), as_npy)
    preparation = prepared(table, spec("dense"))
    labels, _ = preparation.targets["task"].labels(read(preparation, table), None)
    assert labels.shape == (3, 2, *SIZE) and torch.equal(labels[:, 0], -labels[:, 1])
    with pytest.raises(UserError, match="row 2, .* has 1 numbers a pixel, but the first one has 2"):
        prepared(table_of(tmp_path, [maps[0], NUMBERS[1]], as_npy), spec("dense"))


def test_depth_shrinks_as_things_are_enlarged(tmp_path):
    flat = np.full((2, *SIZE), 6.0, np.float32)
    flat[0, 0, 0] = 0
    table = table_of(tmp_path, list(flat), as_npy)
    preparation = prepared(table, spec("dense", meaning="depth", logarithm=True))
    target = preparation.targets["task"]
    assert target.summary.mean[0] == pytest.approx(np.log(6))
    kept = read(preparation, table)
    _, mask = target.labels(kept, None)
    assert not mask[0, 0, 0] and int((~mask).sum()) == 1, "0 is no depth"
    twice = Geometry(zooms(np.array([2.0, 0.5]), np.full((2, 2), 0.5), SIZE), SIZE)
    labels, mask = target.labels(kept, twice)
    assert (labels[0][mask[None, 0]] == 3).all() and (labels[1][mask[None, 1]] == 12).all()
    turned = Geometry(rotations(np.array([30.0, -70]), SIZE), SIZE)
    labels, mask = target.labels(kept, turned)
    assert torch.allclose(labels[:, 0][mask], torch.tensor(6.0)), "turning brings nothing nearer"
    plain = prepared(table, spec("dense"))
    assert (plain.targets["task"].labels(read(plain, table), twice)[0][0] <= 6).all()


@pytest.mark.parametrize("upwards", [False, True])
def test_normals_turn_and_are_mirrored_with_the_image(tmp_path, upwards):
    direction = np.array([0.6, 0.48, 0.64], np.float32)
    table = table_of(tmp_path, [np.tile(direction, (*SIZE, 1))] * 2, as_npy)
    preparation = prepared(table, spec("dense", meaning="normals", upwards=upwards))
    target, kept = preparation.targets["task"], read(preparation, table)
    up = -1 if upwards else 1

    def after(matrices):
        labels, mask = target.labels(kept, Geometry(np.tile(matrices, (2, 1, 1)), SIZE))
        found = labels[0].movedim(0, -1)[mask[0]]
        assert torch.allclose(found, found[:1].expand_as(found), atol=1e-6)
        return found[0].numpy()

    np.testing.assert_allclose(after(flips(np.array([True]), SIZE[1])), direction * [-1, 1, 1], atol=1e-6)
    quarter = after(rotations(np.array([90.0]), SIZE))
    np.testing.assert_allclose(quarter, [-up * 0.48, up * 0.6, 0.64], atol=1e-6)
    # The plane with this normal, its depths halved: its normal is (x, y, 2 z).
    nearer = after(zooms(np.array([2.0]), np.full((1, 2), 0.5), SIZE))
    expected = direction * [1, 1, 2]
    np.testing.assert_allclose(nearer, expected / np.linalg.norm(expected), atol=1e-6)


def test_normals_in_images_are_from_minus_one_to_one(tmp_path):
    codes = np.tile(np.array([255, 128, 128], np.uint8), (*SIZE, 1))
    codes[0, 0] = 127
    table = table_of(tmp_path, [codes] * 2)
    preparation = prepared(table, spec("dense", meaning="normals"))
    labels, mask = preparation.targets["task"].labels(read(preparation, table), None)
    assert not mask[0, 0, 0] and int((~mask).sum()) == 2, "no direction"
    assert torch.allclose(labels[0, :, 1, 1], torch.tensor([1.0, 0.004, 0.004]), atol=1e-3)
    with pytest.raises(UserError, match="has 1 numbers a pixel, but a normal has three"):
        prepared(table_of(tmp_path, [codes[..., 0]]), spec("dense", meaning="normals"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"1,2\n3,x\n", "cannot be read"), (b"", "cannot be read"), (b"\x93NUMPY broken", "cannot be read")],
)
def test_a_broken_map_is_named(tmp_path, content, message):
    def save(folder, i, each):
        if i == 1:
            name = "bad.npy" if content.startswith(b"\x93") else "bad.csv"
            (folder / name).write_bytes(content)
            return name
        return as_npy(folder, i, each)

    with pytest.raises(UserError, match=f"row 2, column 'map' .*{message}"):
        prepared(table_of(tmp_path, list(NUMBERS), save), spec("dense"))


def test_a_depth_has_to_be_above_nought(tmp_path):
    with pytest.raises(UserError, match="no pixel .* has a depth above 0"):
        prepared(table_of(tmp_path, list(-NUMBERS), as_npy), spec("dense", meaning="depth"))
