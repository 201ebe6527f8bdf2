import json
from pathlib import Path

import pytest

import polytask.cli
from polytask.config import Config, Kind, json_schema
from polytask.config.document import parse_document, read_document
from polytask.config.families import family_of

DEMO = Path(polytask.cli.__file__).with_name("demo.yaml")


@pytest.fixture(scope="module")
def schema():
    return json_schema()


def resolve(schema, part):
    while "$ref" in part:
        part = schema["$defs"][part["$ref"].removeprefix("#/$defs/")]
    return part


def parts(value, path=()):
    if isinstance(value, dict):
        yield path, value
        for key, part in value.items():
            yield from parts(part, (*path, key))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from parts(part, (*path, position))


def test_it_is_json(schema):
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["$schema"].endswith("2020-12/schema")


def test_every_reference_leads_somewhere(schema):
    references = [part["$ref"] for _, part in parts(schema) if isinstance(part.get("$ref"), str)]
    assert len(references) > 30
    for reference in references:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def test_descriptions_are_for_users(schema):
    descriptions = [part["description"] for _, part in parts(schema) if isinstance(part.get("description"), str)]
    assert len(descriptions) > 100
    assert not [text for text in descriptions if "Attributes:" in text or "Args:" in text]


def test_it_has_the_sections_with_their_descriptions(schema):
    assert list(schema["properties"]) == list(Config.model_fields)
    assert schema["required"] == ["data", "inputs", "tasks"]
    training = resolve(schema, schema["properties"]["training"])
    assert (
        training["properties"]["epochs"]["description"]
        == "How many epochs there are; after each one the model is validated, and a checkpoint is written."
    )
    assert training["properties"]["epochs"]["minimum"] == 1
    assert training["properties"]["optimizer"]["default"] == {"type": "adamw"}
    limits = training["properties"]["gradient_clip"]["anyOf"]
    assert {"type": "number", "exclusiveMinimum": 0} in limits


def test_unknown_keys_are_refused_at_every_level(schema):
    objects = [part for _, part in parts(schema) if part.get("type") == "object" and "properties" in part]
    own = [part for part in objects if "pattern" in part["properties"].get("type", {})]
    assert len(own) == len(Kind)
    assert all(part["additionalProperties"] is False for part in objects if part not in own)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_component_is_an_alternative_with_its_settings(schema, kind):
    alternatives = [resolve(schema, part) for part in schema["$defs"][kind]["oneOf"]]
    names = [
        part["properties"]["type"]["const"]
        for part in alternatives
        if "const" in part.get("properties", {}).get("type", {})
    ]
    assert tuple(names) == family_of(kind).names()
    for part in alternatives[: len(names)]:
        assert part["required"][0] == "type"
        assert part["description"]
        assert "shape" not in part["properties"]
        for name, setting in part["properties"].items():
            assert setting.get("description"), f"{kind} {part['title']}: {name} is not described"


def test_choices_are_listed(schema):
    metric = schema["$defs"]["task.regression"]["properties"]["metric"]
    assert metric["enum"] == ["mae", "rmse", "r2", "pearson", "spearman"]
    assert "name" not in schema["$defs"]["task.regression"]["properties"]


def test_bare_names_are_offered_where_nothing_has_to_be_given(schema):
    *_, bare = schema["$defs"]["input"]["oneOf"]
    needy = {"graph_table", "sequence", "text"}
    assert bare["anyOf"][0]["enum"] == [name for name in family_of(Kind.INPUT).names() if name not in needy]


def test_it_accepts_good_files_and_refuses_bad_ones(schema):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    demo = read_document(DEMO).data
    assert not list(validator(schema).iter_errors(demo))
    assert not list(validator(schema).iter_errors(Config.from_mapping(demo).to_mapping()))
    changes = ["x: 1", "balancing: eqal", "balancing: {type: equal, x: 1}", "training: {epochs: 0}", "tasks: {y: {}}"]
    for change in changes:
        assert list(validator(schema).iter_errors({**demo, **parse_document(change, "").data})), change
    for change in ["balancing: my.Own", "balancing: {type: my.Own, x: 1}", "training: {precision: 32}"]:
        assert not list(validator(schema).iter_errors({**demo, **parse_document(change, "").data})), change
