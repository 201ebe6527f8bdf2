"""The example of a loop of one's own, as a user starts it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "examples" / "own_loop.py"


def started(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_a_balancer_and_the_plain_sum_both_learn_both_tasks(tmp_path: Path):
    done = started(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tasks, *lines = done.stdout.splitlines()
    assert tasks.split() == ["digit", "odd"]
    found = {line[:20].strip(): [float(value) for value in line[20:].split()] for line in lines}
    assert list(found) == ["sum of the losses", "upgrad"]
    for digit, odd in found.values():
        assert 0.9 < digit < 1
        assert 0.9 < odd < 1
    assert not list(tmp_path.iterdir())


def test_balancers_are_named_on_the_command_line(tmp_path: Path):
    done = started("equal", "pcgrad", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plain, equal, pcgrad = (line[20:] for line in done.stdout.splitlines()[1:])
    assert equal == plain, "the same sum, by other means"
    assert pcgrad != plain


def test_a_wrong_name_is_told_with_the_nearest_right_one(tmp_path: Path):
    done = started("pcgrat", cwd=tmp_path)
    assert done.returncode != 0
    assert "Did you mean 'pcgrad'?" in done.stderr
