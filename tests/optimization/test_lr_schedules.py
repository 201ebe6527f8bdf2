import inspect
import math
import warnings
from typing import get_type_hints

import pytest
import torch
from torch import nn

from polytask.errors import UserError
from polytask.optimization import LRSchedule, lr_schedules


def optimizer_of(*rates):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0 * rate, "lr_scale": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def curve(schedule, total, per_epoch=10):
    running = schedule.build(optimizer_of(1.0), total, per_epoch)
    rates = []
    for _ in range(total):
        rates.append(running.lr)
        running.step()
    return rates


def test_schedules_are_listed_and_built_by_name():
    assert lr_schedules.names() == ("constant", "cosine", "one_cycle", "plateau", "step")
    assert isinstance(lr_schedules.create("cosine", warmup=0.1), LRSchedule)


@pytest.mark.parametrize("name", lr_schedules.names())
def test_every_parameter_is_typed_and_documented(name):
    cls = lr_schedules.family.get(name)
    hints = get_type_hints(cls.__init__)
    for parameter in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert parameter in hints
        assert f"        {parameter}: " in cls.__doc__


def test_constant_stays():
    assert curve(lr_schedules.Constant(), 5) == [2.0] * 5


@pytest.mark.parametrize("warmup", [4, 0.4])
@pytest.mark.parametrize("cls", [lr_schedules.Constant, lr_schedules.Cosine, lr_schedules.Step, lr_schedules.Plateau])
def test_the_warm_up_rises_linearly_to_the_full_rate(cls, warmup):
    rates = curve(cls(warmup=warmup), 10)
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_cosine_is_half_a_cosine_from_the_warm_up_to_the_end():
    rates = curve(lr_schedules.Cosine(warmup=2, final=0.1), 10)
    expected = [1.0, 2.0] + [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(8)]
    assert rates == pytest.approx(expected)


def test_cosine_is_that_of_pytorch_and_stays_at_its_final_rate():
    optimizer = optimizer_of(1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve(lr_schedules.Cosine(), 20) == pytest.approx(rates)
    assert lr_schedules.Cosine(final=0.2).factor(25, 20, 10) == pytest.approx(0.2)


@pytest.mark.parametrize(("total", "peak"), [(20, 0.3), (50, 0.5), (7, 0.2)])
def test_one_cycle_is_that_of_pytorch(total, peak):
    optimizer = optimizer_of(1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=total, pct_start=peak, cycle_momentum=False
    )
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < total:
            reference.step()
    assert curve(lr_schedules.OneCycle(peak=peak), total) == pytest.approx(rates)


def test_one_cycle_works_on_very_short_trainings():
    for total in (1, 2, 3):
        assert all(math.isfinite(rate) for rate in curve(lr_schedules.OneCycle(), total))
    assert curve(lr_schedules.OneCycle(peak=1.0), 3)[-1] == 2.0


def test_step_falls_every_few_epochs():
    rates = curve(lr_schedules.Step(every=2, gamma=0.5), 12, per_epoch=2)
    assert rates == [2.0] * 4 + [1.0] * 4 + [0.5] * 4


def test_plateau_falls_when_the_value_stops_getting_better():
    running = lr_schedules.Plateau(patience=1, factor=0.5).build(optimizer_of(1.0), 100, 10)
    rates = []
    for value in [0.5, 0.6, 0.6, 0.6, 0.7, 0.65, 0.64, 0.63]:
        running.epoch_end(value, higher_is_better=True)
        rates.append(running.lr)
    assert rates == [2, 2, 2, 1, 1, 1, 0.5, 0.5]


def test_plateau_forgets_earlier_values_when_it_restarts():
    running = lr_schedules.Plateau(patience=1, factor=0.5).build(optimizer_of(1.0), 100, 10)
    rates = []
    for value in [0.9, 0.8, None, 0.1, 0.2, 0.1, 0.1]:
        if value is None:
            running.restart()
        else:
            running.epoch_end(value, higher_is_better=True)
            rates.append(running.lr)
    assert rates == [2, 2, 2, 2, 2, 1]


def test_plateau_of_an_error_is_the_mirror_image_of_that_of_a_score():
    values = [-0.5, 0.6, 0.6, -0.6, 0.7, 0.65, 0.64, 0.63]
    schedule = lr_schedules.Plateau(patience=1)
    up, down = (schedule.build(optimizer_of(1.0), 100, 10) for _ in range(2))
    for value in values:
        up.epoch_end(value, higher_is_better=True)
        down.epoch_end(-value, higher_is_better=False)
        assert up.lr == down.lr
    assert up.lr < 2


def test_plateau_does_not_fall_within_the_warm_up_and_not_without_a_value(caplog):
    running = lr_schedules.Plateau(patience=0, warmup=4).build(optimizer_of(1.0), 100, 2)
    for expected in (1.5, 2.0, 1.0):
        running.step()
        running.step()
        running.epoch_end(0.5, higher_is_better=True)
        assert running.lr == expected
    running.epoch_end(math.nan, higher_is_better=True)
    assert running.lr == 1.0
    assert "no value to judge this epoch by" in caplog.text


def test_only_plateau_listens_to_the_value():
    running = lr_schedules.Constant().build(optimizer_of(1.0), 100, 10)
    for _ in range(20):
        running.epoch_end(0.1, higher_is_better=True)
    assert running.lr == 2


def test_groups_keep_their_proportions():
    optimizer = optimizer_of(0.1, 1.0)
    running = lr_schedules.Cosine(warmup=2).build(optimizer, 10, 5)
    for _ in range(6):
        low, high = (group["lr"] for group in optimizer.param_groups)
        assert low == pytest.approx(0.1 * high)
        assert running.lr == pytest.approx(high)
        running.step()


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("name", lr_schedules.names())
def test_a_resumed_schedule_goes_on_as_if_it_had_not_been_interrupted(name, optimizer_first):
    schedule = lr_schedules.create(name, **({} if name == "one_cycle" else {"warmup": 3}))
    values = [0.5, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.5]

    def go(running, optimizer, epochs):
        rates = []
        for epoch in epochs:
            for _ in range(2):
                rates.append([group["lr"] for group in optimizer.param_groups])
                running.step()
            running.epoch_end(values[epoch], higher_is_better=True)
        return rates

    optimizer = optimizer_of(0.5, 1.0)
    running = schedule.build(optimizer, 20, 2)
    whole = go(running, optimizer, range(10))

    optimizer = optimizer_of(0.5, 1.0)
    running = schedule.build(optimizer, 20, 2)
    first = go(running, optimizer, range(5))
    saved, saved_optimizer = running.state_dict(), optimizer.state_dict()

    optimizer = optimizer_of(0.5, 1.0)
    if optimizer_first:
        optimizer.load_state_dict(saved_optimizer)
    running = schedule.build(optimizer, 20, 2)
    running.load_state_dict(saved)
    if not optimizer_first:
        optimizer.load_state_dict(saved_optimizer)
    assert first + go(running, optimizer, range(5, 10)) == whole


def test_a_state_can_be_saved_and_loaded_safely(tmp_path):
    running = lr_schedules.Plateau().build(optimizer_of(1.0), 20, 2)
    running.step()
    torch.save(running.state_dict(), tmp_path / "state.pt")
    running.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert running.lr == 2


def test_a_first_step_that_the_gradient_scaler_skips_does_not_warn():
    running = lr_schedules.Cosine().build(optimizer_of(1.0), 10, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        running.step()
        running.step()


def test_a_warm_up_longer_than_the_training_is_announced(caplog):
    lr_schedules.Constant(warmup=50).build(optimizer_of(1.0), 20, 5)
    assert "warm-up takes 50 steps, but the training only 20" in caplog.text


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("constant", {"warmup": -0.1}, r"warmup is -0\.1"),
        ("cosine", {"warmup": 1.5}, r"warmup is 1\.5.*whole number of steps"),
        ("cosine", {"final": 1.1}, r"final is 1\.1"),
        ("step", {"every": 0}, "every is 0"),
        ("step", {"gamma": -1.0}, r"gamma is -1\.0"),
        ("one_cycle", {"peak": 2.0}, r"peak is 2\.0"),
        ("plateau", {"patience": -1}, "patience is -1"),
        ("plateau", {"factor": 1.0}, r"factor is 1\.0"),
    ],
)
def test_bad_parameters_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        lr_schedules.create(name, **parameters)
