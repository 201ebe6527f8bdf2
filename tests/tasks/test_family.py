import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

from polytask import tasks
from polytask.components import FROM_DATA


def test_tasks_are_listed_and_built_by_name():
    assert {"classification", "regression", "masked_tokens", "rotation"} <= set(tasks.names())
    assert list(tasks.names()) == sorted(tasks.names())
    assert isinstance(tasks.create("regression", target="age"), tasks.Regression)


@pytest.mark.parametrize("name", tasks.names())
def test_every_parameter_is_typed_and_documented(name):
    cls = tasks.family.get(name)
    hints = get_type_hints(cls.__init__, include_extras=True)
    for parameter in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert parameter in hints
        assert f"        {parameter}: " in cls.__doc__


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classification", {"counts"}),
        ("contrastive", set()),
        ("count", {"mean", "std"}),
        ("masked_tokens", {"counts", "longest"}),
        ("ctc", {"counts", "longest"}),
        ("dense_regression", {"mean", "std", "image_size"}),
        ("depth", {"mean", "std", "image_size"}),
        ("edges", {"counts", "image_size"}),
        ("multi_label", {"counts", "known"}),
        ("normals", {"mean", "image_size"}),
        ("ordinal", {"counts"}),
        ("reconstruction", {"mean", "counts", "cardinalities", "image_size"}),
        ("regression", {"mean", "std"}),
        ("rotation", set()),
        ("segmentation", {"counts", "ids", "image_size"}),
        ("survival", {"edges", "events", "at_risk"}),
        ("tagging", {"counts"}),
    ],
)
def test_what_comes_from_the_data_alone_is_marked(name, expected):
    hints = get_type_hints(tasks.family.get(name).__init__, include_extras=True)
    assert {p for p, hint in hints.items() if FROM_DATA in getattr(hint, "__metadata__", ())} == expected


def test_torchmetrics_is_not_imported_before_it_is_used():
    code = "import sys, polytask.tasks; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
