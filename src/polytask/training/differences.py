"""What differs between two networks or two preparations, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

_SHOWN = 3
_LONG = 60


def differing_tensors(there: Mapping[str, nn.Module], here: Mapping[str, nn.Module]) -> list[str]:
    """The tensors, by name, that only one of two networks has, or that have another shape.

    Args:
        there: The stages of one network by name.
        here: Those of the other.
    """
    one, other = _shapes(there), _shapes(here)
    found = []
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            found.append(f"{name} {one[name]} only there" if name in one else f"{name} {other[name]} only here")
        elif one[name] != other[name]:
            found.append(f"{name} {one[name]} there, {other[name]} here")
    return found


def differing_values(there: Any, here: Any, where: str = "") -> Iterator[str]:
    """Where two plain values differ; numbers that are equal to six digits do not.

    Args:
        there: Mappings, lists, texts and numbers.
        here: Likewise.
        where: What the values are.
    """
    there, here = _by_name(there), _by_name(here)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            place = f"{where} {key}".strip()
            if key not in here or key not in there:
                yield f"{place} only {'there' if key in there else 'here'}"
            else:
                yield from differing_values(there[key], here[key], place)
        if set(there) == set(here) and list(there) != list(here):
            yield f"{where} in another order"
    elif not _equal(there, here):
        yield f"{where}: {_shown(there)} there, {_shown(here)} here"


def first_of(found: Sequence[str]) -> str:
    """The first few of some differences, and how many more there are."""
    more = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _shapes(stages: Mapping[str, nn.Module]) -> dict[str, str]:
    return {
        f"{stage}.{name}": str(list(value.shape))
        for stage, module in stages.items()
        for name, value in module.state_dict().items()
    }


def _by_name(value: Any) -> Any:
    """A list of columns as a mapping of their names, so that another column does not shift all that follow."""
    if isinstance(value, list) and value and all(isinstance(each, Mapping) and "name" in each for each in value):
        return {f"'{each['name']}'": {key: part for key, part in each.items() if key != "name"} for each in value}
    return value


def _equal(there: Any, here: Any) -> bool:
    if isinstance(there, list) and isinstance(here, list):
        return len(there) == len(here) and all(map(_equal, there, here))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (there, here))
    return math.isclose(there, here, rel_tol=1e-6, abs_tol=1e-12) if numbers else bool(there == here)


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
