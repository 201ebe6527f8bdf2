import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.adatask import AdaTask
from polytask.errors import UserError


def jacobians(steps, tasks, columns=6, seed=0):
    return torch.randn(steps, tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, tasks):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward({task: row @ theta for task, row in zip(tasks, jacobian, strict=True)}, [theta])
    return theta.grad


class Adams:
    """An Adam of PyTorch for each task, on a copy of the parameters; the update is the sum of their steps."""

    def __init__(self, columns, **settings):
        self.columns, self.settings, self.each = columns, settings, {}

    def step(self, jacobian, tasks):
        update = 0
        for task, gradient in zip(tasks, jacobian, strict=True):
            if task not in self.each:
                copy = nn.Parameter(torch.zeros(self.columns, dtype=jacobian.dtype))
                self.each[task] = copy, torch.optim.Adam([copy], lr=1.0, **self.settings)
            copy, optimizer = self.each[task]
            before = copy.detach().clone()
            copy.grad = gradient.clone()
            optimizer.step()
            update = update + before - copy.detach()
        return update


@pytest.mark.parametrize("settings", [{}, {"betas": (0.0, 0.9), "eps": 1e-3}, {"betas": (0.5, 0.0)}])
def test_the_update_is_the_sum_of_the_steps_of_pytorchs_adam_for_each_task(settings):
    balancer, adams = AdaTask(**settings), Adams(6, **settings)
    for t, jacobian in enumerate(jacobians(20, 3)):
        # Tasks come late, are absent, and change places.
        present = [i for i in (2, 0, 1) if (t + i) % 3 and t > i]
        if present:
            names = ["abc"[i] for i in present]
            found, expected = step(balancer, jacobian[present], names), adams.step(jacobian[present], names)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_with_sgd_one_task_is_trained_as_by_adam(make_network, inputs):
    ours, adams = make_network("only"), make_network("only")
    balancer = AdaTask()
    sgd = torch.optim.SGD(ours.trunk.parameters(), lr=0.01)
    adam = torch.optim.Adam(adams.trunk.parameters(), lr=0.01)
    for _ in range(10):
        for optimizer in (sgd, adam):
            optimizer.zero_grad()
        balancer.backward(ours.losses(inputs), ours.trunk.parameters())
        adams.losses(inputs)["only"].backward()
        sgd.step()
        adam.step()
    for own, expected in zip(ours.trunk.parameters(), adams.trunk.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def test_a_step_by_hand():
    # In the first step Adam divides each number by its size.
    jacobian = torch.tensor([[3.0, -2, 0], [1e-3, 5, -7]])
    assert AdaTask().combine(jacobian).tolist() == pytest.approx([2, 0, -1], abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e3))
def test_neither_the_scale_of_a_task_nor_the_order_matters(seed, scale):
    plain, scaled, shuffled = AdaTask(), AdaTask(), AdaTask()
    for jacobian in jacobians(3, 3, seed=seed):
        expected = step(plain, jacobian, "abc")
        found = step(scaled, jacobian * torch.tensor([[1.0], [scale], [1 / scale]]), "abc")
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(step(shuffled, jacobian[[2, 0, 1]], "cab"), expected)


def test_a_gradient_of_0_adds_nothing():
    jacobian = jacobians(1, 2)[0]
    with_zero = torch.cat([jacobian, torch.zeros(1, 6)])
    torch.testing.assert_close(AdaTask().combine(with_zero), AdaTask().combine(jacobian))
    assert not AdaTask().combine(torch.zeros(2, 4)).any()


def test_heads_get_their_plain_gradients(network, inputs):
    losses = network.losses(inputs)
    own = torch.autograd.grad(losses["b"], network.heads["b"].weight, retain_graph=True)[0]
    AdaTask().backward(losses, network.trunk.parameters())
    torch.testing.assert_close(network.heads["b"].weight.grad, own)


def test_the_correction_for_the_start_is_exact_in_float32():
    balancer = AdaTask()
    assert balancer.combine(torch.full((1, 1), 0.37)).item() == pytest.approx(1, rel=3e-7)


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler_and_not_taken_in():
    sequence = jacobians(2, 2).float()
    balancer, untouched = AdaTask(), AdaTask()
    for each in (balancer, untouched):
        each.combine(sequence[0])
    assert not balancer.combine(sequence[1] * torch.tensor([[1.0], [torch.inf]])).isfinite().any()
    assert torch.equal(balancer.combine(sequence[1]), untouched.combine(sequence[1]))


def test_other_shared_parameters_than_before_are_refused():
    balancer = AdaTask()
    balancer.combine(torch.ones(2, 4))
    with pytest.raises(UserError, match=r"adatask: the shared parameters were 4 numbers so far, and are 3.*`shared=`"):
        balancer.combine(torch.ones(2, 3))


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    sequence = jacobians(6, 2)
    whole = AdaTask()
    for jacobian in sequence[:3]:
        step(whole, jacobian, "ab")
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = AdaTask()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for jacobian in sequence[3:]:
        assert torch.equal(step(fresh, jacobian, "ba"), step(whole, jacobian, "ba"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"betas": (1.0, 0.9)}, "adatask: betas are"),
        ({"betas": (0.9, -0.1)}, "adatask: betas are"),
        ({"betas": (0.9,)}, "adatask: betas are"),
        ({"eps": 0.0}, "adatask: eps is 0.0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        AdaTask(**parameters)
