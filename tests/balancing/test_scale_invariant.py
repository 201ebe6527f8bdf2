import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.scale_invariant import ScaleInvariant
from polytask.errors import UserError


def losses_of(**values):
    return {task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()}


def test_each_weight_is_the_inverse_of_the_loss(network, inputs):
    balancer = ScaleInvariant()
    losses = network.losses(inputs)
    balancer.backward(losses)
    values = torch.stack(list(losses.values())).detach()
    torch.testing.assert_close(balancer.last.weight_values, 1 / values)
    torch.testing.assert_close(network.trunk_gradient(), (1 / values) @ network.jacobian(inputs))


@settings(max_examples=30, deadline=None)
@given(scales=st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3))
def test_the_scale_of_a_loss_does_not_matter(scales):
    theta = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def gradient(factors):
        theta.grad = None
        losses = [theta.square().sum(), (theta[0] - 3).square(), theta[1].exp()]
        ScaleInvariant().backward([factor * loss for factor, loss in zip(factors, losses, strict=True)])
        return theta.grad

    torch.testing.assert_close(gradient(scales), gradient([1, 1, 1]))


def test_a_scaler_does_not_change_the_weights():
    losses = losses_of(a=4, b=0.5)
    balancer = ScaleInvariant()
    balancer.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    assert balancer.last.weight_values.tolist() == [0.25, 2]
    assert losses["a"].grad.item() == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-45])
def test_a_loss_that_has_no_logarithm_has_weight_0_and_leaves_the_others_alone(bad, dtype):
    balancer = ScaleInvariant()
    balancer.backward([torch.tensor(value, dtype=dtype, requires_grad=True) for value in (2.0, bad, 4.0)])
    # Double precision has a logarithm and an inverse for the smallest number of the others.
    expected = 1 / bad if dtype == torch.float64 and bad > 0 else 0
    assert balancer.last.weight_values.tolist() == pytest.approx([0.5, expected, 0.25])


def test_one_task_alone_has_the_inverse_of_its_loss():
    losses = losses_of(only=5)
    ScaleInvariant().backward(losses)
    assert losses["only"].grad.item() == pytest.approx(0.2)


def test_logarithms_of_logarithms_are_refused():
    with pytest.raises(UserError, match="scale_invariant: log_losses"):
        ScaleInvariant(log_losses=True)
