"""Parameters that are components themselves."""

import jsonschema
import pytest
from pydantic import ValidationError

from polytask.config.component import make_component
from polytask.config.families import Kind
from polytask.config.json_schema import json_schema
from polytask.config.reference import entry_of
from polytask.schedules import Alternating, Curriculum
from polytask.schedules.orders import ByLoss, RoundRobin


def test_a_nested_component_is_a_name_or_a_mapping_and_is_completed():
    named = make_component(Kind.SCHEDULE, {"type": "alternating", "order": "by_loss"})
    assert named.parameters["order"] == {"type": "by_loss", "power": 1.0}
    given = make_component(Kind.SCHEDULE, {"type": "alternating", "order": {"type": "by_loss", "power": 2}})
    schedule = given.create()
    assert isinstance(schedule, Alternating)
    assert isinstance(schedule.order, ByLoss)
    assert schedule.order.power == 2
    assert isinstance(make_component(Kind.SCHEDULE, "alternating").create().order, RoundRobin)


def test_nested_components_nest():
    given = {"type": "curriculum", "start": {"b": 2}, "within": {"type": "alternating", "order": {"type": "learned"}}}
    spec = make_component(Kind.SCHEDULE, given)
    assert spec.parameters["within"]["order"] == {"type": "learned", "rate": 1.0, "exploration": 0.1}
    assert make_component(Kind.SCHEDULE, spec.to_mapping()) == spec
    schedule = spec.create()
    assert isinstance(schedule, Curriculum)
    assert isinstance(schedule.within, Alternating)


@pytest.mark.parametrize(
    ("order", "where", "message"),
    [
        ("by_los", ("order",), "Did you mean 'by_loss'"),
        ({"type": "by_loss", "powr": 2}, ("order", "powr"), "Did you mean 'power'"),
        ({"type": "by_loss", "power": "much"}, ("order", "power"), "number"),
        (3, ("order",), "expected the name of a order"),
    ],
)
def test_what_is_wrong_in_it_is_named_with_its_place(order, where, message):
    with pytest.raises(ValidationError) as caught:
        make_component(Kind.SCHEDULE, {"type": "alternating", "order": order})
    (error,) = caught.value.errors()
    assert tuple(error["loc"])[: len(where)] in {where, tuple(f"{part}_" for part in where[:1]) + where[1:]}
    assert message in str(error)


def test_the_json_schema_refers_to_the_family():
    schema = json_schema()
    assert schema["$defs"]["schedule.alternating"]["properties"]["order"]["$ref"] == "#/$defs/order"
    part = {"$defs": schema["$defs"], "$ref": "#/$defs/schedule"}
    jsonschema.validate({"type": "alternating", "order": {"type": "by_loss", "power": 2}}, part)
    after = {"after": "a", "metric": "mae", "reaches": 1.5}
    jsonschema.validate({"type": "curriculum", "start": {"b": 3, "c": after}, "within": "alternating"}, part)
    for wrong in ({"type": "alternating", "order": {"type": "by_loss", "powr": 2}}, {"type": "curriculum", "start": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, part)


def test_it_is_described_in_words():
    settings = {setting.name: setting for setting in entry_of(Kind.SCHEDULE, "curriculum").settings}
    assert (settings["within"].type, settings["within"].default) == ("the schedule", '"joint"')
    words = "mapping of names to integer or mapping with after (text), metric (text), reaches (number)"
    assert settings["start"].type == words
