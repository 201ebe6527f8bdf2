"""A component in a configuration: its name and its parameters, checked against its class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from polytask.components import import_from
from polytask.config.derive import from_data_names, model_of, nested_kinds
from polytask.config.document import KeyPath
from polytask.config.errors import Problem, found_text, unknown_key, validation_error
from polytask.config.families import Kind, family_of
from polytask.errors import UserError, listing

REFERENCE = "x-polytask-component"
"""Marks in a JSON schema where a component's own schema goes."""


@dataclass(frozen=True)
class ComponentSpec:
    """What builds a component.

    Attributes:
        type: Its name in its family, or the import path of a class of the user's own.
        parameters: Everything that its `__init__` takes from a configuration, defaults included, as plain values.
        kind: The family.
    """

    type: str
    parameters: Mapping[str, Any]
    kind: Kind = field(repr=False)

    @property
    def cls(self) -> Any:
        """The component's class."""
        return family_of(self.kind).get(self.type)

    def create(self, **others: Any) -> Any:
        """Build the component.

        Args:
            others: What its `__init__` takes from the data, and what its key decides (a task's `name`).
        """
        nested = nested_kinds(self.cls)
        parameters = {
            name: make_component(Kind(nested[name]), value).create() if name in nested else value
            for name, value in self.parameters.items()
        }
        return family_of(self.kind).create(self.type, **parameters, **others)

    def to_mapping(self) -> dict[str, Any]:
        """The form it has in YAML, complete."""
        return {"type": self.type, **self.parameters}


def make_component(kind: Kind, value: Any, folder: Path | None = None) -> ComponentSpec:
    """Check a component as it is written in YAML, and complete it.

    Args:
        kind: The family.
        value: A name, or a mapping with `type` and parameters.
        folder: Where, beside the working directory, modules of the user's own are looked for.

    Raises:
        ValidationError: It is not one of the family, or its parameters are wrong.
    """
    if isinstance(value, ComponentSpec) and value.kind is kind:
        return value
    cls = _class_of(kind, value, folder)
    given = {} if isinstance(value, str) else {key: part for key, part in value.items() if key != "type"}
    name = value if isinstance(value, str) else value["type"]
    model = model_of(cls, kind.fixed)
    allowed = [str(info.alias) for info in model.model_fields.values()]
    problems = [Problem((key,), _refusal(kind, name, cls, key, allowed)) for key in given if key not in allowed]
    try:
        known = {key: part for key, part in given.items() if key in allowed}
        checked = model.model_validate(known, context={"folder": folder})
    except ValidationError as error:
        raise validation_error(problems, error.errors(include_url=False)) from None
    if problems:
        raise validation_error(problems)
    spec = ComponentSpec(name, checked.model_dump(mode="json", by_alias=True), kind)
    _try_out(spec, cls, given)
    return spec


def _class_of(kind: Kind, value: Any, folder: Path | None) -> Any:
    family = family_of(kind)
    allowed = f"Allowed: {listing(family.names(), limit=60)}."
    name: Any = value if isinstance(value, str) else None
    path: KeyPath = ()
    if isinstance(value, Mapping):
        if "type" not in value:
            raise validation_error([Problem((), f"the {family.kind} has no 'type'. {allowed}")])
        name, path = value["type"], ("type",)
    if not isinstance(name, str):
        message = (
            f"expected the name of a {family.kind}, or a mapping with its type and settings, "
            f"found {found_text(name if path else value)}. {allowed}"
        )
        raise validation_error([Problem(path, message)])
    try:
        if folder is not None and "." in name:
            import_from(folder)
        cls: Any = family.get(name)
        model_of(cls, kind.fixed)
    except UserError as error:
        raise validation_error([Problem(path, str(error))]) from error
    return cls


def _refusal(kind: Kind, name: str, cls: Any, key: Any, allowed: list[str]) -> str:
    if key in kind.fixed:
        return f"'{key}' is not set here: the {kind}'s key is its {key}."
    if key in from_data_names(cls):
        return f"'{key}' comes from the data and cannot be set."
    return unknown_key(key, allowed, f"'{name}'")


def _try_out(spec: ComponentSpec, cls: Any, given: Mapping[str, Any]) -> None:
    """Build what needs no data, so that a constructor's own checks are made now."""
    if spec.kind in (Kind.TASK, Kind.ENCODER) or from_data_names(cls):
        return
    try:
        spec.create()
    except (UserError, ValueError) as error:
        named = [key for key in given if re.search(rf"\b{re.escape(key)}\b", str(error))]
        path = (named[0],) if len(named) == 1 else ()
        raise validation_error([Problem(path, str(error))]) from error


@dataclass(frozen=True)
class OfKind:
    """Makes a field of a model a component of a kind: `Annotated[ComponentSpec, OfKind(Kind.TASK)]`."""

    kind: Kind
    optional: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validation by `make_component`, serialisation to the form in YAML."""
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec: None if spec is None else spec.to_mapping()
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A mark, in the place of the schemas of all members."""
        mark: JsonSchemaValue = {REFERENCE: str(self.kind)}
        return {"anyOf": [mark, {"type": "null"}]} if self.optional else mark

    def _validate(self, value: Any, info: ValidationInfo) -> ComponentSpec | None:
        if value is None and self.optional:
            return None
        return make_component(self.kind, value, (info.context or {}).get("folder"))


def nested_type(kind: str) -> Any:
    """The type of a parameter that is itself a component of this kind."""
    return Annotated[ComponentSpec, OfKind(Kind(kind))]
