import logging
import xml.etree.ElementTree as ET

import pytest

from polytask.training.learned_numbers import LearnedNumber
from polytask.training.learned_plot import plot_learned


def numbers(epochs=3, tables=("gates",)):
    return [
        LearnedNumber(epoch, table, row, column, 0.1 * epoch + place)
        for epoch in range(1, epochs + 1)
        for table in tables
        for place, (row, column) in enumerate([("left", "expert 1"), ("left", "expert 2"), ("right", "expert 1")])
    ]


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_table_is_drawn_with_its_names(tmp_path, epochs):
    pytest.importorskip("matplotlib")
    path = tmp_path / "sharing.svg"
    plot_learned(numbers(epochs, ["gates", "mixing of layer1"]), path)
    ET.parse(path)
    text = path.read_text()
    for name in ("gates", "mixing of layer1", "left", "right", "expert 2"):
        assert f"<!-- {name} -->" in text


def test_without_matplotlib_the_log_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, logger="polytask"):
        plot_learned(numbers(), tmp_path / "sharing.svg")
    assert "install polytask[report]" in caplog.text
    assert not list(tmp_path.iterdir())


def test_names_are_written_as_they_are(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    odd = [LearnedNumber(1, "$c_$", row, column, 0.5) for row in ("_x", "$a$") for column in (r"$\frac$", "50%")]
    plot_learned(odd, tmp_path / "sharing.svg")
    text = (tmp_path / "sharing.svg").read_text()
    for name in ("$c_$", "_x", "$a$", r"$\frac$", "50%"):
        assert name in text
    assert not [warning for warning in recwarn if "label" in str(warning.message)]
