import pytest

from polytask.errors import UserError
from polytask.sharing.stage_places import stage_place

NAMES = ("bottom", "middle", "top")


@pytest.mark.parametrize(
    ("stage", "place"), [("bottom", 0), ("top", 2), (1, 0), (3, 2), (-1, 2), (-3, 0), ("2", 1), ("-1", 2)]
)
def test_a_name_or_number_says_where(stage, place):
    assert stage_place(stage, NAMES) == place


def test_a_name_goes_before_the_number_it_looks_like():
    assert stage_place("2", ("2", "1")) == 0


@pytest.mark.parametrize("stage", [0, 4, -4, "4"])
def test_numbers_beyond_are_refused(stage):
    with pytest.raises(UserError, match=r"no stage number -?\d.*from 1 to 3.*'bottom', 'middle', 'top'"):
        stage_place(stage, NAMES)


def test_an_unknown_name_has_a_suggestion():
    with pytest.raises(UserError, match=r"no stage 'midle'.*Did you mean 'middle'\?"):
        stage_place("midle", NAMES)
