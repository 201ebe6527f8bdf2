"""Mixup and CutMix: what becomes of rows, labels and shares."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import mixing
from polytask.data.batch import Batch
from polytask.data.mixing import CutMix, Mixup
from polytask.errors import UserError
from polytask.shapes import ImageShape, TabularShape


def draw(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


def batch(inputs) -> Batch:
    rows = len(next(iter(inputs.values())))
    return Batch.of(inputs, {"kind": torch.arange(rows)}, {"kind": torch.ones(rows).bool()}, torch.arange(rows))


def shares_of(mixed: Batch) -> tuple[float, float]:
    """The two shares, which are the same in all rows."""
    own, other = mixed.weights["kind"], mixed.partners.weights["kind"]
    assert (own == own[0]).all() and (other == other[0]).all()
    return float(own[0]), float(other[0])


def test_mixup_takes_the_means_of_two_rows_and_of_their_labels():
    images = torch.rand(8, 3, 5, 4)
    table = {"numeric": torch.randn(8, 3), "categorical": torch.zeros(8, 0).long()}
    whole = Batch.of(
        {"image": images, "row": table}, {"kind": torch.arange(8)}, {"kind": torch.ones(8).bool()}, torch.arange(8)
    )
    mixed = Mixup(alpha=1.0).mix(whole, draw(3))
    share, rest = shares_of(mixed)
    assert 0 < share < 1
    assert share + rest == pytest.approx(1)
    partners = mixed.partners.targets["kind"]
    assert sorted(partners.tolist()) == list(range(8))
    assert partners.tolist() != list(range(8))
    torch.testing.assert_close(mixed.inputs["image"], share * images + rest * images[partners])
    expected = share * table["numeric"] + rest * table["numeric"][partners]
    torch.testing.assert_close(mixed.inputs["row"]["numeric"], expected)
    assert mixed.inputs["row"]["categorical"].shape == (8, 0)
    assert torch.equal(mixed.targets["kind"], whole.targets["kind"])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    alpha=st.sampled_from([0.1, 1.0, 20.0]),
)
def test_cutmix_gives_labels_exactly_the_area_that_their_image_has(seed, height, width, alpha):
    # Each image has one value everywhere, so that each pixel says where it is from.
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, height, width).contiguous()
    before = images.clone()
    partners = torch.tensor([1, 2, 3, 4, 0])
    mixed, share = CutMix(alpha).blend({"image": images}, partners, draw(seed))
    assert torch.equal(images, before), "other tasks see these images"
    foreign = mixed["image"] != before
    assert torch.equal(mixed["image"][foreign], before[partners][foreign])
    area = foreign[:, 0].float().mean(dim=(1, 2))
    assert torch.equal(foreign[:, 0], foreign[:, 1]), "all channels have the same box"
    assert (area - (1 - share)).abs().max() < 1e-6
    rows, columns = foreign[0, 0].any(dim=1).sum(), foreign[0, 0].any(dim=0).sum()
    assert rows * columns == foreign[0, 0].sum(), "what is replaced is a box"
    # Its sides are those of the wanted share, rounded down, or less where the image ends.
    side = math.sqrt(1 - CutMix(alpha).draw_share(draw(seed)))
    assert rows <= int(height * side) and columns <= int(width * side)


def test_the_share_is_drawn_from_the_beta_distribution():
    for made, expected in ((Mixup(), 0.2), (CutMix(), 1.0), (Mixup(alpha=3.0), 3.0)):
        shares = [made.draw_share(draw(seed)) for seed in range(4000)]
        assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * expected + 1)), rel=0.1)


def test_probability_is_the_share_of_batches_that_are_mixed():
    rare = Mixup(probability=0.3)
    assert np.mean([rare.applies(draw(seed)) for seed in range(4000)]) == pytest.approx(0.3, abs=0.03)
    assert all(Mixup().applies(draw(seed)) for seed in range(100))


@pytest.mark.parametrize("made", [Mixup(1.0), CutMix()])
@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_the_share_does_not_depend_on_the_number_of_rows(made, rows):
    many = batch({"image": torch.rand(30, 1, 8, 8)})
    few = many.part(torch.arange(rows))
    mixed = made.mix(few, draw(5))
    assert len(mixed) == rows
    if rows:
        assert shares_of(mixed) == shares_of(made.mix(many, draw(5)))
    if rows == 1:
        torch.testing.assert_close(mixed.inputs["image"], few.inputs["image"])


@given(rows=st.integers(0, 20), parts=st.integers(1, 4), seed=st.integers(0, 100))
def test_partners_are_of_the_same_part(rows, parts, seed):
    whole = batch({"image": torch.zeros(rows, 1, 2, 2)})
    mixed = Mixup().mix(whole, draw(seed), parts=parts)
    partners = mixed.partners.targets["kind"]
    assert sorted(partners.tolist()) == list(range(rows))
    assert torch.equal(partners % parts, torch.arange(rows) % parts)


def test_it_follows_from_the_random_numbers_alone():
    whole = batch({"image": torch.rand(6, 1, 4, 4)})
    for made in (Mixup(1.0), CutMix()):
        one, again, other = (made.mix(whole, draw(seed)) for seed in (1, 1, 2))
        torch.manual_seed(9)
        assert torch.equal(one.inputs["image"], again.inputs["image"])
        assert torch.equal(one.weights["kind"], again.weights["kind"])
        assert not torch.equal(one.inputs["image"], other.inputs["image"])


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mixup", {"alpha": 0.0}, "alpha is 0, but must be above 0"),
        ("mixup", {"alpha": math.inf}, "alpha is inf"),
        ("cutmix", {"alpha": -1.0}, "alpha is -1"),
        ("cutmix", {"probability": 0.0}, "probability is 0, but must be above 0 and at most 1"),
        ("mixup", {"probability": 1.5}, "probability is 1.5"),
        ("mixap", {}, "There is no mixing 'mixap'. Did you mean 'mixup'"),
    ],
)
def test_what_is_out_of_range_is_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        mixing.create(name, **parameters)


def test_inputs_that_cannot_be_mixed_are_refused():
    assert Mixup.refusal("scan", "image") is None and Mixup.refusal("row", "tabular") is None
    assert CutMix.refusal("scan", "image") is None
    assert "the input 'review' (text) cannot be mixed" in Mixup.refusal("review", "text")
    assert "'row' (tabular) cannot be mixed: cutmix replaces a box" in CutMix.refusal("row", "tabular")
    Mixup().check({"row": TabularShape(3), "scan": ImageShape()})
    with pytest.raises(UserError, match="'row' cannot be mixed: .* 2 of its columns have categories"):
        Mixup().check({"row": TabularShape(3, (4, 5))})
    CutMix().check({"scan": ImageShape(3, 8, 8), "depth": ImageShape(1, 8, 8)})
    with pytest.raises(UserError, match="'scan', 'depth' have images of several sizes"):
        CutMix().check({"scan": ImageShape(3, 8, 8), "depth": ImageShape(1, 4, 8)})
