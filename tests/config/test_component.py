from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, ValidationError
from torch import nn

from polytask.components import Family, FromData
from polytask.config import component, families
from polytask.config.component import make_component
from polytask.config.families import Kind, family_of
from polytask.errors import UserError


class Animal: ...


def short(name: str) -> str:
    if len(name) > 5:
        raise ValueError("a name has at most 5 letters")
    return name


class Dog(Animal):
    """Barks."""

    def __init__(
        self, age: int = 3, nick: Annotated[str, AfterValidator(short)] = "Rex", tail: int | None = None
    ) -> None:
        if age < 0:
            raise UserError(f"A dog's age is {age}, but must be at least 0.")
        if tail == 0:
            raise ValueError("a dog needs a tail and an age")


class Fish(Animal):
    def __init__(self, *, size: int, water: FromData[float]) -> None:
        self.size, self.water = size, water


class Stone(Animal):
    def __init__(self, weight: nn.Module) -> None: ...


@pytest.fixture(autouse=True)
def animals(monkeypatch):
    family: Family[Any] = Family("animal", Animal, {"dog": Dog, "fish": Fish, "stone": Stone})
    monkeypatch.setattr(component, "family_of", lambda _: family)


def problems(value):
    with pytest.raises(ValidationError) as raised:
        make_component(Kind.SHARING, value)
    return [(error["loc"], error["msg"]) for error in raised.value.errors()]


def test_a_name_is_short_for_a_mapping():
    assert make_component(Kind.SHARING, "dog") == make_component(Kind.SHARING, {"type": "dog"})


def test_parameters_are_complete_and_plain():
    spec = make_component(Kind.SHARING, {"type": "dog", "age": 7})
    assert spec.parameters == {"age": 7, "nick": "Rex", "tail": None}
    assert spec.to_mapping() == {"type": "dog", "age": 7, "nick": "Rex", "tail": None}
    assert spec.cls is Dog
    assert repr(spec) == "ComponentSpec(type='dog', parameters={'age': 7, 'nick': 'Rex', 'tail': None})"


def test_a_checked_component_is_taken_as_it_is():
    spec = make_component(Kind.SHARING, "dog")
    assert make_component(Kind.SHARING, spec) is spec


def test_what_comes_from_the_data_is_given_when_it_is_built():
    fish = make_component(Kind.SHARING, {"type": "fish", "size": 3}).create(water=1.5)
    assert (fish.size, fish.water) == (3, 1.5)


def test_all_problems_are_found_at_once():
    found = dict(problems({"type": "dog", "agee": 3, "nick": "Methuselah", "age": "old"}))
    assert found[("agee",)].startswith("'dog' has no such setting. Did you mean 'age'?")
    assert "at most 5 letters" in found[("nick",)]
    assert "valid integer" in found[("age",)]


def test_a_constructors_own_checks_are_made_and_placed_where_they_name_one_setting():
    assert problems({"type": "dog", "age": -1}) == [(("age",), "A dog's age is -1, but must be at least 0.")]
    assert problems({"type": "dog", "age": 1, "tail": 0}) == [((), "a dog needs a tail and an age")]


def test_a_class_that_cannot_be_configured_says_why():
    ((place, message),) = problems("stone")
    assert place == ()
    assert "its parameter 'weight' has the type torch" in message


def test_every_kind_has_a_family_of_its_own():
    found = {kind: families.family_of(kind) for kind in Kind}
    assert len({id(family) for family in found.values()}) == len(Kind)
    assert family_of(Kind.OPTIMIZER).kind == "optimiser"
    assert all(family.names() for family in found.values())
