import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
import pytest
import torch
from pydantic import Field, ValidationError
from torch import nn

from polytask.components import FromData
from polytask.config.derive import from_data_names, model_of, parameters_of
from polytask.errors import UserError

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


class Colour(enum.StrEnum):
    RED = "red"


class Everything:
    """All kinds of parameters.

    Args:
        rate: How fast.
        depth: How deep.
    """

    def __init__(
        self,
        rate: Annotated[float, annotated_types.Gt(0)],
        depth: int = 2,
        *,
        flag: bool = False,
        words: str | Sequence[str] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        mode: Literal["a", "b"] = "a",
        weights: Literal["balanced"] | Mapping[str, float] | None = None,
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        colour: Colour = Colour.RED,
        file: Path | None = None,
        nested: list[list[int]] = [],  # noqa: B006
        copy: int = 1,
        model_dump: int = 1,
        anything=None,
        activation: Callable[[Any], Any] = torch.relu,
        module: nn.Module | None = None,
        width: FromData[int],
        classes: FromData[Sequence[str] | None] = None,
    ) -> None: ...


def check(cls=Everything, **parameters):
    return model_of(cls).model_validate(parameters).model_dump(mode="json", by_alias=True)


def refused(cls=Everything, **parameters):
    with pytest.raises(ValidationError) as raised:
        model_of(cls).model_validate(parameters)
    return [(error["loc"], error["type"]) for error in raised.value.errors()]


def test_parameters_keep_their_order_defaults_and_descriptions():
    found = {parameter.name: parameter for parameter in parameters_of(Everything)}
    assert list(found)[:4] == ["rate", "depth", "flag", "words"]
    assert found["rate"].required
    assert found["rate"].description == "How fast."
    assert not found["depth"].required
    assert found["depth"].default == 2
    assert found["flag"].description == ""


def test_what_comes_from_the_data_is_left_out():
    assert from_data_names(Everything) == {"width", "classes"}
    assert not {"width", "classes"} & {parameter.name for parameter in parameters_of(Everything)}


def test_what_yaml_cannot_express_is_left_out_where_it_has_a_default():
    assert not {"activation"} & {parameter.name for parameter in parameters_of(Everything)}


def test_defaults_are_completed_with_plain_values():
    assert check(rate=1) == {
        "rate": 1.0,
        "depth": 2,
        "flag": False,
        "words": None,
        "betas": [0.9, 0.999],
        "mode": "a",
        "weights": None,
        "share": 0.5,
        "colour": "red",
        "file": None,
        "nested": [],
        "copy": 1,
        "model_dump": 1,
        "anything": None,
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"rate": 1e-3},
        {"words": "a"},
        {"words": ["a", "b"]},
        {"betas": [0.5, 1]},
        {"mode": "b"},
        {"weights": "balanced"},
        {"weights": {"a": 2.0}},
        {"share": 1},
        {"colour": "red"},
        {"file": "a/b.txt"},
        {"nested": [[1], []]},
        {"anything": {"a": [1]}},
    ],
)
def test_values_of_the_right_type_are_taken(parameters):
    checked = check(**{"rate": 1.0, **parameters})
    assert {name: checked[name] for name in parameters} == parameters


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "+1.0e-3", ".1e-2"])
def test_numbers_with_an_exponent_that_were_read_as_text_are_numbers(written):
    assert check(rate=written)["rate"] == 1e-3
    assert check(rate=1, betas=[written, 1])["betas"] == [1e-3, 1]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"rate": 0}, (("rate",), "greater_than")),
        ({"rate": True}, (("rate",), "float_type")),
        ({"rate": "1"}, (("rate",), "float_type")),
        ({"rate": float("nan")}, (("rate",), "finite_number")),
        ({"depth": 2.0}, (("depth",), "int_type")),
        ({"depth": "2"}, (("depth",), "int_type")),
        ({"depth": True}, (("depth",), "int_type")),
        ({"flag": "yes"}, (("flag",), "bool_type")),
        ({"flag": 1}, (("flag",), "bool_type")),
        ({"betas": [1]}, (("betas", 1), "missing")),
        ({"betas": [1, True]}, (("betas", 1), "float_type")),
        ({"mode": "c"}, (("mode",), "literal_error")),
        ({"share": 2}, (("share",), "less_than_equal")),
        ({"colour": "blue"}, (("colour",), "enum")),
        ({"nested": [["a"]]}, (("nested", 0, 0), "int_type")),
        ({"unknown": 1}, (("unknown",), "extra_forbidden")),
        ({"width": 1}, (("width",), "extra_forbidden")),
    ],
)
def test_values_of_another_type_are_refused(parameters, problem):
    assert problem in refused(**{"rate": 1.0, **parameters})


def test_what_has_no_default_must_be_given():
    assert refused() == [(("rate",), "missing")]


def test_what_something_else_decides_is_left_out():
    assert "depth" not in model_of(Everything, frozenset({"depth"})).model_validate({"rate": 1}).model_dump(
        by_alias=True
    )


def test_the_schema_has_names_types_descriptions_and_constraints():
    schema = model_of(Everything).model_json_schema()
    assert schema["properties"]["rate"] == {
        "description": "How fast.",
        "gt": 0,
        "title": "Rate",
        "type": "number",
    }
    assert schema["properties"]["mode"]["enum"] == ["a", "b"]
    assert schema["required"] == ["rate"]
    assert schema["additionalProperties"] is False


class Base(nn.Module):
    def __init__(self, width: int = 3, depth: int = 1) -> None:
        super().__init__()
        self.size = width, depth


class PassesOn(Base):
    def __init__(self, depth: float = 0.5, **others: Any) -> None:
        super().__init__(**others)
        self.depth_share = depth


class Inherits(Base): ...


class OnlyAModule(nn.Module): ...


class Nothing: ...


@dataclasses.dataclass
class Data:
    size: int = 3


class OwnTypes:
    def __init__(self, module: nn.Module) -> None: ...


class TypeCheckersOnly:
    def __init__(self, x: "OnlyForTypeCheckers") -> None: ...


def test_keyword_arguments_that_are_passed_on_are_those_of_the_base_class():
    assert [(p.name, p.default) for p in parameters_of(PassesOn)] == [("depth", 0.5), ("width", 3)]
    assert refused(PassesOn, heigth=3) == [(("heigth",), "extra_forbidden")]


def test_signatures_are_inherited_or_empty():
    assert [p.name for p in parameters_of(Inherits)] == ["width", "depth"]
    assert parameters_of(OnlyAModule) == parameters_of(Nothing) == ()
    assert check(Data) == {"size": 3}


def test_a_parameter_that_nothing_can_set_is_the_users_error():
    with pytest.raises(UserError, match=r"OwnTypes' cannot be configured: its parameter 'module' has the type "):
        parameters_of(OwnTypes)


def test_types_that_are_not_known_at_run_time_are_the_users_error():
    with pytest.raises(UserError, match=r"'OnlyForTypeCheckers' is not defined. Import it outside `if TYPE_CHECKING:`"):
        parameters_of(TypeCheckersOnly)
