"""What a component's Google-style docstring says of it and of its parameters."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")
_SECTION = re.compile(
    r"(Args|Arguments|Attributes|Example|Examples|Note|Notes|Raises|References|Returns|Shape|Shapes|Yields):$"
)


def description_of(cls: type) -> str:
    """The docstring up to its first section, line breaks within a paragraph removed; empty where there is none."""
    lines = _own_docstring(cls).splitlines()
    end = next((index for index, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    paragraphs = "\n".join(lines[:end]).strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def summary_of(cls: type) -> str:
    """The first paragraph of `description_of`."""
    return description_of(cls).partition("\n\n")[0]


def argument_descriptions(cls: type) -> dict[str, str]:
    """What the `Args:` sections say of each parameter: the class's docstring, its `__init__`'s, its bases'."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        init = vars(owner).get("__init__")
        found |= _arguments(inspect.cleandoc(init.__doc__ or "") if init is not None else "")
        for name, text in _arguments(_own_docstring(owner)).items():
            # "See `Base`." is for who reads the code.
            if not (name in found and text.startswith("See `")):
                found[name] = text
    return found


def _own_docstring(cls: type) -> str:
    """The docstring written at `cls` itself: that of a base class says nothing of this one."""
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "")


def _arguments(docstring: str) -> dict[str, str]:
    lines = docstring.splitlines()
    start = next((index for index, line in enumerate(lines) if line.strip() in ("Args:", "Arguments:")), None)
    if start is None:
        return {}
    found: dict[str, list[str]] = {}
    depth: int | None = None
    name = ""
    for line in lines[start + 1 :]:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            break
        depth = indent if depth is None else depth
        entry = _ENTRY.match(line.strip()) if indent <= depth else None
        if entry:
            name = entry[1]
            found[name] = [entry[2]]
        elif name:
            found[name].append(line.strip())
    return {name: " ".join(parts).strip() for name, parts in found.items()}
