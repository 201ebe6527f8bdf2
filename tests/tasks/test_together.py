"""Tasks of one kind, computed together, against one at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.tasks import Classification, MultiLabel, Regression
from polytask.tasks.together import is_plain_linear, losses_together, outputs_together

ROWS = 6

KINDS = {
    "classes": lambda i: Classification(f"t{i}", classes=3, label_smoothing=0.1),
    "labels": lambda i: MultiLabel(f"t{i}", classes=["x", "y"]),
    "numbers": lambda i: Regression(["u", "v"], name=f"t{i}", mean=[float(i), 1.0], std=[1.0 + i, 2.0], loss="huber"),
    "number": lambda i: Regression(f"t{i}", mean=[float(i)], std=[1.0 + i]),
}


def target_of(kind, draw):
    if kind == "classes":
        return torch.randint(3, (ROWS,), generator=draw)
    if kind == "labels":
        return torch.randint(2, (ROWS, 2), generator=draw).double()
    return 3 * torch.randn(ROWS, 1 if kind == "number" else 2, generator=draw, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    masked=st.lists(st.sampled_from(["none", "all", "some"]), min_size=2, max_size=4),
    weighted=st.booleans(),
    given_totals=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_losses_and_gradients_are_those_of_each_task_alone(kind, masked, weighted, given_totals, seed):
    draw = torch.Generator().manual_seed(seed)
    tasks = [KINDS[kind](i).double() for i in range(len(masked))]
    output = torch.randn(ROWS, len(tasks), tasks[0].outputs, generator=draw, dtype=torch.float64)
    targets = [target_of(kind, draw) for _ in tasks]
    masks, weights = [], []
    for target, how in zip(targets, masked, strict=True):
        mask = torch.rand(target.shape, generator=draw) < 0.5
        masks.append(None if how == "none" else mask | (how == "all"))
        heavy = weighted and bool(torch.rand((), generator=draw) < 0.7)
        weights.append(torch.rand(ROWS, generator=draw, dtype=torch.float64) if heavy else None)
    totals = [torch.tensor(7.0 + i, dtype=torch.float64) for i in range(len(tasks))] if given_totals else None

    together = output.clone().requires_grad_()
    found = losses_together(tasks, together, targets, masks, weights=weights, totals=totals)
    alone = output.clone().requires_grad_()
    expected = torch.stack(
        [
            task.loss(alone[:, i], targets[i], masks[i], weights[i], None if totals is None else totals[i])
            for i, task in enumerate(tasks)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    factors = torch.arange(1.0, 1.0 + len(tasks), dtype=torch.float64)
    (found * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-12, atol=1e-12)


def test_a_full_mask_counts_as_none():
    task, output, target = Regression("a"), torch.randn(4, 1), torch.randn(4, 1)
    torch.testing.assert_close(task.loss(output, target, None), task.loss(output, target, torch.ones(4, 1).bool()))
    assert task.total(target, None) == 4
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert task.total(target, None, weights) == 3
    torch.testing.assert_close(
        task.loss(output, target, None, weights), task.loss(output, target, torch.ones(4, 1).bool(), weights)
    )


def test_a_missing_label_with_an_infinite_loss_changes_nothing():
    tasks = [Regression("a"), Regression("b")]
    output = torch.tensor([[[1.0], [1.0]], [[torch.inf], [1.0]]])
    masks = [torch.tensor([[True], [False]]), None]
    losses = losses_together(tasks, output, [torch.zeros(2, 1)] * 2, masks, weights=[None, None])
    assert losses.tolist() == [1.0, 1.0]


def test_heads_together_give_what_each_gives():
    heads = [nn.Linear(5, 3) for _ in range(4)]
    features = torch.randn(7, 5)
    expected = torch.stack([head(features) for head in heads], dim=1)
    torch.testing.assert_close(outputs_together(heads, features), expected)


def test_what_is_more_than_a_linear_map_is_left_alone():
    class Own(nn.Linear):
        pass

    heard = nn.Linear(2, 2)
    heard.register_forward_hook(lambda *_: None)
    assert is_plain_linear(nn.Linear(2, 2))
    assert not any(map(is_plain_linear, [Own(2, 2), heard, nn.Sequential(nn.Linear(2, 2))]))
    assert not is_plain_linear(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Classification("a", classes=2), Classification("b", classes=3)),
        (Classification("a", classes=2), Classification("b", classes=2, label_smoothing=0.1)),
        (Regression("a"), Regression("b", loss="l1")),
        (Regression("a", loss="huber"), Regression("b", loss="huber", delta=2.0)),
        (Classification("a", classes=2), MultiLabel("b", classes=["x", "y"])),
    ],
)
def test_tasks_that_compute_otherwise_are_no_kin(one, other):
    assert one.kin is not None
    assert one.kin != other.kin


def test_a_class_of_the_users_own_has_no_kin():
    class Own(Regression):
        def entries(self, output, target):
            return super().entries(output, target) * 2

    assert Own("a").kin is None
    assert Classification("a", classes=2, class_weights={"0": 2.0}).kin is None
    with pytest.raises(NotImplementedError, match="Own"):
        super(Regression, Own("a")).entries_of_kin([], torch.zeros(()), torch.zeros(()))
