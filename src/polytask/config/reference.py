"""What can be said of a component without running it: for help texts and reference pages."""

from __future__ import annotations

import enum
import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from polytask.config.component import OfKind
from polytask.config.derive import parameters_of
from polytask.config.docstrings import description_of, summary_of
from polytask.config.families import Kind, family_of

_PLAIN = {float: "number", int: "integer", bool: "true or false", str: "text", type(None): "null", Any: "any value"}


@dataclass(frozen=True)
class Setting:
    """One setting of a component.

    Attributes:
        name: Its name.
        type: What it takes, in words: `"number"`, `"'a' or 'b'"`, `"list of text or null"`.
        default: Its default as YAML writes it; None where it must be given.
        description: What it does.
    """

    name: str
    type: str
    default: str | None
    description: str


@dataclass(frozen=True)
class Entry:
    """One component.

    Attributes:
        name: Its name in its family.
        summary: The first paragraph of its description.
        description: All of it.
        settings: What can be set.
    """

    name: str
    summary: str
    description: str
    settings: tuple[Setting, ...]


def entry_of(kind: Kind, name: str) -> Entry:
    """Describe one component.

    Raises:
        UserError: There is none of that name.
    """
    cls: Any = family_of(kind).get(name)
    settings = tuple(
        Setting(
            parameter.name,
            type_text(parameter.annotation),
            None if parameter.required else json.dumps(parameter.default, ensure_ascii=False, default=_plain),
            parameter.description,
        )
        for parameter in parameters_of(cls)
        if parameter.name not in kind.fixed
    )
    return Entry(name, summary_of(cls), description_of(cls), settings)


def type_text(annotation: Any) -> str:
    """A parameter's type in words."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        of_kind = next((mark for mark in arguments[1:] if isinstance(mark, OfKind)), None)
        if of_kind is None:
            return type_text(arguments[0])
        return f"the {family_of(of_kind.kind).kind}" + (" or null" if of_kind.optional else "")
    if origin is Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    return _collection_text(origin, arguments) if arguments else _class_text(annotation)


def _collection_text(origin: Any, arguments: tuple[Any, ...]) -> str:
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of names to {type_text(arguments[1])}"
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {', '.join(map(type_text, arguments))}"
    return f"list of {type_text(arguments[0])}"


def _class_text(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(repr(member.value) for member in annotation)
    if is_typeddict(annotation):
        parts = get_type_hints(annotation).items()
        return f"mapping with {', '.join(f'{name} ({type_text(hint)})' for name, hint in parts)}"
    return inspect.formatannotation(annotation)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)
