"""What can be set of a component, derived from the signature and docstring of its class."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    Strict,
    TypeAdapter,
    create_model,
)

from polytask.components import FROM_DATA, Nested
from polytask.config.docstrings import argument_descriptions
from polytask.errors import UserError

STRICT = ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _exponent(value: Any) -> Any:
    """`1e-3` as a number: YAML 1.1, which most libraries read, takes it for text."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Number = Annotated[float, BeforeValidator(_exponent)]

_UNORDERED_OR_FIXED = (tuple, set, frozenset, Set, typing.AbstractSet)


@dataclass(frozen=True)
class Parameter:
    """One setting of a component.

    Attributes:
        name: Its name.
        annotation: Its type, as pydantic checks it.
        default: Its default, `inspect.Parameter.empty` where it must be given.
        description: What the docstring says of it.
    """

    name: str
    annotation: Any
    default: Any
    description: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty


@cache
def parameters_of(cls: type) -> tuple[Parameter, ...]:
    """The parameters of a component that a configuration can set, in the signature's order.

    Those that come from the data are left out, and those with a default whose type YAML cannot express.

    Raises:
        UserError: A parameter must be given, but no YAML value is of its type.
    """
    descriptions = argument_descriptions(cls)
    found = []
    for parameter, hint in _signature(cls).values():
        if is_from_data(hint):
            continue
        annotation = configurable(hint)
        if _expressible(annotation):
            found.append(Parameter(parameter.name, annotation, parameter.default, descriptions.get(parameter.name, "")))
        elif parameter.default is inspect.Parameter.empty:
            raise UserError(
                f"'{cls.__module__}.{cls.__qualname__}' cannot be configured: its parameter '{parameter.name}' has the "
                f"type {inspect.formatannotation(hint)}, which no YAML value has. Give it a default, or another type."
            )
    return tuple(found)


@cache
def model_of(cls: type, fixed: Collection[str] = frozenset()) -> type[BaseModel]:
    """A pydantic model of a component's parameters.

    Args:
        cls: The component.
        fixed: Parameters that something else decides.
    """
    fields: dict[str, Any] = {}
    for parameter in parameters_of(cls):
        if parameter.name in fixed:
            continue
        default = {} if parameter.required else {"default": parameter.default}
        described = Field(alias=parameter.name, description=parameter.description or None, **default)
        # The underscore keeps parameters called `copy` or `schema` apart from the model's own attributes.
        fields[f"{parameter.name}_"] = (parameter.annotation, described)
    return create_model(cls.__name__, __config__=ConfigDict(**STRICT, protected_namespaces=()), **fields)


@cache
def from_data_names(cls: type) -> frozenset[str]:
    """The parameters of a component whose values come from the data."""
    return frozenset(name for name, (_, hint) in _signature(cls).items() if is_from_data(hint))


@cache
def nested_kinds(cls: type) -> dict[str, str]:
    """The parameters of a component that are components themselves, each with its kind."""
    found = {name: _nested(hint) for name, (_, hint) in _signature(cls).items()}
    return {name: mark.kind for name, mark in found.items() if mark is not None}


def _nested(hint: Any) -> Nested | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((mark for mark in hint.__metadata__ if isinstance(mark, Nested)), None)


def is_from_data(hint: Any) -> bool:
    """Whether a parameter of this type gets its value from the data."""
    if get_origin(hint) is Annotated and FROM_DATA in hint.__metadata__:
        return True
    return get_origin(hint) in (Union, types.UnionType) and any(is_from_data(part) for part in get_args(hint))


def configurable(hint: Any) -> Any:
    """A type such that pydantic's strict mode takes what YAML has for it: lists for tuples and sets, text for paths."""
    if hint is float:
        return Number
    if hasattr(hint, "__value__"):  # `type Name = ...`, from Python 3.12 on
        return configurable(hint.__value__)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(configurable(argument) for argument in arguments)]  # noqa: UP007 (of a computed tuple)
    if origin is typing.Literal or origin is None:
        loose = hint in _UNORDERED_OR_FIXED or (isinstance(hint, type) and issubclass(hint, enum.Enum | PurePath))
        return Annotated[hint, Strict(False)] if loose else hint
    rebuilt = origin[tuple(configurable(argument) for argument in arguments)]
    return Annotated[rebuilt, Strict(False)] if origin in _UNORDERED_OR_FIXED else rebuilt


def _annotated(hint: Any) -> Any:
    mark = _nested(hint)
    if mark is None:
        return Annotated[(configurable(get_args(hint)[0]), *hint.__metadata__)]
    # A component is checked by what reads its signature here: each needs the other.
    from polytask.config.component import nested_type

    return nested_type(mark.kind)


def _signature(cls: type) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The parameters of `__init__` with their types; through `**options`, those of the base class's too."""
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    for owner in cls.__mro__:
        init = vars(owner).get("__init__")
        if init is None or owner is object:
            continue
        try:
            hints = typing.get_type_hints(init, include_extras=True)
        except NameError as error:
            raise UserError(
                f"'{cls.__module__}.{cls.__qualname__}' cannot be configured: a type of its __init__ is not known "
                f"when it runs: {error}. Import it outside `if TYPE_CHECKING:`."
            ) from error
        passes_on = False
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, (parameter, hints.get(parameter.name, Any)))
        if not passes_on:
            break
    return found


def _expressible(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return False
    return True
