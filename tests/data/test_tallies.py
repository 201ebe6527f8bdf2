import pytest

from polytask.data.tallies import percent


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.2, "< 1 %"), (1.4, "1 %"), (52.5, "52 %"), (100.0, "100 %")]
)
def test_a_small_share_does_not_look_like_nothing(share, text):
    assert percent(share) == text
