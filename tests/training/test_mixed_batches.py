"""Steps in which some tasks see mixed rows, and the others the rows as they are."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask import balancing
from polytask.data.batch import Batch
from polytask.data.mixing import Mixup
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.sharing.relations import Cascade
from polytask.tasks import Classification, MultiLabel, Regression
from polytask.training.balanced_step import BalancedStep
from polytask.training.mixed_batches import MixedBatches

ROWS = 12
CLASS_WEIGHTS = torch.tensor([1.0, 0.5, 3.0])


def model(relations=()):
    torch.manual_seed(0)
    tasks = [
        Classification("a", classes=3, class_weights={"1": 0.5, "2": 3.0}, label_smoothing=0.1),
        Classification("b", classes=2),
        MultiLabel("c", classes=["x", "y"]),
        Regression("d", mean=[1.0], std=[2.0]),
    ]
    return MultiTaskModel({"row": MLP(width=8, depth=2, shape=TabularShape(4))}, tasks, relations=relations).double()


def batch(masks=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = {
        "a": torch.randint(3, (ROWS,), generator=draw),
        "b": torch.randint(2, (ROWS,), generator=draw),
        "c": torch.randint(2, (ROWS, 2), generator=draw).double(),
        "d": torch.randn(ROWS, 1, generator=draw, dtype=torch.float64),
    }
    masks = masks or {task: torch.ones(target.shape).bool() for task, target in targets.items()}
    targets = {task: target * masks[task] for task, target in targets.items()}
    numeric = torch.randn(ROWS, 4, generator=draw, dtype=torch.float64)
    inputs = {"row": {"numeric": numeric, "categorical": torch.zeros(ROWS, 0).long()}}
    weights = {"a": 0.5 + torch.rand(ROWS, generator=draw, dtype=torch.float64)}
    return Batch.of(inputs, targets, masks, torch.arange(ROWS), weights)


@st.composite
def some_masks(draw):
    bits = lambda *shape: torch.tensor(  # noqa: E731
        draw(st.lists(st.booleans(), min_size=torch.Size(shape).numel(), max_size=torch.Size(shape).numel()))
    ).view(shape)
    return {"a": bits(ROWS), "b": bits(ROWS), "c": bits(ROWS, 2), "d": bits(ROWS, 1)}


def step_of(network, name="equal", **options):
    balancer = balancing.create(name, **options)
    balancer.prepare(network.task_names)
    return BalancedStep(network, balancer, dict.fromkeys(network.task_names, 1.0))


def gradients(batches, name="equal", **options):
    network = model()
    step = step_of(network, name, **options)
    found = step.backward(batches, network.shared_parameters(), None)
    return found.losses, [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]


def agree(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def by_hand(output, batch):
    """The loss of the task `a`, row by row, as it stands in `Mixing`."""
    above, below = torch.zeros(()).double(), torch.zeros(()).double()
    for labels, weights in ((batch, batch.weights), (batch.partners, batch.partners.weights)):
        for row in range(len(batch)):
            if labels.masks["a"][row]:
                answer = labels.targets["a"][row]
                logs = output[row].log_softmax(dim=0)
                wanted = 0.9 * F.one_hot(answer, 3) + 0.1 / 3
                above = above - weights["a"][row] * (CLASS_WEIGHTS * wanted * logs).sum()
                below = below + weights["a"][row] * CLASS_WEIGHTS[answer]
    return above / below


@settings(deadline=None, max_examples=25)
@given(masks=some_masks(), seed=st.integers(0, 1000))
def test_the_loss_is_that_of_the_formula(masks, seed):
    network = model()
    mixings = dict.fromkeys(["a", "b"], Mixup(alpha=1.0))
    mixed, *_ = MixedBatches(mixings, seed=seed).of([batch(masks)], step=3)
    if mixed.partners is None or not mixed.has("a"):
        assert not masks["a"].any()
        return
    output = network(mixed.inputs, ["a"])["a"]
    torch.testing.assert_close(network.losses(mixed)["a"], by_hand(output, mixed))


def test_where_all_rows_count_the_same_it_is_the_sum_of_two_losses():
    network, whole = model(), batch()
    (mixed, _) = MixedBatches({"b": Mixup(alpha=1.0), "c": Mixup(alpha=1.0)}, seed=1).of([whole], step=0)[:2]
    share = float(mixed.weights["b"][0])
    output = network(mixed.inputs, ["b"])["b"]
    expected = share * F.cross_entropy(output, mixed.targets["b"])
    expected = expected + (1 - share) * F.cross_entropy(output, mixed.partners.targets["b"])
    torch.testing.assert_close(network.losses(mixed)["b"], expected, rtol=1e-6, atol=1e-8)


def test_the_loss_of_several_labels_is_that_of_the_mean_label():
    # Binary cross-entropy is linear in the target, so that mixed labels of 0 and 1 are probabilities.
    network, whole = model(), batch()
    mixed, _ = MixedBatches({"c": Mixup(alpha=1.0)}, seed=2).of([whole], step=0)
    share = float(mixed.weights["c"][0])
    target = share * mixed.targets["c"] + (1 - share) * mixed.partners.targets["c"]
    expected = F.binary_cross_entropy_with_logits(network(mixed.inputs, ["c"])["c"], target)
    torch.testing.assert_close(network.losses(mixed)["c"], expected, rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(masks=some_masks(), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", ["equal", "upgrad"])
def test_a_share_of_1_is_the_plain_loss_and_gradient(name, masks, seed):
    whole = batch(masks)
    partners = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    losses, found = gradients([whole.paired(whole.inputs, partners, 1.0)], name)
    expected_losses, expected = gradients([whole], name)
    agree(losses.values(), expected_losses.values(), rtol=1e-9, atol=1e-12)
    agree(found, expected, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(masks=some_masks(), seed=st.integers(0, 1000))
def test_other_tasks_losses_are_those_of_the_rows_as_they_are(masks, seed):
    whole = batch(masks)
    mixings = {"a": Mixup(alpha=1.0), "b": Mixup(alpha=0.3)}
    parts = MixedBatches(mixings, seed=seed).of([whole], step=seed)
    losses, _ = gradients(parts)
    expected, _ = gradients([whole])
    assert list(losses) == list(expected)
    for task in ("c", "d"):
        if task in expected:
            torch.testing.assert_close(losses[task], expected[task].detach(), rtol=1e-9, atol=1e-12)
    # A task's head sees the rows that it has labels for, mixed with others that have labels for it.
    for task in ("a", "b"):
        assert sum(part.count(task) for part in parts) == whole.count(task)


def test_a_task_is_in_one_batch_and_equal_mixings_share_one():
    common, own = Mixup(alpha=1.0), Mixup(alpha=1.0)
    whole = batch()
    divided = lambda **mixings: [list(part.labelled) for part in MixedBatches(mixings, seed=0).of([whole], 0)]  # noqa: E731
    assert divided(a=common, b=common) == [["a", "b"], ["c", "d"]]
    assert divided(a=common, b=own) == [["a"], ["b"], ["c", "d"]]
    assert divided(d=common, b=own, a=common, c=own) == [["a", "d"], ["b", "c"]]
    assert divided() == [["a", "b", "c", "d"]]
    alone = whole.without(["b", "c", "d"])
    (only,) = MixedBatches({"a": common}, seed=0).of([alone], 0)
    assert only.partners is not None


def test_rows_are_computed_for_the_tasks_that_they_are_labelled_for():
    masks = {
        "a": torch.arange(ROWS) < 3,
        "b": torch.zeros(ROWS).bool(),
        "c": torch.zeros(ROWS, 2).bool(),
        "d": (torch.arange(ROWS) >= 3).unsqueeze(1),
    }
    mixed, plain = MixedBatches({"a": Mixup(), "b": Mixup()}, seed=0).of([batch(masks)], 0)
    assert mixed.rows.tolist() == [0, 1, 2]
    assert mixed.labelled == {"a": None}
    assert plain.rows.tolist() == list(range(3, ROWS))
    assert plain.partners is None


def test_without_a_label_the_batch_stays_as_it_is():
    nothing = {
        "a": torch.zeros(ROWS).bool(),
        "b": torch.ones(ROWS).bool(),
        "c": torch.zeros(ROWS, 2).bool(),
        "d": torch.ones(ROWS, 1).bool(),
    }
    whole = batch(nothing)
    assert MixedBatches({"a": Mixup()}, seed=0).of([whole], 0) == [whole]
    assert MixedBatches({"a": Mixup()}, seed=0).of([], 0) == []


def test_what_is_not_mixed_this_time_is_computed_with_the_others():
    mixings = {"a": Mixup(probability=0.5), "b": Mixup(probability=0.5)}
    whole = batch()
    divided = MixedBatches(mixings, seed=0)
    found = {tuple(tuple(part.labelled) for part in divided.of([whole], step)) for step in range(40)}
    everything = (("a", "b", "c", "d"),)
    assert found == {
        everything,
        (("a",), ("b", "c", "d")),
        (("b",), ("a", "c", "d")),
        (("a",), ("b",), ("c", "d")),
    }


def test_what_is_drawn_follows_from_seed_step_batch_and_tasks():
    whole, mixing = batch(), Mixup(alpha=1.0)

    def drawn(seed=0, step=0, number=0, tasks=("a",), batches=1):
        made = MixedBatches(dict.fromkeys(tasks, mixing), seed=seed).of([whole] * batches, step)
        return made[2 * number].inputs["row"]["numeric"]

    first = drawn()
    torch.manual_seed(3)
    assert torch.equal(first, drawn())
    assert torch.equal(first, drawn(batches=3))
    for other in (drawn(seed=1), drawn(step=1), drawn(number=1, batches=2), drawn(tasks=("a", "b"))):
        assert not torch.equal(first, other)
    # Negative seeds are seeds too, as for all that is drawn.
    assert not torch.equal(first, drawn(seed=-1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("equal", {}),
        ("uncertainty", {}),
        ("famo", {"same_batch": True}),
        ("upgrad", {}),
        ("nash_mtl", {}),
        ("db_mtl", {}),
        ("modo", {}),
        ("upgrad", {"batch_fraction": 0.5}),
    ],
)
def test_a_mixed_step_in_parts_is_the_same_step(name, options):
    whole = batch()
    parts = balancing.create(name, **options).batches
    mixed = MixedBatches({"a": Mixup(1.0), "b": Mixup(1.0)}, seed=0, parts=parts).of([whole], 0)
    losses, found = gradients(mixed, name, **options)
    assert list(losses) == ["a", "b", "c", "d"]
    assert any(gradient.any() for gradient in found)
    cut = [part.part(torch.arange(start, start + 6)) for part in mixed for start in (0, 6)]
    again, expected = gradients(cut, name, **options)
    agree(losses.values(), again.values(), rtol=1e-6, atol=1e-8)
    if "batch_fraction" not in options:  # which are the first rows of each batch
        agree(found, expected, rtol=1e-5, atol=1e-7)


def test_a_balancer_that_looks_back_sees_the_same_mixed_rows():
    network = model()
    step = step_of(network, "famo", same_batch=True)
    seen = []
    step.balancer.after_step = seen.append
    mixed = MixedBatches({"a": Mixup(1.0)}, seed=0).of([batch()], 0)
    found = step.backward(mixed, network.shared_parameters(), None)
    step.look_back(mixed)
    for task, loss in found.losses.items():
        torch.testing.assert_close(seen[0][task], loss.detach())


def test_tasks_that_are_computed_together_elsewhere_are_computed_one_by_one():
    torch.manual_seed(0)
    tasks = [Classification(f"t{number}", classes=2) for number in range(4)]
    network = MultiTaskModel({"row": MLP(width=8, depth=1, shape=TabularShape(4))}, tasks)
    inputs = {"row": {"numeric": torch.randn(ROWS, 4), "categorical": torch.zeros(ROWS, 0).long()}}
    targets = {task.name: torch.randint(2, (ROWS,)) for task in tasks}
    masks = {task.name: torch.rand(ROWS) < 0.7 for task in tasks}
    whole = Batch.of(inputs, targets, masks, torch.arange(ROWS))
    (mixed,) = MixedBatches(dict.fromkeys(targets, Mixup(1.0)), seed=0).of([whole], 0)
    together, alone = (network.objectives(mixed, together=each).losses for each in (True, False))
    agree(together.values(), alone.values())


def test_a_task_that_reads_another_reads_it_for_its_mixed_rows():
    network = model([Cascade(task="b", reads=["d"])])
    whole = batch()
    mixed, plain = MixedBatches({"b": Mixup(1.0)}, seed=0).of([whole], 0)
    assert list(network.losses(mixed)) == ["b"]
    torch.testing.assert_close(network.losses(plain)["d"], network.losses(whole)["d"])
    network.losses(mixed)["b"].backward()
    assert network.heads["d"].weight.grad is not None


def test_the_second_labels_weigh_what_their_own_rows_do():
    whole = batch()
    whole = replace(whole, weights={"a": torch.zeros(ROWS).index_fill(0, torch.tensor([2]), 1.0).double()})
    mixed, _ = MixedBatches({"a": Mixup(1.0)}, seed=0).of([whole], 0)
    (row,) = mixed.partners.weights["a"].nonzero().view(-1).tolist()
    assert mixed.partners.targets["a"][row] == whole.targets["a"][2]
    assert float(mixed.weights["a"][2] + mixed.partners.weights["a"][row]) == pytest.approx(1)
