"""What Polytask says when the user's input is wrong, or when an optional library is missing."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType


class UserError(Exception):
    """The user's input is wrong: one clear message, exit code 2, no traceback.

    A good message says what is wrong, where (file, line, key, row), what is allowed, and how to mend it.
    """


class MissingExtra(UserError):
    """A feature was asked for whose optional library is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library '{library}', which is not installed. "
            f"Install it with: pip install 'polytask[{extra}]'"
        )


def require(library: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional library, or say which extra to install.

    Args:
        library: The module to import, for example `"timm"` or `"torchvision.transforms.v2"`.
        extra: The extra of Polytask that brings it.
        purpose: What needs it, as the subject of a sentence: `"The encoder 'timm'"`.

    Raises:
        MissingExtra: The library is not installed.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        top = library.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != top:
            raise
        raise MissingExtra(top, extra, purpose) from error


def closest(word: str, allowed: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` where some allowed word is near `word`, else nothing."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def listing(words: Iterable[str], limit: int = 12) -> str:
    """Words as `'a', 'b', 'c'`, cut after `limit` with a count of the rest."""
    words = list(words)
    shown = ", ".join(f"'{word}'" for word in words[:limit])
    return shown if len(words) <= limit else f"{shown} and {len(words) - limit} more"


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Name the key of the configuration in front of what is wrong with it."""
    try:
        yield
    except MissingExtra:
        raise
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
