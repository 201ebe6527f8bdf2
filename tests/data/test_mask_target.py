import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.maps import SIZE, masks, prepared, read, spec, table_of

from polytask.data.edges_target import edges
from polytask.data.geometry import Geometry, flips, zooms
from polytask.data.inputs.image import ImageInput
from polytask.data.pixel_cells import same_shape
from polytask.data.preparation import Preparation
from polytask.data.targets import target_from_state
from polytask.errors import UserError


def test_masks_are_class_numbers_and_their_pixels_are_counted(tmp_path):
    maps = [*masks(3), None]
    preparation = prepared(table_of(tmp_path, maps), spec("mask"))
    target = preparation.targets["task"]
    counts = np.bincount(masks(3).ravel(), minlength=3)
    assert target.summary.classes == ("0", "1", "2")
    assert target.summary.counts == tuple(counts.tolist())
    assert (target.summary.labelled, target.summary.image_size) == (3, SIZE)
    labels, mask = target.labels(read(preparation, table_of(tmp_path, maps)), None)
    assert labels.dtype == torch.int64 and labels.shape == (4, *SIZE) and mask.dtype == torch.bool
    assert torch.equal(labels[:3], torch.from_numpy(masks(3)).long())
    assert mask[:3].all() and not mask[3].any() and not labels[3].any()


def test_ids_are_named_and_some_are_ignored(tmp_path):
    ids = np.array([7, 3, 250], dtype=np.uint8)[masks(4)]
    wanted = spec("mask", classes=("car", "road"), ids=(3, 7), ignore=(250,))
    preparation = prepared(table_of(tmp_path, list(ids)), wanted)
    target = preparation.targets["task"]
    labels, mask = target.labels(read(preparation, table_of(tmp_path, list(ids))), None)
    assert torch.equal(mask, torch.from_numpy(ids != 250))
    assert torch.equal(labels[mask] == 0, torch.from_numpy(ids)[mask] == 3)
    tally = target.tally()
    tally.add(read(preparation, table_of(tmp_path, list(ids))))
    assert "car: " in str(tally) and "road: " in str(tally)
    again = target_from_state("task", json.loads(json.dumps(target.state_dict())))
    assert again.ids == (3, 7) and again.follows == "image" and again.size == SIZE
    table = table_of(tmp_path, list(ids))
    values = again.read(table.take(np.arange(4), ["map"]), np.arange(4), table)
    assert torch.equal(again.labels(values, None)[0], labels)


@pytest.mark.parametrize("form", ["palette", "npy", "bytes", "record"])
def test_all_forms_of_a_mask_are_read_alike(tmp_path, form):
    def save(folder, i, each):
        if form == "npy":
            np.save(folder / f"m{i}.npy", each.astype(np.int64))
            return f"m{i}.npy"
        image = Image.fromarray(each)
        if form == "palette":
            image = Image.fromarray(each, mode="L")
            image.putpalette([255 - i % 256 for i in range(768)])
        image.save(folder / f"m{i}.png")
        content = (folder / f"m{i}.png").read_bytes()
        return content if form == "bytes" else {"bytes": content, "path": None} if form == "record" else f"m{i}.png"

    table = table_of(tmp_path, list(masks(2)), save)
    preparation = prepared(table, spec("mask"))
    labels, _ = preparation.targets["task"].labels(read(preparation, table), None)
    assert torch.equal(labels, torch.from_numpy(masks(2)).long())


def test_a_mask_gets_the_size_of_the_images(tmp_path):
    large = masks(2).repeat(2, 1).repeat(2, 2)
    table = table_of(tmp_path, list(large))
    preparation = prepared(table, spec("mask"))
    labels, _ = preparation.targets["task"].labels(read(preparation, table), None)
    assert torch.equal(labels, torch.from_numpy(masks(2)).long()), "twice as large, of the same shape"
    small = prepared(table, spec("mask"), size=[6, 8])
    assert small.targets["task"].labels(read(small, table), None)[0].shape == (2, 6, 8)


def test_sizes_of_one_shape():
    assert same_shape((480, 640), (120, 160)) and same_shape((119, 160), (480, 640)) and same_shape((7, 9), (7, 9))
    assert not same_shape((160, 120), (480, 640)) and not same_shape((180, 240), (180, 100))


def test_a_mask_moves_with_its_image_and_what_moves_in_is_ignored(tmp_path):
    table = table_of(tmp_path, list(masks(2)))
    preparation = prepared(table, spec("mask"))
    target, kept = preparation.targets["task"], read(preparation, table)
    moved = Geometry(flips(np.array([True, False]), SIZE[1]), SIZE)
    labels, mask = target.labels(kept, moved)
    assert torch.equal(labels[0], torch.from_numpy(masks(2)[0]).long().flip(-1)) and mask.all()
    assert torch.equal(labels[1], torch.from_numpy(masks(2)[1]).long())
    smaller = Geometry(zooms(np.array([0.5, 0.5]), np.zeros((2, 2)), SIZE), SIZE)
    _, mask = target.labels(kept, smaller)
    assert mask[:, : SIZE[0] // 2, : SIZE[1] // 2].all() and int(mask.sum()) == 2 * SIZE[0] * SIZE[1] // 4


def test_batches_move_images_and_masks_alike(tmp_path):
    maps = masks(6)
    table = table_of(tmp_path, list(maps), images=[np.repeat(60 * each[..., None], 3, 2) for each in maps])
    preparation = prepared(table, spec("mask"), flip=True, crop=3, normalize=[0, 1])
    loader = preparation.loader(table, batch_size=6, training=True, seed=4)
    moved = 0
    for batch in loader:
        pixels = (batch.inputs["image"][:, 0] * 255).round().long()
        known = batch.masks["task"]
        assert torch.equal(pixels[known], 60 * batch.targets["task"][known])
        moved += int((~known).sum())
    assert moved > 0


WRONG = {
    "an unknown class": (
        lambda each: np.where(each == 2, 9, each).astype(np.uint8),
        r"row 1, .*'9', which is no class",
    ),
    "another shape": (lambda each: each.T.copy(), r"map is 16 x 12 pixels .* its image is 12 x 16, another shape"),
    "colours": (lambda each: np.stack([each, each + 1, each], 2), "colours are no classes|Colours are no classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mask_is_named_with_its_row(tmp_path, case):
    change, message = WRONG[case]
    table = table_of(tmp_path, [change(each) for each in masks(2, seed=1)])
    with pytest.raises(UserError, match=message) as found:
        preparation = prepared(table, spec("mask", classes=("a", "b", "c"), ids=(0, 1, 2)))
        read(preparation, table)
    assert "map" in str(found.value) and "task" in str(found.value)


def broken(folder, i, each):
    if i == 1:
        (folder / "map1.png").write_bytes(b"no image")
    elif i == 2:
        return "missing.png"
    else:
        Image.fromarray(each).save(folder / f"map{i}.png")
    return f"map{i}.png"


def test_an_unreadable_mask_is_an_error_or_no_label(tmp_path, caplog):
    table = table_of(tmp_path, list(masks(4)), broken)
    with pytest.raises(UserError, match=r"maps.csv, row 2, column 'map' .*'map1.png' cannot be read.*on_error: skip"):
        prepared(table, spec("mask"))
    with caplog.at_level(logging.WARNING):
        preparation = prepared(table, spec("mask", on_error="skip"))
    told = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert len(told) == 1 and "2 rows have a map that cannot be read" in told[0]
    caplog.clear()
    known = preparation.targets["task"].known(read(preparation, table))
    assert known.flatten(1).any(1).tolist() == [True, False, False, True]
    assert not caplog.records, "said once"


def test_what_cannot_be_learned_is_refused(tmp_path):
    with pytest.raises(UserError, match="all pixels .* are of the class 0"):
        prepared(table_of(tmp_path, [np.zeros(SIZE, np.uint8)] * 2), spec("mask"))
    with pytest.raises(UserError, match="none of the 2 training rows"):
        prepared(table_of(tmp_path, list(masks(2))), spec("mask", ignore=(0, 1, 2)))
    with pytest.raises(UserError, match="holds int64, not masks"):
        from polytask.data.table import Table

        table = Table.of({"image": ["0.png"], "map": [3]}, folder=tmp_path)
        Preparation.fit(table, np.arange(1), {"image": ImageInput("image")}, {"task": spec("mask")})


def test_the_input_of_images_has_to_be_known(tmp_path):
    table = table_of(tmp_path, list(masks(2)))
    for name in ("image", ""):
        assert prepared(table, spec("mask", image=name)).targets["task"].follows == "image"
    with pytest.raises(UserError, match="'photo' is none of the inputs of images"):
        prepared(table, spec("mask", image="photo"))
    with pytest.raises(UserError, match="rand_augment would move without telling where"):
        prepared(table, spec("mask"), rand_augment=True)


def test_edges_lie_where_classes_meet(tmp_path):
    values = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, -1], [2, 2, 2, 2]]])
    expected = [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert edges(values, 1).int().tolist() == [expected]
    assert edges(values, 2).sum() > edges(values, 1).sum()
    ids = np.array([1000, 2, 255], dtype=np.int32)[masks(3)]

    def save(folder, i, each):
        np.save(folder / f"m{i}.npy", each)
        return f"m{i}.npy"

    table = table_of(tmp_path, list(ids), save)
    preparation = prepared(table, spec("edges", ignore=(255,)))
    target, kept = preparation.targets["task"], read(preparation, table)
    labels, mask = target.labels(kept, None)
    assert torch.equal(mask, torch.from_numpy(ids != 255))
    assert target.summary.counts == (int((mask & (labels == 0)).sum()), int(labels.sum()))
    assert "of the pixels" in str(_counted(target, kept))
    moved, _ = target.labels(kept, Geometry(flips(np.array([True] * 3), SIZE[1]), SIZE))
    assert torch.equal(moved, labels.flip(-1))
    half = prepared(table, spec("edges", ignore=(255,)), size=[6, 8]).targets["task"].summary.counts
    assert half[1] == pytest.approx(2 * target.summary.counts[1], abs=1), "twice the share at half the side"
    flat = np.zeros((2, *SIZE), np.uint8)
    with pytest.raises(UserError, match="no two classes meet"):
        prepared(table_of(tmp_path / "flat", list(flat)), spec("edges"))


def _counted(target, kept):
    tally = target.tally()
    tally.add(kept)
    return tally
