"""From what pydantic found to one message for the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from polytask.config.document import Document, KeyPath
from polytask.errors import UserError, closest, listing

AllowedKeys = Callable[[KeyPath], Iterable[str]]

_SHOWN = 10
_OWN = "polytask"
_KNOWN = frozenset(get_args(ErrorType))

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "sequence_str": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "none_required": "null",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of {max_length} or fewer characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} or fewer entries",
}
_CLASSES = {"Sequence": "a list", "Collection": "a list", "Mapping": "a mapping (key: value)"}


@dataclass(frozen=True)
class Problem:
    """Something wrong in a configuration.

    Attributes:
        path: Where.
        message: What, and what is allowed: a sentence's rest after "key: ".
    """

    path: KeyPath
    message: str


def custom(message: str) -> PydanticCustomError:
    """An error whose message is complete as it is."""
    return PydanticCustomError(_OWN, "{message}", {"message": message})


def validation_error(problems: Sequence[Problem], others: Sequence[ErrorDetails] = ()) -> ValidationError:
    """The error to raise from within a validation: our own problems together with pydantic's."""
    own: list[InitErrorDetails] = [
        {"type": custom(problem.message), "loc": problem.path, "input": None} for problem in problems
    ]
    return ValidationError.from_exception_data("configuration", own + [_again(error) for error in others])


def _again(error: ErrorDetails) -> InitErrorDetails:
    kind = error["type"] if error["type"] in _KNOWN else custom(error["msg"])
    return {"type": kind, "loc": error["loc"], "input": error["input"], "ctx": error.get("ctx", {})}


def unknown_key(key: Any, allowed: Iterable[str], of: str = "") -> str:
    """The message for a key that does not exist."""
    allowed = list(allowed)
    there = f"{of} has no such setting" if of else "there is no such key"
    return f"{there}.{closest(str(key), allowed)} Allowed: {listing(allowed, limit=40) or 'none'}."


def problems_of(error: ValidationError, data: Any, allowed_keys: AllowedKeys) -> list[Problem]:
    """What pydantic found, one problem for each place.

    Args:
        error: From the validation of `data`.
        data: The values as the user gave them.
        allowed_keys: The keys of the section at a path.
    """
    places: dict[KeyPath, list[ErrorDetails]] = {}
    problems = []
    for details in error.errors(include_url=False):
        if details["type"] == _OWN:
            problems.append(Problem(details["loc"], details["msg"]))
        else:
            path, branch = _follow(details, data)
            places.setdefault(path if branch is None else branch, []).append(details)
    for found in places.values():
        # A union reports each of its members; the ones that got furthest into the value are those that were meant.
        paths = [_follow(details, data)[0] for details in found]
        depth = max(map(len, paths))
        chosen = [(path, details) for path, details in zip(paths, found, strict=True) if len(path) == depth]
        for path in dict.fromkeys(path for path, _ in chosen):
            here = [details for other, details in chosen if other == path]
            problems.append(Problem(path, _message(path, here, allowed_keys)))
    return problems


def user_error(document: Document, problems: Sequence[Problem]) -> UserError:
    """One error that lists all problems, each with its place."""
    order = document.in_order(dict.fromkeys(problem.path for problem in problems))
    lines = [
        f"{document.place(problem.path)}: {key_text(problem.path)}{problem.message}"
        for problem in sorted(problems, key=lambda problem: order.index(problem.path))
    ]
    if len(lines) == 1:
        return UserError(lines[0])
    shown = lines[:_SHOWN]
    if len(lines) > _SHOWN:
        shown.append(f"and {len(lines) - _SHOWN} more")
    return UserError(f"{document.source} has {len(lines)} problems:\n  " + "\n  ".join(shown))


def key_text(path: KeyPath) -> str:
    """`training.epochs: `, nothing for the whole."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return f"{text}: " if text else ""


def found_text(value: Any) -> str:
    """A value as the user would write it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _follow(details: ErrorDetails, data: Any) -> tuple[KeyPath, KeyPath | None]:
    """The keys of an error's location that are in the data, and those before the first member of a union."""
    path: KeyPath = ()
    branch: KeyPath | None = None
    value = data
    for position, key in enumerate(details["loc"]):
        if _is_within(key, value):
            value, path = value[key], (*path, key)
        elif position == len(details["loc"]) - 1 and details["type"] == "missing":
            path = (*path, key)
        elif branch is None and key != "[key]":
            branch = path
    return path, branch


def _is_within(key: str | int, value: Any) -> bool:
    if isinstance(value, Mapping):
        return key in value
    return isinstance(value, list | tuple) and isinstance(key, int) and key < len(value)


def _message(path: KeyPath, found: Sequence[ErrorDetails], allowed_keys: AllowedKeys) -> str:
    first = found[0]
    match first["type"]:
        case "extra_forbidden":
            return unknown_key(path[-1], allowed_keys(path[:-1]))
        case "missing":
            return "is missing; it has no default."
        case "value_error" | "assertion_error":
            return str(first.get("ctx", {}).get("error", first["msg"]))
    value = first["input"]
    if first["loc"][-1:] == ("[key]",) or first["type"] == "invalid_key":
        return f"the key {value!r} must be text; in Python, write '{value}' with quotes."
    *others, last = dict.fromkeys(_expected(details) for details in found)
    expected = f"{', '.join(others)} or {last}" if others else last
    return f"expected {expected}, found {found_text(value)}.{_hint(found, value)}"


def _expected(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] in ("literal_error", "enum"):
        return str(context["expected"])
    if details["type"] == "is_instance_of":
        return _CLASSES.get(context["class"], str(context["class"]))
    if details["type"] in _EXPECTED:
        return _EXPECTED[details["type"]].format(**context)
    return f"something else ({details['msg']})"


def _hint(found: Sequence[ErrorDetails], value: Any) -> str:
    allowed = [
        word
        for details in found
        if details["type"] in ("literal_error", "enum")
        for word in re.findall(r"'([^']*)'", details.get("ctx", {})["expected"])
    ]
    if isinstance(value, str):
        return closest(value, allowed)
    if isinstance(value, bool | int | float) and any(details["type"] == "string_type" for details in found):
        return " If it is text, put it in quotes."
    return ""
