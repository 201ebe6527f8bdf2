import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_the_demo_learns_both_tasks_and_says_what_to_try_next(polytask, tmp_path: Path):
    code, out, err = polytask("demo", "-q")
    assert code == 0, err
    assert "baseline" in out and "polytask init" in out
    found = json.loads(polytask("evaluate", "runs/demo", "--json")[1])
    assert found["rows"] == 2000
    for task in ("left", "right"):
        assert found["tasks"][task]["scores"]["accuracy"] >= 0.95
        assert found["tasks"][task]["baseline"]["accuracy"] < 0.2

    (tmp_path / "runs" / "demo-2").mkdir()
    from polytask.cli.demo import _free

    assert _free(Path("runs") / "demo") == Path("runs") / "demo-3", "an earlier demo is never overwritten"
