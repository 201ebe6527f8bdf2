"""YAML text to plain values and back, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from polytask.errors import UserError, closest

KeyPath = tuple[str | int, ...]
"""Where a value is: the keys and list positions that lead to it."""

_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema. PyYAML's own rules are those of YAML 1.1, where `no` is false, `1e-3` is text, `12:30` is 750
# and `2024-01-31` is a date: all of them surprises in a file that names columns and learning rates.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads by our rules alone."""


class _Dumper(yaml.SafeDumper):
    """Writes so that both our rules and YAML 1.1's read the same values: text that looks like anything is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal values are written out each time."""
        return True


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_Loader.yaml_implicit_resolvers = {}
for _dialect in (_Loader, _Dumper):
    for _name, (_pattern, _first) in _SCALARS.items():
        _dialect.add_implicit_resolver(
            _TAG + _name, re.compile(f"(?:{_pattern})$"), ["" if letter == "\0" else letter for letter in _first]
        )
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<$"), ["<"])
_Loader.add_constructor(_TAG + "int", _construct_int)


@dataclass
class Document:
    """Plain values, and where each was written.

    Attributes:
        source: What messages call the whole: a file's name.
        data: The values.
        origins: For each key path that something is known of, where it was written: `"digits.yaml, line 3"`.
    """

    source: str
    data: Any
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where `path` was written, or the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.source

    def in_order(self, paths: Iterable[KeyPath]) -> list[KeyPath]:
        """Paths in the order in which they were written."""
        ranks = {path: rank for rank, path in enumerate(self.origins)}

        def rank(path: KeyPath) -> int:
            known = (ranks[path[:length]] for length in range(len(path), 0, -1) if path[:length] in ranks)
            return next(known, -1)

        return sorted(paths, key=rank)


def read_document(path: str | Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: It is not there, cannot be read, or is not YAML; a key appears twice; it does not hold a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        others = [other.name for other in path.parent.glob("*.y*ml")]
        raise UserError(f"There is no configuration file '{path}'.{closest(path.name, others)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not a text file in UTF-8, so it cannot be a configuration.") from error
    except OSError as error:
        raise UserError(f"The configuration file '{path}' cannot be read: {error.strerror}.") from error
    return parse_document(text, str(path))


def parse_document(text: str, source: str) -> Document:
    """Parse YAML text that holds a mapping.

    Args:
        text: The YAML.
        source: What messages call it.

    Raises:
        UserError: It is not YAML, has a key twice, is empty, or does not hold a mapping.
    """
    data, origins = _parse(text, source)
    if data is None:
        raise UserError(f"{source} is empty. A configuration has at least the keys 'data', 'inputs' and 'tasks'.")
    if not isinstance(data, Mapping):
        raise UserError(
            f"{source} holds {'a list' if isinstance(data, list) else 'a single value'}, not a mapping. "
            "A configuration has at least the keys 'data', 'inputs' and 'tasks'."
        )
    return Document(source, data, origins)


def parse_value(text: str, source: str) -> Any:
    """Parse one YAML value, as on a command line.

    Raises:
        UserError: It is not YAML.
    """
    return _parse(text, source)[0]


def write_document(data: Mapping[str, Any]) -> str:
    """Plain values as YAML text, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def write_inline(value: Any) -> str:
    """One plain value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _parse(text: str, source: str) -> tuple[Any, dict[KeyPath, str]]:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            origins = _Origins(source)
            origins.visit(node, ())
            return loader.construct_document(node), origins.found
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from error
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"{source} is not valid YAML: the character {chr(error.character)!r} at position {error.position} "
            "is not allowed."
        ) from error
    except RecursionError as error:
        raise UserError(f"{source} is not a configuration: it is nested too deeply.") from error


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    place = source if mark is None else f"{source}, line {mark.line + 1}, column {mark.column + 1}"
    parts = [part for part in (error.context, error.problem) if part]
    hint = ""
    if error.problem and "'\\t'" in error.problem:
        hint = " Indent with spaces, not with tabs."
    elif error.problem and "mapping values are not allowed" in error.problem:
        hint = " Is the indentation right, and is text with a colon in quotes?"
    elif "alias" in parts[0]:
        hint = ' Text that starts with * goes in quotes: "*".'
    return UserError(f"{place}: this is not valid YAML: {', '.join(parts)}.{hint}")


class _Origins:
    """Walks the nodes of a document: notes each key's line, and refuses what a mapping of names cannot have."""

    def __init__(self, source: str) -> None:
        self.found: dict[KeyPath, str] = {}
        self._source = source
        self._open: list[yaml.Node] = []

    def visit(self, node: yaml.Node, path: KeyPath) -> None:
        if any(node is other for other in self._open):
            raise UserError(f"{self._place(node)}: '{path[-1]}' contains itself.")
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self.found.setdefault((*path, position), self._place(item))
                self.visit(item, (*path, position))
        self._open.pop()

    def _visit_mapping(self, node: yaml.MappingNode, path: KeyPath) -> None:
        lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self._place(key)}: a key must be a name, not a list or a mapping.")
            if key.tag == _TAG + "merge":
                merged.extend(value.value if isinstance(value, yaml.SequenceNode) else [value])
                continue
            # A key is a name: `no`, `1` and `2024-01-31` name a column or a class as they are written.
            key.tag = _TAG + "str"
            name = str(key.value)
            if name in lines:
                raise UserError(
                    f"{self._place(key)}: the key '{name}' is there twice; it was first given in line {lines[name]}. "
                    "Remove one of the two."
                )
            lines[name] = key.start_mark.line + 1
            self.found.setdefault((*path, name), self._place(key))
            self.visit(value, (*path, name))
        for other in merged:  # last: a mapping's own keys go before merged ones
            self.visit(other, path)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._source}, line {node.start_mark.line + 1}"
