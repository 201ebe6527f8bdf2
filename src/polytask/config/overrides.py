"""Single settings given beside the file: `training.epochs=3`."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polytask.config.document import Document, KeyPath, parse_value
from polytask.errors import UserError

DefaultAt = Callable[[KeyPath, Mapping[str, Any]], Mapping[str, Any] | None]

_EXAMPLE = "Write key=value, for example training.epochs=3."


def apply_overrides(document: Document, overrides: Sequence[str], default_at: DefaultAt) -> Document:
    """A copy of `document` in which some keys have other values.

    Args:
        document: Where the keys are.
        overrides: Each `key.path=value`, the value in YAML. A part of the path with dots of its own is put in double
            quotes: `data.columns."a.b"=text`.
        default_at: Given a path and the values, the component that stands there by default: with it
            `training.optimizer.lr=0.1` changes the default optimiser.

    Raises:
        UserError: An override is not of this form.
    """
    changed = Document(document.source, copy.deepcopy(document.data), dict(document.origins))
    for override in overrides:
        _apply(changed, override, default_at)
    return changed


def _apply(document: Document, override: str, default_at: DefaultAt) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"The override '{override}' has no '='. {_EXAMPLE}")
    *parents, last = _split(key.strip(), override)
    value = parse_value(text, f"The override '{override}'")
    place = f"the override '{override}'"
    path: KeyPath = ()
    holder = document.data
    for name in parents:
        step = _step(holder, name, override)
        path = (*path, step)
        holder = _enter(holder, step, default_at(path, document.data), override)
        document.origins.setdefault(path, place)
    step = _step(holder, last, override)
    path = (*path, step)
    holder[step] = value
    for known in [known for known in document.origins if known[: len(path)] == path]:
        del document.origins[known]
    document.origins[path] = place


def _split(key: str, override: str) -> list[str]:
    if not re.fullmatch(r'("[^"]+"|[^".]+)(\.("[^"]+"|[^".]+))*', key):
        raise UserError(f"The override '{override}' does not name a key. {_EXAMPLE}")
    return [part.strip('"') for part in re.findall(r'"[^"]+"|[^".]+', key)]


def _step(holder: Any, name: str, override: str) -> str | int:
    """A key, or in a list a position."""
    if not isinstance(holder, list):
        return name
    if not name.isdecimal() or int(name) >= len(holder):
        raise UserError(
            f"The override '{override}' goes into a list of {len(holder)} entries, which are counted from 0: "
            f"'{name}' is none of them."
        )
    return int(name)


def _enter(holder: Any, step: str | int, default: Mapping[str, Any] | None, override: str) -> Any:
    """What `step` leads to, made a mapping where it is the short form of a component, or is not there."""
    value = holder.get(step) if isinstance(holder, dict) else holder[step]
    if isinstance(value, str):
        value = {"type": value}
    elif value is None:
        value = dict(default or {})
    elif not isinstance(value, dict | list):
        raise UserError(f"The override '{override}' goes into '{step}', which is {value!r} and has no keys.")
    holder[step] = value
    return value
