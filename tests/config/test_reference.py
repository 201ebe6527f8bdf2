from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from polytask.config.families import Kind, family_of
from polytask.config.reference import entry_of, type_text
from polytask.data.column_types import ColumnType
from polytask.errors import UserError


def test_a_component_is_described_by_its_docstring_and_signature():
    entry = entry_of(Kind.OPTIMIZER, "adamw")
    assert entry.name == "adamw"
    assert entry.summary.startswith("Adam with decoupled weight decay")
    settings = {setting.name: setting for setting in entry.settings}
    assert (settings["lr"].type, settings["lr"].default, settings["lr"].description) == (
        "number",
        "0.001",
        "Learning rate.",
    )
    assert settings["betas"].type == "list of number, number"
    assert settings["betas"].default == "[0.9, 0.999]"
    assert settings["decay_all"].default == "false"


def test_what_must_be_given_has_no_default():
    column = next(setting for setting in entry_of(Kind.INPUT, "text").settings if setting.name == "column")
    assert column.default is None


def test_a_task_is_described_without_its_name_and_without_what_the_data_say():
    names = [setting.name for setting in entry_of(Kind.TASK, "regression").settings]
    assert names[0] == "target"
    assert not {"name", "mean", "std"} & set(names)


def test_an_unknown_name_is_the_users_error():
    with pytest.raises(UserError, match="There is no balancer 'eqal'"):
        entry_of(Kind.BALANCER, "eqal")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in Kind for name in family_of(kind).names()])
def test_everything_that_can_be_set_is_described(kind, name):
    entry = entry_of(kind, name)
    assert entry.summary
    assert entry.description.startswith(entry.summary)
    assert not [setting.name for setting in entry.settings if not setting.description]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float | None, "number or null"),
        (Literal["a", 1], "'a' or 1"),
        (int | Literal["auto"], "integer or 'auto'"),
        (Annotated[bool, Field()], "true or false"),
        (str | Sequence[str], "text or list of text"),
        (tuple[int, ...], "list of integer"),
        (tuple[int, float], "list of integer, number"),
        (Mapping[str, float], "mapping of names to number"),
        (
            ColumnType,
            "'number' or 'boolean' or 'category' or 'text' or 'image' or 'audio' or 'list' or 'date' or 'other'",
        ),
        (Any, "any value"),
        (Path, "pathlib.Path"),
    ],
)
def test_types_are_put_into_words(annotation, text):
    assert type_text(annotation) == text
