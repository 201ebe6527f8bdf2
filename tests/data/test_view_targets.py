"""What is made of inputs for tasks that need no labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.corrupted_target import blanked, donors, swapped
from polytask.data.image_versions import ImageVersions
from polytask.data.inputs import TabularInput, TextInput
from polytask.data.inputs.draws import Draws
from polytask.data.preparation import Preparation
from polytask.data.request import Request
from polytask.data.rotation_target import turned
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec
from polytask.partial import PartialInput

ROWS = 60
KINDS = {
    "masked_tokens": {"share": 0.15},
    "mask": {"kind": "corrupted", "share": 0.3, "corruption": "mask"},
    "swap": {"kind": "corrupted", "share": 0.3, "corruption": "swap"},
    "contrast": {"share": 0.4},
}


def spec(kind: str, **more) -> TargetSpec:
    return TargetSpec(columns=(), **{"kind": kind, **KINDS.get(kind, {}), **more})


@pytest.fixture
def table() -> Table:
    draw = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(40)])
    return Table.of(
        pd.DataFrame(
            {
                "text": [" ".join(draw.choice(words, size)) for size in draw.integers(1, 25, ROWS)],
                "a": draw.normal(size=ROWS),
                "b": draw.normal(5, 2, ROWS),
                "city": draw.choice(["Ulm", "Jena", "Bonn"], ROWS),
            }
        ),
        "table",
    )


def inputs(several: bool = False):
    text, row = TextInput("text", tokenizer="words", buckets=500, length=20), TabularInput(["a", "b", "city"])
    return {"text": text, "row": row} if several else {"row": row}


def loader(table, made, targets, rows=None, **options):
    fitted = Preparation.fit(table, np.arange(len(table)), made, targets)
    return fitted, fitted.loader(table, rows, batch_size=16, **options)


def same(one, other) -> bool:
    if isinstance(one, dict):
        return all(same(one[name], other[name]) for name in one)
    return torch.equal(one, other)


@pytest.mark.parametrize("kind", ["mask", "swap", "contrast", "masked_tokens"])
def test_rows_outside_of_training_are_always_changed_in_the_same_way(table, kind):
    made = {"text": inputs(True)["text"]} if kind == "masked_tokens" else inputs()
    _, batches = loader(table, made, {"own": spec(kind)})
    for one, other in zip(batches, batches, strict=True):
        assert same(dict(one.views["own"][0]), dict(other.views["own"][0]))
        assert torch.equal(one.targets["own"], other.targets["own"])
        assert one.labelled["own"] is None


@pytest.mark.parametrize("kind", ["mask", "contrast", "masked_tokens"])
def test_training_rows_follow_from_seed_epoch_and_row(table, kind):
    made = {"text": inputs(True)["text"]} if kind == "masked_tokens" else inputs()
    (name,) = made
    fitted, _ = loader(table, made, {"own": spec(kind)})
    found = {}
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        encoded = fitted.loader(table, batch_size=8, training=True, seed=seed).encoded
        one, other = (encoded[Request(epoch, np.array(rows))].batch.views["own"] for rows in ([3, 4, 5], [9, 5, 3]))
        if kind != "contrast":  # which values come from other rows is the same, but the other rows are others
            tensors = ["ids"] if kind == "masked_tokens" else ["numeric", "categorical"]
            for tensor in tensors:
                first, second = one[0][name][tensor], other[0][name][tensor]
                width = min(first.shape[1], second.shape[1])
                assert torch.equal(first[[0, 2], :width], second[[2, 1], :width])
        found[seed, epoch] = one[0][name]
    assert not same(found[0, 0], found[0, 1])
    assert not same(found[0, 0], found[1, 0])


def test_tokens_are_changed_only_where_they_are_to_be_told(table):
    source = inputs(True)["text"]
    _, batches = loader(table, {"text": source}, {"own": spec("masked_tokens")})
    for batch in batches:
        plain, (version,) = batch.inputs["text"]["ids"], batch.views["own"]
        target, mask = batch.targets["own"], batch.masks["own"]
        assert target.shape == (*mask.shape, 2) and mask.shape[1] == 3
        sizes = batch.inputs["text"]["mask"].sum(1)
        assert torch.equal(mask.sum(1), (0.15 * sizes + 0.5).floor().clamp(min=1).long())
        told = torch.zeros_like(plain, dtype=torch.bool)
        for row, (pairs, there) in enumerate(zip(target, mask, strict=True)):
            places = pairs[there][:, 0]
            assert len(set(places.tolist())) == len(places)
            told[row, places] = True
            assert torch.equal(plain[row, places], pairs[there][:, 1])
        assert torch.equal(version["text"]["ids"][~told], plain[~told])
        assert batch.inputs["text"]["mask"][told].all()


def test_tokens_are_hidden_replaced_and_kept_as_in_bert():
    words = [" ".join(f"word{number}" for number in np.random.default_rng(row).permutation(300)) for row in range(60)]
    source = TextInput("text", tokenizer="words", buckets=50_000, length=300)
    table = Table.of(pd.DataFrame({"text": words}), "table")
    _, batches = loader(table, {"text": source}, {"own": spec("masked_tokens")})
    shown = {"hidden": 0, "kept": 0, "replaced": 0}
    for batch in batches:
        target, mask = batch.targets["own"], batch.masks["own"]
        rows, _ = mask.nonzero(as_tuple=True)
        places, ids = target[mask].T
        now = batch.views["own"][0]["text"]["ids"][rows, places]
        shown["hidden"] += int((now == source.hiding).sum())
        shown["kept"] += int((now == ids).sum())
        shown["replaced"] += int(((now != ids) & (now != source.hiding)).sum())
    total = sum(shown.values())
    assert total == 60 * 45
    assert shown["hidden"] / total == pytest.approx(0.8, abs=0.03)
    assert shown["kept"] / total == pytest.approx(0.1, abs=0.02)
    assert shown["replaced"] / total == pytest.approx(0.1, abs=0.02)


def test_a_pretrained_tokenizers_mask_and_special_tokens_are_its_own(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {name: number for number, name in enumerate(["[PAD]", "[CLS]", "[MASK]", "a", "b", "[UNK]"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[CLS]", "[MASK]", "[UNK]"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    source = TextInput("text", tokenizer=str(path), length=8)
    table = Table.of(pd.DataFrame({"text": ["a b a b a"] * 30}), "table")
    _, batches = loader(table, {"text": source}, {"own": spec("masked_tokens", share=0.5)})
    assert source.hiding == 2 and source.special == {0, 1, 2, 5}
    for batch in batches:
        ids = batch.views["own"][0]["text"]["ids"]
        assert (ids[:, 0] == 1).all()
        assert set(ids.unique().tolist()) <= {1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["mask", "swap"])
def test_what_is_to_be_restored_is_the_row_as_it_was(table, kind):
    _, batches = loader(table, inputs(), {"own": spec(kind)})
    changed = total = 0
    for batch in batches:
        row, version = batch.inputs["row"], batch.views["own"][0]["row"]
        whole = torch.cat([row["numeric"], row["categorical"].float()], dim=1)
        assert torch.equal(batch.targets["own"], whole)
        assert batch.masks["own"].all()
        other = torch.cat([version["numeric"], version["categorical"].float()], dim=1)
        if kind == "mask":
            assert (other[other != whole] == 0).all()
        else:
            for column in range(whole.shape[1]):
                assert set(other[:, column].tolist()) <= set(whole[:, column].tolist())
        changed, total = changed + int((other != whole)[:, :2].sum()), total + 2 * len(batch)
    assert changed / total == pytest.approx(0.3, abs=0.12)


def test_rows_without_the_input_are_not_labelled_and_lack_the_view(table):
    frame = table.take(None).to_pandas()
    frame.loc[frame.index % 3 == 0, ["a", "b", "city"]] = None
    made = Table.of(frame, "table")
    fitted, batches = loader(made, inputs(True), {"own": spec("swap")})
    assert fitted.targets["own"].summary.labelled == ROWS * 2 // 3
    assert batches.encoded.labelled("own").tolist() == [row % 3 != 0 for row in range(ROWS)]
    for batch in batches:
        there = (batch.rows % 3 != 0).nonzero().squeeze(1)
        assert torch.equal(batch.labelled["own"], there)
        ((version,),) = (tuple(each.values()) for each in batch.views["own"])
        assert isinstance(version, PartialInput) and torch.equal(version.rows, there)
        assert not batch.masks["own"][batch.rows % 3 == 0].any()
        fewer = batch.only(["own"])
        assert fewer.labelled["own"] is None
        assert torch.equal(fewer.targets["own"], batch.targets["own"][there])
        assert torch.equal(fewer.views["own"][0]["row"].values["numeric"], version.values["numeric"])
        assert "own" not in batch.without(["own"]).views
        part = batch.part(there[:2])
        assert torch.equal(part.views["own"][0]["row"].values["numeric"], version.values["numeric"][:2])


def test_a_saved_preparation_makes_the_same(table):
    fitted, batches = loader(table, inputs(True), {"own": spec("masked_tokens"), "pair": spec("contrast")})
    again = Preparation.from_state(fitted.state_dict(), inputs(True))
    for one, other in zip(batches, again.loader(table, batch_size=16), strict=True):
        for task in ("own", "pair"):
            assert len(one.views[task]) == (2 if task == "pair" else 1)
            for mine, its in zip(one.views[task], other.views[task], strict=True):
                assert same(dict(mine), dict(its))


def test_mixed_rows_leave_them_as_they_are(table):
    _, batches = loader(table, inputs(), {"own": spec("mask"), "label": TargetSpec("category", ("text",))})
    batch = next(iter(batches))
    paired = batch.paired(batch.inputs, torch.arange(len(batch)).flip(0), 0.7)
    assert "own" not in paired.partners.targets and "own" not in paired.weights
    assert paired.labelled["own"] is None
    assert paired.views is batch.views


def test_inputs_are_named_where_there_are_several_and_refused_where_they_do_not_suit(table):
    two = {"row": TabularInput(["a"]), "more": TabularInput(["b"])}
    with pytest.raises(UserError, match=r"there are several: 'row', 'more'\. Name one: input: NAME"):
        loader(table, two, {"own": spec("mask")})
    fitted, _ = loader(table, two, {"own": spec("mask", input="more")})
    assert fitted.targets["own"].views_of == "more"
    with pytest.raises(UserError, match="is for image and learns from such an input, but there is none"):
        loader(table, inputs(), {"own": spec("rotation")})
    with pytest.raises(UserError, match="Take ngrams out of"):
        loader(table, {"text": TextInput("text", tokenizer="words", ngrams=2)}, {"own": spec("masked_tokens")})


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 6), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_turning_images_on_gives_them_back(size, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    images, turns = torch.rand(rows, 2, size, size, generator=draw), torch.randint(4, (rows,), generator=draw)
    once = turned(images, turns)
    assert torch.equal(turned(once, 4 - turns), images)
    for image, new, quarters in zip(images, once, turns.tolist(), strict=True):
        assert np.array_equal(np.rot90(image.numpy(), quarters, (1, 2)), new.numpy())


@settings(max_examples=25, deadline=None)
@given(height=st.integers(2, 12), width=st.integers(2, 12), seed=st.integers(0, 99))
def test_cells_of_images_are_blanked_and_nothing_else(height, width, seed):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, height, width, generator=draw) + 1
    cells = torch.rand(2, 4, 4, generator=draw) < 0.5
    found = blanked(images, cells)
    assert ((found == 0) | (found == images)).all()
    for row in range(2):
        for y in range(height):
            for x in range(width):
                assert bool((found[row, :, y, x] == 0).all()) == bool(cells[row, y * 4 // height, x * 4 // width])


def test_values_are_swapped_where_they_are_chosen():
    draws = Draws(0, 0)
    rows = np.arange(50)
    value = {"numeric": torch.arange(100.0).view(50, 2), "categorical": torch.arange(50).view(50, 1)}
    others = donors(rows, draws, 1, 3)
    assert others.min() >= 0 and others.max() < 50 and len(others.unique()) > 25
    chosen = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    found = swapped(value, chosen, others)
    whole, new = (torch.cat([each["numeric"], each["categorical"].float()], dim=1) for each in (value, found))
    assert torch.equal(new[~chosen], whole[~chosen])
    assert torch.equal(new[chosen], whole.gather(0, others)[chosen])


def test_a_version_of_an_image_without_a_part_or_colours_is_the_image_or_its_mirror():
    images = torch.rand(20, 3, 7, 9)
    versions = ImageVersions(1.0, 0.0, [0.5] * 3, [0.25] * 3)
    found = versions.of(images, lambda stream: Draws(0, 0).uniform(np.arange(20), stream))
    mirrored = [torch.allclose(new, old.flip(-1), atol=1e-5) for new, old in zip(found, images, strict=True)]
    same = [torch.allclose(new, old, atol=1e-5) for new, old in zip(found, images, strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert 4 < sum(mirrored) < 16


@settings(max_examples=20, deadline=None)
@given(area=st.floats(0.05, 1), color=st.floats(0, 1), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_versions_of_images_stay_within_what_pixels_can_be(area, color, channels, seed):
    mean, std = [0.4] * channels, [0.2] * channels
    pixels = torch.rand(6, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    versions = ImageVersions(area, color, mean, std)
    found = versions.of((pixels - 0.4) / 0.2, lambda stream: Draws(seed, 0).uniform(np.arange(6), stream))
    assert found.shape == pixels.shape and found.isfinite().all()
    back = found * 0.2 + 0.4
    assert back.min() > -1e-5 and back.max() < 1 + 1e-5


def test_the_grid_of_draws_does_not_depend_on_its_width():
    rows = np.array([3, 8, 1])
    wide, narrow = (Draws(5, 2).grid(rows, 7, columns) for columns in (200, 3))
    assert np.array_equal(wide[:, :3], narrow)
    assert abs(wide.mean() - 0.5) < 0.05
    assert np.array_equal(Draws(5, 2).grid(rows[::-1], 7, 3), narrow[::-1])


def test_a_description_goes_through_plain_values(table):
    fitted, _ = loader(table, inputs(), {"own": spec("swap")})
    target = fitted.targets["own"]
    again = Preparation.from_state(fitted.state_dict(), inputs()).targets["own"]
    assert again.spec == replace(target.spec, input="row")
    assert again.summary == target.summary or again.summary.counts == tuple(target.summary.counts)
