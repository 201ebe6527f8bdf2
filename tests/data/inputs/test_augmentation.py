import sys

import numpy as np
import pytest
import torch

from polytask.data.inputs.augmentation import Augmentation
from polytask.data.inputs.draws import Draws
from polytask.errors import MissingExtra, UserError

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(1, 256, size=(40, 3, 6, 5), dtype=np.uint8))
ROWS = np.arange(40)
ALL = [
    Augmentation(flip=True),
    Augmentation(crop=2),
    Augmentation(color=0.4),
    Augmentation(rand_augment=True),
    Augmentation(flip=True, crop=1, color=0.2, rand_augment=True),
]


def test_nothing_is_asked_for_by_default():
    assert not Augmentation()
    assert all(ALL)
    assert torch.equal(Augmentation().apply(IMAGES, ROWS, Draws(0, 0)), IMAGES)


@pytest.mark.parametrize("augmentation", ALL)
def test_a_row_is_changed_the_same_way_in_any_company(augmentation):
    together = augmentation.apply(IMAGES, ROWS, Draws(3, 1))
    order = np.random.default_rng(1).permutation(40)[:7]
    some = augmentation.apply(IMAGES[torch.from_numpy(order)], ROWS[order], Draws(3, 1))
    assert together.dtype == torch.uint8
    assert together.shape == IMAGES.shape
    assert torch.equal(some, together[torch.from_numpy(order)])


@pytest.mark.parametrize("augmentation", ALL)
def test_epochs_and_seeds_differ(augmentation):
    first = augmentation.apply(IMAGES, ROWS, Draws(3, 1))
    assert not torch.equal(first, augmentation.apply(IMAGES, ROWS, Draws(3, 2)))
    assert not torch.equal(first, augmentation.apply(IMAGES, ROWS, Draws(4, 1)))


@pytest.mark.parametrize("augmentation", ALL)
def test_the_global_generator_is_left_alone(augmentation):
    before = torch.get_rng_state()
    augmentation.apply(IMAGES, ROWS, Draws(3, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_gentle_changes_are_flips_and_moves_alone():
    gentle, plain = Draws(3, 1, gentle=True), Draws(3, 1)
    weak, strong = Augmentation(flip=True, crop=1), ALL[-1]
    assert torch.equal(strong.apply(IMAGES, ROWS, gentle), weak.apply(IMAGES, ROWS, plain))
    assert torch.equal(weak.apply(IMAGES, ROWS, gentle), weak.apply(IMAGES, ROWS, plain))
    assert torch.equal(Augmentation(color=0.4).apply(IMAGES, ROWS, gentle), IMAGES)


def test_a_flip_mirrors_about_half_of_the_images():
    flipped = Augmentation(flip=True).apply(IMAGES, ROWS, Draws(0, 0))
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(flipped, IMAGES, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(flipped, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 <= sum(mirrored) <= 30


def test_a_crop_moves_an_image_within_black():
    moved = Augmentation(crop=2).apply(IMAGES, ROWS, Draws(0, 0))
    seen = set()
    for new, old in zip(moved, IMAGES, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(new, _shifted(old, down, right))
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}


def _shifted(image, down, right):
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    result[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        :, max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return result


@pytest.mark.parametrize(("parameters", "message"), [({"crop": -1}, "crop is -1"), ({"color": 1.5}, "color is 1.5")])
def test_values_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**parameters)


def test_colour_needs_the_vision_extra_but_flips_do_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    assert Augmentation(flip=True, crop=1).transforms() == []
    with pytest.raises(MissingExtra, match=r"needs the library 'torchvision'.*polytask\[vision\]"):
        Augmentation(color=0.1).transforms()
