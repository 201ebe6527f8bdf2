import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.balancer import Score
from polytask.balancing.stch import SmoothTchebycheff
from polytask.errors import UserError


def losses_of(**values):
    return {task: torch.tensor(float(value), dtype=torch.float64, requires_grad=True) for task, value in values.items()}


def step(balancer, **values):
    balancer.backward(losses_of(**values))
    return [round(weight, 12) for weight in balancer.last.weight_values.tolist()]


def warmed_up(nadir, **parameters):
    """A balancer after a warm-up that found these nadir values."""
    balancer = SmoothTchebycheff(warmup_epochs=0, **parameters)
    step(balancer, **nadir)
    balancer.epoch_end()
    return balancer


def expected_weights(losses, nadir, mu, weights=None):
    """By autograd from the formula of the official code: divided by the nadir, logarithm, minus the maximum."""
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    heights = torch.log(values / torch.tensor(nadir, dtype=torch.float64))
    if weights is not None:
        heights = heights * torch.tensor(weights, dtype=torch.float64)
    lowered = heights - heights.max().detach()
    (mu * torch.log(torch.sum(torch.exp(lowered / mu))) * len(losses)).backward()
    return values.grad.tolist()


def test_the_warm_up_and_the_epoch_after_it_run_on_logarithms_and_that_epoch_gives_the_nadir():
    balancer = SmoothTchebycheff(mu=0.5, warmup_epochs=2)
    for epoch, (a, b) in enumerate([(8, 4), (6, 3), (5, 2), (4, 1)]):
        if epoch < 3:
            assert step(balancer, a=a, b=b) == pytest.approx([1 / a, 1 / b])
            assert step(balancer, a=a - 2, b=b) == pytest.approx([1 / (a - 2), 1 / b])
            balancer.epoch_end({"a": Score(0.5, True, 0.1)})
        else:
            # In the third epoch a had the losses 5 and 3, and b had 2 and 2.
            assert step(balancer, a=a, b=b) == pytest.approx(expected_weights([a, b], [4, 2], 0.5))


def test_the_default_is_five_epochs_of_warm_up():
    balancer = SmoothTchebycheff()
    for epoch in range(5):
        assert step(balancer, a=4, b=2) == pytest.approx([0.25, 0.5]), epoch
        balancer.epoch_end()
    assert step(balancer, a=8, b=2) == pytest.approx(expected_weights([8, 2], [4, 2], 1.0))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 3)), min_size=1, max_size=5),
    mu=st.floats(0.05, 5),
)
def test_the_weights_are_the_derivatives_of_the_formula(rows, mu):
    losses, nadir, weights = (list(column) for column in zip(*rows, strict=True))
    names = "abcde"[: len(rows)]
    balancer = warmed_up(dict(zip(names, nadir, strict=True)), mu=mu, weights=dict(zip(names, weights, strict=True)))
    balancer.backward(losses_of(**dict(zip(names, losses, strict=True))))
    expected = torch.tensor(expected_weights(losses, nadir, mu, weights))
    # The nadir values are kept in single precision.
    torch.testing.assert_close(balancer.last.weight_values.float(), expected.float(), rtol=1e-3, atol=1e-5)


def test_scales_do_not_matter_after_the_warm_up():
    plain, scaled = warmed_up({"a": 2, "b": 3}, mu=0.3), warmed_up({"a": 200, "b": 3}, mu=0.3)
    a, b = step(plain, a=1, b=2)
    assert step(scaled, a=100, b=2) == pytest.approx([a / 100, b], rel=1e-5)


def test_a_small_mu_trains_the_task_that_has_come_least_far():
    assert step(warmed_up({"a": 2, "b": 3}, mu=1e-3), a=1, b=2) == pytest.approx([0, 2 / 2])


def test_without_a_warm_up_it_is_the_papers_definition_times_k():
    balancer = SmoothTchebycheff(mu=0.5, warmup_epochs=None, weights=[1, 2], ideal=[0.5, 0])
    balancer.prepare(["a", "b"])
    powers = math.exp((2 - 0.5) / 0.5), math.exp(2 * 1 / 0.5)
    expected = [2 * powers[0] / sum(powers), 2 * 2 * powers[1] / sum(powers)]
    assert step(balancer, a=2, b=1) == pytest.approx(expected)
    combined = balancer.combine(torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert combined.item() == pytest.approx(2 * 0.5 * math.log(sum(powers)))
    balancer.epoch_end()
    assert step(balancer, a=2, b=1) == pytest.approx(expected)


def test_it_agrees_with_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights, ideal = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.0, 0.4])
    balancer = SmoothTchebycheff(0.1, warmup_epochs=None, weights=weights.tolist(), ideal=ideal.tolist())
    losses = torch.tensor([1.0, 2.0, 0.5])
    expected = 3 * scalarization.STCH(0.1, weights, ideal)(losses)
    torch.testing.assert_close(balancer.combine(losses), expected)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), seed=st.integers(0, 100))
def test_the_order_of_the_tasks_does_not_matter(order, seed):
    straight, shuffled = SmoothTchebycheff(0.5, warmup_epochs=0), SmoothTchebycheff(0.5, warmup_epochs=0)
    for row in torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)).add(0.1).tolist():
        losses = dict(zip("abcd", row, strict=True))
        step(straight, **losses)
        step(shuffled, **{task: losses[task] for task in order})
        assert {t: w.item() for t, w in shuffled.last.weights.items()} == pytest.approx(
            {t: w.item() for t, w in straight.last.weights.items()}
        )
        straight.epoch_end()
        shuffled.epoch_end()


def test_a_task_that_comes_after_the_warm_up_is_measured_by_its_first_loss():
    balancer = warmed_up({"a": 2.0})
    assert step(balancer, a=1, new=7) == pytest.approx(expected_weights([1, 7], [2, 7], 1.0))
    assert step(balancer, new=3.5, a=1) == pytest.approx(expected_weights([3.5, 1], [7, 2], 1.0))


def test_a_task_that_is_absent_keeps_its_nadir():
    balancer = warmed_up({"a": 2.0, "b": 3.0})
    step(balancer, a=1)
    balancer.epoch_end()
    assert step(balancer, a=1, b=1) == pytest.approx(expected_weights([1, 1], [2, 3], 1.0))


@pytest.mark.parametrize("bad", [0.0, -1.0])
@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_losses_without_a_logarithm_leave_the_others_alone(bad, mu):
    balancer = warmed_up({"a": 2, "b": 3}, mu=mu)
    weights = step(balancer, a=1, b=bad)
    assert weights[0] == pytest.approx(2)
    assert math.isfinite(weights[1])
    assert step(SmoothTchebycheff(), a=1, b=bad) == [1, 0]


def test_a_nadir_of_zero_and_losses_that_are_not_finite_are_survived():
    balancer = SmoothTchebycheff(warmup_epochs=0)
    step(balancer, a=0, b=4)
    step(balancer, a=0, b=math.inf)
    balancer.epoch_end()
    assert step(balancer, a=1, b=2) == pytest.approx(expected_weights([1, 2], [1, 4], 1.0))


def test_one_task_alone_has_the_inverse_of_its_loss():
    assert step(warmed_up({"a": 2}), a=4) == pytest.approx([0.25])


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, epochs):
        seen = []
        for epoch in epochs:
            seen += [step(balancer, b=4), step(balancer, a=4, type=2 / (epoch + 1), b=5), step(balancer, a=5, b=epoch)]
            balancer.epoch_end()
        return seen

    whole, first, second = (SmoothTchebycheff(warmup_epochs=2) for _ in range(3))
    first.prepare(["a", "type", "b"])
    expected = train(whole, range(6))
    train(first, range(2))
    # In the middle of the epoch that is measured.
    step(first, b=4)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    step(second, a=4, type=2 / 3, b=5)
    step(second, a=5, b=2)
    second.epoch_end()
    assert train(second, range(3, 6)) == expected[9:]


def test_epochs_that_never_end_are_announced_once(caplog, monkeypatch):
    monkeypatch.setattr("polytask.balancing.stch._PATIENCE", 3)
    silent = SmoothTchebycheff()
    silent.epoch_end()
    for balancer in (silent, SmoothTchebycheff(warmup_epochs=None)):
        for _ in range(5):
            step(balancer, a=1)
    assert not caplog.text
    balancer = SmoothTchebycheff()
    for _ in range(8):
        step(balancer, a=1)
    assert caplog.text.count("stch: 3 steps without epoch_end()") == 1


def test_a_scaler_does_not_change_the_weights():
    plain, scaled = warmed_up({"a": 2, "b": 3}), warmed_up({"a": 2, "b": 3})
    plain.backward(losses_of(a=1, b=2))
    scaled.backward(losses_of(a=1, b=2), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mu": 0}, "mu is 0"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"log_losses": True}, "log_losses cannot be set"),
        ({"ideal": [1.0]}, "ideal values have no meaning with a warm-up"),
        ({"weights": [-1.0]}, "the weight of task '0' is -1.0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=f"stch: {message}"):
        SmoothTchebycheff(**parameters)


def test_values_that_do_not_fit_the_tasks_are_refused():
    with pytest.raises(UserError, match="a weight for 'dpth', which is no task"):
        SmoothTchebycheff(weights={"depth": 1, "dpth": 1}).prepare(["depth"])
