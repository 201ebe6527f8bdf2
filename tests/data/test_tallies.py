import pytest
import torch

from polytask.data.encoded import Dense
from polytask.data.tallies import ClassTally, percent


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.2, "< 1 %"), (1.4, "1 %"), (52.5, "52 %"), (100.0, "100 %")]
)
def test_a_small_share_does_not_look_like_nothing(share, text):
    assert percent(share) == text


def test_equal_shares_are_one_number():
    tally = ClassTally([f"c{n}" for n in range(10)])
    classes = torch.arange(10).repeat(3)
    tally.add(Dense({"target": classes, "mask": torch.ones(30, dtype=torch.bool)}))
    assert str(tally) == "10 classes, each 10 %"
