"""What counts in a step: labelled rows, all of the step's, and nothing else."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask import balancing
from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, MultiLabel, Regression
from polytask.training.balanced_step import BalancedStep

ROWS = 12


def model():
    torch.manual_seed(0)
    tasks = [
        Classification("a", classes=3, counts=[5, 5, 2], class_weights="balanced", label_smoothing=0.1),
        Regression(["b1", "b2"], name="b", mean=[0.0, 1.0], std=[5.0, 2.0]),
        MultiLabel("c", classes=["x", "y"]),
    ]
    return MultiTaskModel({"row": MLP(width=8, depth=2, shape=TabularShape(4))}, tasks).double()


def batch(masks, seed=0):
    draw = torch.Generator().manual_seed(seed)
    numeric = torch.randn(ROWS, 4, generator=draw, dtype=torch.float64)
    inputs = {"row": {"numeric": numeric, "categorical": torch.zeros(ROWS, 0).long()}}
    targets = {
        "a": torch.randint(3, (ROWS,), generator=draw),
        "b": torch.randn(ROWS, 2, generator=draw, dtype=torch.float64),
        "c": torch.randint(2, (ROWS, 2), generator=draw).double(),
    }
    targets = {task: target * masks[task] for task, target in targets.items()}
    weights = {"b": torch.rand(ROWS, generator=draw, dtype=torch.float64)}
    return Batch.of(inputs, targets, masks, torch.arange(ROWS), weights)


@st.composite
def some_masks(draw):
    bits = lambda count: torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))  # noqa: E731
    return {"a": bits(ROWS), "b": bits(2 * ROWS).view(ROWS, 2), "c": bits(2 * ROWS).view(ROWS, 2)}


def gradients(batches, name="equal", **options):
    network = model()
    balancer = balancing.create(name, **options)
    balancer.prepare(network.task_names)
    step = BalancedStep(network, balancer, {"a": 1.0, "b": 0.5, "c": 2.0})
    found = step.backward(batches, network.shared_parameters(), None)
    zeros = [torch.zeros_like(parameter) for parameter in network.parameters()]
    return found, [z if p.grad is None else p.grad for p, z in zip(network.parameters(), zeros, strict=True)]


@settings(deadline=None, max_examples=15)
@given(masks=some_masks(), cuts=st.sets(st.integers(1, ROWS - 1), max_size=3))
@pytest.mark.parametrize("name", ["equal", "uncertainty", "upgrad", "nash_mtl", "db_mtl"])
def test_several_batches_give_the_gradient_of_one_batch_of_all_their_rows(name, masks, cuts):
    whole = batch(masks)
    bounds = [0, *sorted(cuts), ROWS]
    parts = [whole.part(torch.arange(start, end)) for start, end in itertools.pairwise(bounds)]
    together, expected = gradients([whole], name)
    apart, found = gradients(parts, name)
    assert list(apart.losses) == list(together.losses)
    for task, loss in together.losses.items():
        torch.testing.assert_close(apart.losses[task], loss.detach(), rtol=1e-9, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("modo", {}), ("sdmgrad", {}), ("upgrad", {"batch_fraction": 0.5})])
def test_methods_that_take_independent_batches_or_a_part_have_them_from_all_batches(name, options):
    everything = {"a": torch.ones(ROWS).bool(), "b": torch.ones(ROWS, 2).bool(), "c": torch.ones(ROWS, 2).bool()}
    whole = batch(everything)
    parts = [whole.part(torch.arange(start, start + 6)) for start in (0, 6)]
    together, apart = gradients([whole], name, **options), gradients(parts, name, **options)
    assert apart[0].losses.keys() == together[0].losses.keys()
    if name != "upgrad":  # its parts are the first rows of each batch
        for one, other in zip(apart[1], together[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(masks=some_masks())
@pytest.mark.parametrize("name", ["equal", "upgrad"])
def test_unlabelled_rows_change_no_gradient(name, masks):
    whole = batch(masks)
    labelled = masks["a"] | masks["b"].any(dim=1) | masks["c"].any(dim=1)
    found, expected = gradients([whole], name)
    if labelled.any():
        less, fewer = gradients([whole.part(labelled.nonzero().squeeze(1))], name)
        assert list(less.losses) == list(found.losses)
        for one, other in zip(fewer, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    else:
        assert not found.losses


@pytest.mark.parametrize("name", ["equal", "upgrad"])
def test_a_row_for_each_label_gives_the_gradients_of_rows_with_several(name):
    everything = {"a": torch.ones(ROWS).bool(), "b": torch.ones(ROWS, 2).bool(), "c": torch.ones(ROWS, 2).bool()}
    joined = batch(everything)
    nothing = {task: torch.zeros_like(mask) for task, mask in everything.items()}
    parts = [batch({**nothing, task: mask}) for task, mask in everything.items()]

    def stacked(pick):
        return {key: torch.cat([pick(part)[key] for part in parts]) for key in pick(parts[0])}

    disjoint = Batch.of(
        {"row": stacked(lambda part: part.inputs["row"])},
        stacked(lambda part: part.targets),
        stacked(lambda part: part.masks),
        torch.arange(3 * ROWS),
        stacked(lambda part: part.weights),
    )
    for one, other in zip(gradients([disjoint], name)[1], gradients([joined], name)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_a_row_of_twice_the_weight_counts_as_two_rows():
    task = Regression("b", mean=[0.0], std=[1.0])
    output, target = torch.randn(3, 1), torch.randn(3, 1)
    mask = torch.tensor([[True], [True], [False]])
    weighted = task.loss(output, target, mask, torch.tensor([2.0, 1.0, 5.0]))
    rows = torch.tensor([0, 0, 1])
    torch.testing.assert_close(weighted, task.loss(output[rows], target[rows], torch.ones(3, 1).bool()))


def test_rows_that_all_count_nothing_have_a_loss_of_zero():
    task = Classification("a", classes=2)
    loss = task.loss(torch.randn(2, 2), torch.tensor([0, 1]), torch.ones(2).bool(), torch.zeros(2))
    assert loss == 0


def test_a_step_without_any_batch_does_nothing():
    found, each = gradients([])
    assert not found.losses
    assert not any(gradient.any() for gradient in each)


@pytest.mark.parametrize("name", ["equal", "static"])
def test_a_task_that_the_last_batch_lacks_has_its_weight_all_the_same(name):
    options = {"weights": {"a": 3.0, "b": 1.0, "c": 1.0}} if name == "static" else {}
    masks = {"a": torch.arange(ROWS) < 4, "b": torch.ones(ROWS, 2).bool(), "c": torch.zeros(ROWS, 2).bool()}
    whole = batch(masks)
    network = model()
    balancer = balancing.create(name, **options)
    balancer.prepare(network.task_names)
    step = BalancedStep(network, balancer, {"a": 2.0, "b": 0.5, "c": 1.0})
    parts = [whole.part(torch.arange(start, start + 6)) for start in (0, 6)]
    found = step.backward(parts, network.shared_parameters(), None)
    assert balancer.last.tasks == tuple(found.losses) == ("a", "b")
    assert balancer.last.weight_values.tolist() == ([3.0, 1.0] if name == "static" else [1.0, 1.0])
    torch.testing.assert_close(balancer.last.losses["a"], 2 * found.losses["a"])
