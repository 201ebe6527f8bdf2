import math

import pytest
import torch

from polytask.balancing import Score
from polytask.balancing.dtp import DTP
from polytask.errors import UserError


def scores(**gains):
    return {task: Score(value=123.0, higher_is_better=False, gain=gain) for task, gain in gains.items()}


def step(balancer, **losses):
    losses = {task: torch.tensor(float(value), requires_grad=True) for task, value in losses.items()}
    balancer.backward(losses)
    return {task: loss.grad.item() for task, loss in losses.items()}


def weight(kpi, gamma=1.0):
    return -((1 - kpi) ** gamma) * math.log(kpi)


def test_without_scores_all_weights_are_1():
    balancer = DTP()
    assert step(balancer, a=3, b=0.1) == {"a": 1, "b": 1}
    balancer.epoch_end()
    balancer.epoch_end({})
    assert step(balancer, a=3, b=0.1) == {"a": 1, "b": 1}


def test_weights_are_those_of_the_averaged_gains():
    balancer = DTP(gamma=2.0, alpha=0.25)
    kpi = {"a": 0.5, "b": 0.2}
    balancer.epoch_end(scores(**kpi))
    assert step(balancer, a=1, b=1) == pytest.approx({task: weight(k, 2.0) for task, k in kpi.items()})
    for gains in ({"a": 0.7, "b": 0.1}, {"a": 0.9, "b": 0.6}):
        balancer.epoch_end(scores(**gains))
        kpi = {task: 0.25 * gain + 0.75 * kpi[task] for task, gain in gains.items()}
        assert step(balancer, b=2, a=5) == pytest.approx({task: weight(k, 2.0) for task, k in kpi.items()})


def test_gains_outside_of_0_to_1_count_as_the_nearest_allowed():
    balancer = DTP(eps=0.05)
    balancer.epoch_end(scores(a=-3, b=1))
    assert step(balancer, a=1, b=1) == pytest.approx({"a": weight(0.05), "b": weight(0.95)})


def test_a_task_without_a_score_keeps_its_weight():
    balancer = DTP(alpha=1.0)
    balancer.epoch_end(scores(a=0.3, b=math.nan))
    balancer.epoch_end(scores(c=0.6))
    assert step(balancer, b=1, c=1, a=1) == pytest.approx({"b": 1, "c": weight(0.6), "a": weight(0.3)})


def test_gamma_can_differ_between_tasks():
    balancer = DTP({"a": 0.0, "b": 3.0})
    balancer.prepare(["a", "b"])
    balancer.epoch_end(scores(a=0.3, b=0.3))
    assert step(balancer, b=1, a=1) == pytest.approx({"b": weight(0.3, 3.0), "a": weight(0.3, 0.0)})
    with pytest.raises(UserError, match="dtp: there is no gamma for task 'c'"):
        balancer.prepare(["a", "b", "c"])


def test_one_task_and_a_loss_of_0():
    balancer = DTP()
    assert step(balancer, only=0) == {"only": 1}
    balancer.epoch_end(scores(only=0.5))
    assert step(balancer, only=0) == pytest.approx({"only": weight(0.5)})


def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(tmp_path):
    whole = DTP()
    whole.epoch_end(scores(a=0.5, b=0.2))
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    fresh = DTP()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for balancer in (whole, fresh):
        balancer.epoch_end(scores(b=0.4))
    assert step(fresh, a=1, b=1) == step(whole, a=1, b=1)
    assert step(whole, a=1, b=1)["b"] == pytest.approx(weight(0.3))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": -1.0}, "dtp: gamma is -1.0"),
        ({"gamma": math.inf}, "dtp: gamma is inf"),
        ({"gamma": {"a": -1.0}}, "dtp: the gamma of task 'a'"),
        ({"alpha": 0.0}, "dtp: alpha is 0.0"),
        ({"alpha": 1.5}, "dtp: alpha is 1.5"),
        ({"eps": 0.0}, "dtp: eps is 0.0"),
        ({"eps": 0.5}, "dtp: eps is 0.5"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        DTP(**parameters)
