import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.geometry import Geometry, flips, rotations, shifts, zooms
from polytask.data.inputs.augmentation import Augmentation
from polytask.data.inputs.draws import Draws

SIZE = (6, 9)


def smooth(rows, size, cells=3):
    """Class maps of large areas, `[B, H, W]`."""
    small = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (rows, 1, cells, cells))).float()
    return torch.nn.functional.interpolate(small, size, mode="nearest")[:, 0].to(torch.uint8)


def test_flips_and_shifts_are_what_they_say():
    values = torch.arange(54).view(1, 6, 9)
    flip = Geometry(flips(np.array([True]), 9), SIZE)
    assert torch.equal(flip.nearest(values, -1), values.flip(-1))
    shift = Geometry(shifts(np.array([2]), np.array([-1])), SIZE)
    moved = shift.nearest(values, -1)
    assert torch.equal(moved[0, 1:, :-2], values[0, :-1, 2:])
    assert (moved[0, 0] == -1).all() and (moved[0, :, -2:] == -1).all()


def test_a_quarter_turn_is_clockwise():
    values = torch.arange(16).view(1, 4, 4)
    turned = Geometry(rotations(np.array([90.0]), (4, 4)), (4, 4)).nearest(values, -1)
    assert torch.equal(turned, torch.rot90(values, -1, (1, 2)))


def test_twice_as_large_shows_a_corner():
    values = torch.arange(16).view(1, 4, 4)
    for place, corner in (((0, 0), values[:, :2, :2]), ((1, 1), values[:, 2:, 2:])):
        found = Geometry(zooms(np.array([2.0]), np.array([place]), (4, 4)), (4, 4))
        expected = corner.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(found.nearest(values, -1), expected)
        assert found.zoom == pytest.approx([2.0])
    small = Geometry(zooms(np.array([0.5]), np.array([[1, 0]]), (4, 4)), (4, 4)).nearest(values, -1)
    assert (small[0, :2, 2:] >= 0).all() and (small[0, 2:] == -1).all() and (small[0, :, :2] == -1).all()


@st.composite
def geometries(draw):
    count = 3
    numbers = np.random.default_rng(draw(st.integers(0, 1000)))
    found = Geometry.unmoved(count, SIZE)
    for kind in draw(st.lists(st.sampled_from(["flip", "zoom", "turn", "shift"]), max_size=5)):
        found = found.then(
            {
                "flip": flips(numbers.random(count) < 0.5, SIZE[1]),
                "zoom": zooms(np.exp(numbers.normal(0, 0.3, count)), numbers.random((count, 2)), SIZE),
                "turn": rotations(numbers.uniform(-180, 180, count), SIZE),
                "shift": shifts(numbers.integers(-3, 4, count), numbers.integers(-3, 4, count)),
            }[kind]
        )
    return found


@given(geometries())
@settings(max_examples=60, deadline=None)
def test_points_move_as_what_they_show(geometry):
    points = np.random.default_rng(1).uniform(-2, 10, (3, 7, 2))
    after = geometry.points(points)
    back = np.einsum("bij,bnj->bni", geometry.matrices[:, :, :2], after) + geometry.matrices[:, None, :, 2]
    np.testing.assert_allclose(back, points, atol=1e-9)
    np.testing.assert_allclose(geometry.inverse.points(after), points, atol=1e-9)
    np.testing.assert_allclose(geometry.inverse.inverse.matrices, geometry.matrices, atol=1e-9)
    lengths = np.linalg.norm(after[:, 1] - after[:, 0], axis=1) / np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    np.testing.assert_allclose(lengths, geometry.zoom, rtol=1e-9)
    np.testing.assert_allclose(
        geometry.turns @ geometry.turns.transpose(0, 2, 1), np.tile(np.eye(2), (3, 1, 1)), atol=1e-9
    )
    moved = (after[:, 1] - after[:, 0]) / geometry.zoom[:, None]
    np.testing.assert_allclose(np.einsum("bij,bj->bi", geometry.turns, points[:, 1] - points[:, 0]), moved, atol=1e-9)


@given(
    flip=st.booleans(),
    crop=st.integers(0, 5),
    scale=st.sampled_from([None, (0.6, 1.8), (1.3, 1.3)]),
    rotate=st.sampled_from([0.0, 25.0, 180.0]),
    epoch=st.integers(0, 50),
)
@settings(max_examples=80, deadline=None)
def test_a_mask_stays_on_its_image_whatever_moves_it(flip, crop, scale, rotate, epoch):
    size, rows, draws = (24, 30), np.arange(6), Draws(3, epoch)
    augmentation = Augmentation(flip, crop, scale=scale, rotate=rotate)
    mask = smooth(6, size)
    images = (50 + 50 * mask)[:, None]
    moved = augmentation.apply(images, rows, draws)[:, 0]
    geometry = augmentation.geometry(rows, draws, size)
    assert (geometry is None) == (not augmentation.moves)
    after = mask if geometry is None else geometry.nearest(mask, 255)
    known = after != 255
    if scale is None and not rotate:
        assert torch.equal(moved[known], (50 + 50 * after)[known]), "whole pixels move exactly"
        assert (moved[~known] == 0).all()
    else:
        # Between two classes, and where black moves in, the image has means of both.
        inner = known & _alike(after)
        assert inner.float().mean() > 0.1 or not known.any()
        assert ((moved.int() - (50 + 50 * after.int())).abs()[inner] <= 1).all()
    assert bool(known.any())


def _alike(values):
    """Pixels all of whose neighbours have the same value."""
    padded = torch.nn.functional.pad(values[:, None].float(), (1, 1, 1, 1), value=-1)
    high = torch.nn.functional.max_pool2d(padded, 3, 1)[:, 0]
    low = -torch.nn.functional.max_pool2d(-padded, 3, 1)[:, 0]
    return high == low


def test_gentle_draws_neither_enlarge_nor_turn():
    rows, augmentation = np.arange(5), Augmentation(flip=True, crop=2, scale=(0.5, 2), rotate=30)
    gentle = augmentation.geometry(rows, Draws(0, 0, gentle=True), SIZE)
    plain = Augmentation(flip=True, crop=2).geometry(rows, Draws(0, 0), SIZE)
    np.testing.assert_array_equal(gentle.matrices, plain.matrices)
    assert Augmentation(scale=(0.5, 2)).geometry(rows, Draws(0, 0, gentle=True), SIZE) is None
    np.testing.assert_array_equal(gentle.select(np.array([3, 1])).matrices, plain.matrices[[3, 1]])


def test_zooms_cover_their_range_evenly_in_factors():
    zoom = Augmentation(scale=(0.5, 2)).geometry(np.arange(4000), Draws(0, 0), SIZE).zoom
    assert 0.5 <= zoom.min() < 0.51 and 1.96 < zoom.max() <= 2
    assert abs(np.log(zoom).mean()) < 0.03
