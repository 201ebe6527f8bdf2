"""The JSON schema of a configuration, for completion and checking in editors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polytask.config.component import REFERENCE
from polytask.config.config import Config
from polytask.config.derive import model_of, parameters_of
from polytask.config.docstrings import summary_of
from polytask.config.families import Kind, family_of
from polytask.config.schema import DEFAULTS

Schema = dict[str, Any]

# Where a limit stands outside of a plain number, pydantic writes its own words for it.
_LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_IMPORT_PATH = r"\w\.\w"


def json_schema() -> Schema:
    """The schema of a YAML configuration, as a JSON value (draft 2020-12)."""
    schema = Config.model_json_schema()
    definitions: Schema = schema.setdefault("$defs", {})
    for path, default in DEFAULTS.items():
        _property(schema, path)["default"] = default
    for kind in Kind:
        definitions[kind.value] = _family_schema(kind, definitions)
    _tidy(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Polytask configuration"}


def _family_schema(kind: Kind, definitions: Schema) -> Schema:
    """Every component of a kind, one alternative each; then bare names, and classes of the user's own."""
    family = family_of(kind)
    alternatives: list[Schema] = []
    bare: list[str] = []
    for name in family.names():
        cls: Any = family.get(name)
        key = f"{kind}.{name}"
        definitions[key] = _component_schema(name, cls, kind, definitions)
        alternatives.append({"$ref": f"#/$defs/{key}"})
        if not any(parameter.required for parameter in parameters_of(cls) if parameter.name not in kind.fixed):
            bare.append(name)
    own = {"type": "string", "pattern": _IMPORT_PATH, "description": f"The import path of a {family.kind} of your own."}
    alternatives.append({"type": "object", "properties": {"type": own}, "required": ["type"]})
    alternatives.append({"type": "string", "anyOf": [{"enum": bare}, own]})
    return {
        "description": f"A {family.kind}: its name, or a mapping.",
        "oneOf": alternatives,
    }


def _component_schema(name: str, cls: Any, kind: Kind, definitions: Schema) -> Schema:
    template = f"#/$defs/{kind}.{name}.{{model}}"
    schema = model_of(cls, kind.fixed).model_json_schema(ref_template=template)
    for own, definition in schema.pop("$defs", {}).items():
        definitions[f"{kind}.{name}.{own}"] = definition
    kind_of = {"const": name, "type": "string", "description": summary_of(cls)}
    return {
        "type": "object",
        "title": name,
        "description": summary_of(cls),
        "properties": {"type": kind_of, **schema.get("properties", {})},
        "required": ["type", *schema.get("required", [])],
        "additionalProperties": False,
    }


def _property(schema: Schema, path: tuple[str, ...]) -> Schema:
    section = schema
    for key in path[:-1]:
        section = schema["$defs"][section["properties"][key]["$ref"].rpartition("/")[2]]
    found: Schema = section["properties"][path[-1]]
    return found


def _tidy(schema: Schema) -> None:
    """Put references in the place of marks, and standard words in that of pydantic's own."""
    for part in _parts(schema):
        if REFERENCE in part:
            part["$ref"] = f"#/$defs/{part.pop(REFERENCE)}"
        if isinstance(part.get("description"), str):
            part["description"] = part["description"].partition("\n\nAttributes:")[0]
        for word, standard in _LIMITS.items():
            if word in part:
                part[standard] = part.pop(word)


def _parts(schema: Any) -> Iterator[Schema]:
    """A schema and all schemas within it; values that only look like one (defaults, names) are passed over."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs"):
        for part in schema.get(key, {}).values():
            yield from _parts(part)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for part in schema.get(key, []):
            yield from _parts(part)
    for key in ("items", "additionalProperties"):
        yield from _parts(schema.get(key))
