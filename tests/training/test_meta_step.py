"""Steps of meta-learning, against loops by hand."""

import copy

import pytest
import torch

from polytask import balancing
from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.schedules import InnerLoop
from polytask.shapes import TabularShape
from polytask.tasks import Regression
from polytask.training.balanced_step import BalancedStep
from polytask.training.meta_step import MetaStep


def network():
    torch.manual_seed(0)
    tasks = [Regression(task, mean=[0.0], std=[1.0]) for task in "ab"]
    return MultiTaskModel({"row": MLP(width=8, depth=2, shape=TabularShape(4))}, tasks)


def batch(seed, rows=6, task="a"):
    draw = torch.Generator().manual_seed(seed)
    inputs = {"row": {"numeric": torch.randn(rows, 4, generator=draw), "categorical": torch.zeros(rows, 0).long()}}
    target = torch.randn(rows, 1, generator=draw)
    return Batch.of(inputs, {task: target}, {task: torch.ones(rows, 1, dtype=torch.bool)}, torch.arange(rows))


def meta_step(model, steps, lr=0.1, query=False):
    balancer = balancing.create("equal")
    balancer.prepare(model.task_names)
    return MetaStep(BalancedStep(model, balancer, {"a": 1.0, "b": 1.0}), InnerLoop(steps, lr, query))


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def adapted(model, batches, lr):
    """A copy after plain gradient descent."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for each in batches:
        optimizer.zero_grad()
        model.losses(each)["a"].backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def same(found, expected):
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_reptile_with_one_inner_step_is_plain_training():
    model, plain = network(), network()
    meta_step(model, steps=1).backward([batch(1)], model.shared_parameters(), None)
    plain.losses(batch(1))["a"].backward()
    same(gradients(model), gradients(plain))


def test_reptile_goes_where_the_inner_steps_led():
    model = network()
    before = copy.deepcopy(model.state_dict())
    found = meta_step(model, steps=3).backward([batch(1), batch(2)], model.shared_parameters(), None)
    end = adapted(network(), [batch(1), batch(2), batch(1)], 0.1)
    expected = {
        name: (before[name] - parameter.detach()) / 0.3 if name.startswith("trunk") or ".a." in name else None
        for name, parameter in end.named_parameters()
    }
    same(gradients(model), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    last = adapted(network(), [batch(1), batch(2)], 0.1).losses(batch(1))["a"]
    torch.testing.assert_close(found.losses["a"].detach(), last.detach())


def test_fomaml_takes_the_gradient_of_the_last_batch_after_the_others():
    model = network()
    found = meta_step(model, steps=2, query=True).backward([batch(1), batch(2), batch(3)], [], None)
    end = adapted(network(), [batch(1), batch(2)], 0.1)
    loss = end.losses(batch(3))["a"]
    loss.backward()
    same(gradients(model), gradients(end))
    torch.testing.assert_close(found.losses["a"].detach(), loss.detach())


def test_fomaml_divides_a_single_batch():
    model, rows = network(), batch(1, rows=5)
    meta_step(model, steps=1, query=True).backward([rows], [], None)
    end = adapted(network(), [rows.part(torch.tensor([0, 2, 4]))], 0.1)
    end.losses(rows.part(torch.tensor([1, 3])))["a"].backward()
    same(gradients(model), gradients(end))


def test_fomaml_on_one_row_uses_it_twice():
    model, rows = network(), batch(1, rows=1)
    meta_step(model, steps=1, query=True).backward([rows], [], None)
    end = adapted(network(), [rows], 0.1)
    end.losses(rows)["a"].backward()
    same(gradients(model), gradients(end))


@pytest.mark.parametrize("query", [False, True])
def test_a_step_without_rows_does_nothing(query):
    model = network()
    assert meta_step(model, steps=2, query=query).backward([], [], None).losses == {}
    assert all(gradient is None for gradient in gradients(model).values())


@pytest.mark.parametrize("query", [False, True])
def test_a_scaler_changes_nothing_but_the_scale(query):
    model, plain = network(), network()
    rows = [batch(1), batch(2), batch(3)]
    meta_step(model, steps=2, query=query).backward(
        rows, model.shared_parameters(), torch.amp.GradScaler("cpu", init_scale=8.0)
    )
    meta_step(plain, steps=2, query=query).backward(rows, plain.shared_parameters(), None)
    same(gradients(model), {name: None if g is None else g * 8 for name, g in gradients(plain).items()})


def test_what_does_not_learn_stays():
    model = network()
    model.trunk.requires_grad_(False)
    meta_step(model, steps=2).backward([batch(1)], [], None)
    learned = {name for name, gradient in gradients(model).items() if gradient is not None}
    assert learned
    assert all(".a." in name for name in learned)


def test_learning_a_start_makes_new_tasks_easier():
    """Sines of random phase: after meta-training, few steps on a new one go further than from a random start."""

    def task_of(phase, seed, rows=10):
        draw = torch.Generator().manual_seed(seed)
        x = 10 * torch.rand(rows, 1, generator=draw) - 5
        return x, torch.sin(x + phase)

    def as_batch(x, y):
        numeric = torch.cat([x / 5, x * 0, x * 0, x * 0], 1)
        inputs = {"row": {"numeric": numeric, "categorical": torch.zeros(len(x), 0).long()}}
        return Batch.of(inputs, {"a": y}, {"a": torch.ones(len(y), 1, dtype=torch.bool)}, torch.arange(len(y)))

    def error_after_steps(model):
        errors = []
        for seed in range(20):
            phase = 0.5 * torch.rand(1, generator=torch.Generator().manual_seed(1000 + seed))
            end = adapted(model, [as_batch(*task_of(phase, seed))] * 5, 0.05).eval()
            errors.append(end.losses(as_batch(*task_of(phase, 500 + seed, 50)))["a"].item())
        return sum(errors) / len(errors)

    model = network()
    scratch = error_after_steps(model)
    step, optimizer = meta_step(model, steps=5, lr=0.05), torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(150):
        phase = 0.5 * torch.rand(1, generator=torch.Generator().manual_seed(number))
        step.backward([as_batch(*task_of(phase, 2000 + number))], model.shared_parameters(), None)
        optimizer.step()
        optimizer.zero_grad()
    assert error_after_steps(model) < 0.7 * scratch
