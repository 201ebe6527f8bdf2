"""What is made of batches: fewer rows, fewer tasks, rows with a second label."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.data.batch import Batch

ROWS = 6


def batch(first, second, weights=None) -> Batch:
    """Two tasks, given their masks; the second has two entries a row."""
    masks = {"a": torch.tensor(first), "b": torch.tensor(second).unsqueeze(1).expand(-1, 2)}
    targets = {"a": torch.arange(len(first)) * masks["a"], "b": torch.ones(len(first), 2) * masks["b"]}
    inputs = {"row": {"numeric": torch.arange(2.0 * len(first)).view(-1, 2)}}
    return Batch.of(inputs, targets, masks, 10 + torch.arange(len(first)), weights or {})


masks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=ROWS)


@given(masks)
def test_only_keeps_the_rows_that_are_labelled_for_any_of_the_tasks(labelled):
    first, second = (list(each) for each in zip(*labelled, strict=True))
    whole = batch(first, second, {"a": torch.arange(float(len(first)))})
    for tasks, wanted in (
        (["a"], whole.masks["a"]),
        (["b"], whole.masks["b"].any(dim=1)),
        (["a", "b"], whole.masks["a"] | whole.masks["b"].any(dim=1)),
    ):
        found, expected = whole.only(tasks), whole.part(wanted.nonzero().squeeze(1))
        assert list(found.labelled) == tasks
        assert torch.equal(found.rows, expected.rows)
        assert torch.equal(found.inputs["row"]["numeric"], expected.inputs["row"]["numeric"])
        assert list(found.weights) == (["a"] if "a" in tasks else [])
        for task in tasks:
            assert torch.equal(found.targets[task], expected.targets[task])
            assert found.count(task) == whole.count(task)
            rows = found.labelled[task]
            known = torch.arange(len(found)) if rows is None else rows
            assert torch.equal(found.rows[known], whole.rows[whole.masks[task].view(len(first), -1).any(dim=1)])


def test_only_of_no_task_keeps_the_rows():
    assert len(batch([True, False], [True, True]).only([])) == 2


@given(masks, st.randoms())
def test_a_pair_has_a_label_where_either_row_has_one(labelled, random):
    first, second = (list(each) for each in zip(*labelled, strict=True))
    order = list(range(len(first)))
    random.shuffle(order)
    partners = torch.tensor(order)
    whole = batch(first, second, {"a": 1 + torch.arange(float(len(first)))})
    paired = whole.paired(whole.inputs, partners, 0.75)
    for task in ("a", "b"):
        mask = whole.masks[task].view(len(first), -1).any(dim=1)
        rows = paired.labelled[task]
        known = torch.arange(len(first)) if rows is None else rows
        assert torch.equal(known, (mask | mask[partners]).nonzero().squeeze(1))
        assert torch.equal(paired.partners.targets[task], whole.targets[task][partners])
        assert torch.equal(paired.partners.masks[task], whole.masks[task][partners])
    assert torch.equal(paired.weights["a"], 0.75 * whole.weights["a"])
    assert torch.equal(paired.partners.weights["a"], 0.25 * whole.weights["a"][partners])
    assert torch.equal(paired.weights["b"], torch.full((len(first),), 0.75))
    assert torch.equal(paired.partners.weights["b"], torch.full((len(first),), 0.25))


def test_what_is_made_of_pairs_keeps_their_second_labels():
    whole = batch([True, False, True, False], [True, True, False, False])
    paired = whole.paired(whole.inputs, torch.tensor([1, 0, 3, 2]), 0.5)
    part = paired.part(torch.tensor([1, 3]))
    assert part.labelled["a"] is None, "the second row has no label, but its partner has"
    assert part.labelled["b"].tolist() == [0]
    assert part.partners.targets["a"].tolist() == [0, 2]
    assert part.partners.masks["a"].tolist() == [True, True]
    assert len(part.partners.weights["a"]) == 2
    less = paired.without(["a"])
    assert list(less.partners.targets) == list(less.partners.masks) == list(less.partners.weights) == ["b"]
    moved = paired.to("meta")
    assert moved.partners.targets["a"].device.type == moved.partners.weights["b"].device.type == "meta"
    assert list(paired.only(["b"]).partners.targets) == ["b"]
    assert len(paired.only(["b"]).partners.weights["b"]) == 2
