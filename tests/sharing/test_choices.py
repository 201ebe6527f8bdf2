"""Choices that are drawn by Gumbel-softmax."""

import math

import pytest
import torch

from polytask import sharing
from polytask.errors import UserError
from polytask.sharing.choices import Choices, Drawing

from .choosing import gumbel


def drawing(**changes):
    return Drawing(
        **{
            "temperature": 4.0,
            "final_temperature": 0.25,
            "straight_through": False,
            "warm_up": 0.2,
            "speed": 10.0,
            **changes,
        }
    )


def choices_of(**changes):
    choices = Choices(3, 2, drawing(**changes))
    with torch.no_grad():
        choices.scores.copy_(torch.tensor([[0.1, -0.2], [0.0, 0.3], [0.05, 0.05]]))
    return choices


def test_the_temperature_falls_geometrically_after_the_warm_up():
    plan = drawing()
    assert [plan.temperature_at(progress) for progress in (0.0, 0.2)] == [4.0, 4.0]
    assert plan.temperature_at(0.6) == pytest.approx(math.sqrt(4.0 * 0.25))
    assert plan.temperature_at(1.0) == pytest.approx(0.25)


def test_weights_are_those_of_gumbel_softmax():
    choices = choices_of()
    torch.manual_seed(5)
    drawn = choices.draw(0.6)
    torch.manual_seed(5)
    torch.testing.assert_close(drawn, ((10 * choices.scores + gumbel(3, 2)) / 1.0).softmax(1))


def test_straight_through_takes_one_option_with_the_gradient_of_the_soft_weights():
    hard, soft = choices_of(straight_through=True), choices_of()
    torch.manual_seed(5)
    taken = hard.draw(0.6)
    torch.manual_seed(5)
    weights = soft.draw(0.6)
    torch.testing.assert_close(taken, torch.eye(2)[weights.argmax(1)])
    direction = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]])
    torch.testing.assert_close(
        torch.autograd.grad((taken * direction).sum(), hard.scores),
        torch.autograd.grad((weights * direction).sum(), soft.scores),
    )


def test_choices_start_alike_and_the_likeliest_is_the_first_of_equals():
    torch.testing.assert_close(Choices(2, 3, drawing()).probabilities(), torch.full((2, 3), 1 / 3))
    choices = choices_of()
    assert choices.likeliest() == [0, 1, 0]
    torch.testing.assert_close(choices.probabilities()[0], torch.tensor([1.0, -2.0]).softmax(0))


@pytest.mark.parametrize("scheme", ["adashare", "ltb"])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", 0.0, "must be above 0"),
        ("final_temperature", -1.0, "must be above 0"),
        ("speed", float("nan"), "must be above 0"),
        ("warm_up", 1.0, "must be at least 0 and less than 1"),
        ("warm_up", -0.1, "must be at least 0 and less than 1"),
    ],
)
def test_values_out_of_range_are_refused(scheme, name, value, allowed):
    with pytest.raises(UserError, match=f"^{scheme}: {name} is {value}, but {allowed}"):
        sharing.create(scheme, **{name: value})
