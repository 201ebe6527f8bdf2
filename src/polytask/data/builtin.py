"""Data sets that come with Polytask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from polytask.data.multidigits import read_multidigits
from polytask.data.splits import Split
from polytask.data.table import Table
from polytask.errors import UserError, closest, listing

_SETS: Mapping[str, Callable[[], tuple[Table, Split | None]]] = {"multidigits": read_multidigits}


def builtin_names() -> tuple[str, ...]:
    """The names of the built-in data sets, sorted."""
    return tuple(sorted(_SETS))


def read_builtin(name: str) -> tuple[Table, Split | None]:
    """A built-in data set, and its split where it has one.

    Raises:
        UserError: There is none of that name.
    """
    if name not in _SETS:
        raise UserError(
            f"There is no built-in data set '{name}'.{closest(name, _SETS)} Built in: {listing(builtin_names())}. "
            "Give a path for data of your own."
        )
    return _SETS[name]()
