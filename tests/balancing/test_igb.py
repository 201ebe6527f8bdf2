import math

import pytest
import torch

from polytask.balancing.igb import IGB
from polytask.errors import UserError


def step(balancer, **losses):
    losses = {task: torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for task, v in losses.items()}
    balancer.backward(losses)
    return {task: loss.grad.item() for task, loss in losses.items()}


def softmax(values):
    return [math.exp(v) / sum(map(math.exp, values)) for v in values]


def trained(balancer, **bases):
    step(balancer, **dict.fromkeys(bases, 7.0))
    balancer.epoch_end()
    for factor in (0.5, 1.5, 1.0):
        step(balancer, **{task: base * factor for task, base in bases.items()})
    balancer.epoch_end()
    return balancer


def test_until_the_base_is_known_it_is_the_sum_of_the_log_losses():
    balancer = IGB()
    for _ in range(2):
        assert step(balancer, a=4, b=0.5) == pytest.approx({"a": 0.25, "b": 2})
        balancer.epoch_end()
    assert step(balancer, a=4, b=0.5) == pytest.approx({"a": 0.25, "b": 2})
    assert step(balancer, a=4, b=0.25) != pytest.approx({"a": 0.25, "b": 4})


def test_the_weights_are_the_softmax_of_the_ratios_to_the_second_epochs_averages():
    balancer = trained(IGB(), a=2, b=0.1, c=30)
    for losses in ({"a": 1, "b": 0.2, "c": 3}, {"a": 4, "b": 0.05, "c": 30}):
        ratios = [losses["a"] / 2, losses["b"] / 0.1, losses["c"] / 30]
        expected = [3 * w / loss for w, loss in zip(softmax(ratios), losses.values(), strict=True)]
        assert list(step(balancer, **losses).values()) == pytest.approx(expected, rel=1e-6)
        balancer.epoch_end()


def test_it_can_run_on_the_losses_themselves():
    balancer = trained(IGB(log_losses=False), a=2, b=0.1)
    expected = [2 * w for w in softmax([0.5, 3])]
    assert list(step(balancer, a=1, b=0.3).values()) == pytest.approx(expected, rel=1e-6)


def test_the_base_epoch_can_be_chosen():
    balancer = IGB(base_epoch=1)
    step(balancer, a=2, b=4)
    balancer.epoch_end()
    expected = [2 * w / loss for w, loss in zip(softmax([2, 0.5]), [4, 2], strict=True)]
    assert list(step(balancer, a=4, b=2).values()) == pytest.approx(expected, rel=1e-6)


def test_a_task_without_a_base_counts_as_being_at_it_and_absent_tasks_do_not_count():
    balancer = trained(IGB(), a=2, b=0.1)
    expected = [2 * w / loss for w, loss in zip(softmax([1, 0.5]), [9, 1], strict=True)]
    assert list(step(balancer, new=9, a=1).values()) == pytest.approx(expected, rel=1e-6)


def test_only_the_steps_with_a_task_make_its_base():
    balancer = IGB(base_epoch=1)
    step(balancer, a=2)
    step(balancer, a=6, b=1)
    step(balancer, b=math.inf, a=4)
    balancer.epoch_end()
    expected = [2 * w / 2 for w in softmax([2 / 4, 2 / 1])]
    assert list(step(balancer, a=2, b=2).values()) == pytest.approx(expected, rel=1e-6)


def test_one_task_and_losses_of_0():
    assert step(trained(IGB(), only=3), only=5) == pytest.approx({"only": 0.2})
    found = step(trained(IGB(), a=0, b=1), a=0, b=1)
    assert all(math.isfinite(weight) for weight in found.values())
    assert found["b"] > 0


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def train(balancer, steps):
        found = []
        for i in steps:
            found.append(step(balancer, a=1 + i % 3, b=2 / (1 + i), **({"c": 1} if i % 2 else {})))
            if i % 3 == 2:
                balancer.epoch_end()
        return found

    whole, first, second = IGB(), IGB(), IGB()
    expected = train(whole, range(12))
    train(first, range(5))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, range(5, 12)) == expected[5:]


def test_the_base_epoch_is_counted_from_1():
    with pytest.raises(UserError, match="igb: base_epoch is 0"):
        IGB(base_epoch=0)
