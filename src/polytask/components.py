"""Families of components: balancers, sharing schemes, encoders, tasks, listed and built by name.

A component is a class with a typed, documented `__init__`, and that is all that is written of it: its YAML form, JSON
schema, help text and reference page are derived from the signature.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from polytask.errors import UserError, closest, listing

T = TypeVar("T")


class _FromData:
    """Marks a parameter whose value comes from the data, never from the configuration."""

    def __repr__(self) -> str:
        return "FROM_DATA"


FROM_DATA = _FromData()
FromData = Annotated[T, FROM_DATA]


@dataclass(frozen=True)
class Nested:
    """Marks a parameter that is itself a component: `Annotated[Order | str, Nested("order")]`.

    In a configuration it is a name, or a mapping with its type and settings.

    Attributes:
        kind: What it is: the value of a `polytask.config.families.Kind`.
    """

    kind: str


class Family(Generic[T]):
    """The components of one kind by name, and users' own by import path.

    Args:
        kind: What a member is, for messages: `"balancer"`.
        base: The class that every member derives from.
        members: The built-in classes by name (snake_case, the literature's name).
    """

    def __init__(self, kind: str, base: type[T], members: Mapping[str, type[T]]) -> None:
        self.kind = kind
        self.base = base
        self._members = dict(members)

    def names(self) -> tuple[str, ...]:
        """The names of the built-in members, sorted."""
        return tuple(sorted(self._members))

    def get(self, name: str) -> type[T]:
        """The class called `name`, or at the import path `name` (`package.module.Class`).

        Raises:
            UserError: There is none, or what is there is not one of this family.
        """
        if name in self._members:
            return self._members[name]
        if "." in name:
            return self._imported(name)
        raise UserError(
            f"There is no {self.kind} '{name}'.{closest(name, self._members)} "
            f"Allowed: {listing(self.names(), limit=60)}, or the import path of a class of your own."
        )

    def create(self, name: str, /, **parameters: Any) -> T:
        """Build the member called `name`.

        Raises:
            UserError: There is none of that name, or it does not take these parameters.
        """
        cls = self.get(name)
        try:
            return cls(**parameters)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise UserError(f"{self.kind} '{name}': {error}") from error

    def _imported(self, path: str) -> type[T]:
        module_name, _, class_name = path.rpartition(".")
        # The command `polytask` starts without the working directory on the path, unlike `python -m polytask`.
        import_from(Path.cwd())
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if not module_name.strip(".") or (missing and f"{module_name}.".startswith(f"{missing}.")):
                raise UserError(
                    f"Cannot import '{module_name}' for the {self.kind} '{path}'. "
                    "Is it installed, or in the folder you start polytask from?"
                ) from error
            raise UserError(
                f"Importing '{module_name}' for the {self.kind} '{path}' failed: {_described(error)}"
            ) from error
        cls = getattr(module, class_name, None)
        if cls is None:
            raise UserError(f"'{module_name}' has no class '{class_name}'.{closest(class_name, vars(module))}")
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise UserError(f"'{path}' is no {self.kind}: it must derive from {self.base.__name__}.")
        if inspect.isabstract(cls):
            missing_methods = sorted(getattr(cls, "__abstractmethods__", ()))
            raise UserError(f"'{path}' is not complete: it lacks {listing(missing_methods)}.")
        return cls


def import_from(folder: Path) -> None:
    """Let import paths name modules in `folder` as well; what is installed goes first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()


def _described(error: Exception) -> str:
    """An error in the user's own module, in one line with its place."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
