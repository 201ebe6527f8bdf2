"""Modules by name, whatever the name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class NamedModules(nn.Module, Generic[M]):
    """An ordered mapping of modules.

    `nn.ModuleDict` refuses keys that are attributes of it (`type`, `values`, `float`...), all of them likely names of
    a user's column. Here only a dot and the empty name are refused, since state dictionaries use the dot.
    """

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        for name, module in modules.items():
            if not name or "." in name:
                raise ValueError(f"'{name}' cannot name a module: it is empty or has a dot.")
            self._modules[name] = module

    def __getitem__(self, name: str) -> M:
        return self._modules[name]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def values(self) -> Iterator[M]:
        """The modules, in order."""
        return iter(self._modules.values())  # type: ignore[arg-type]

    def items(self) -> Iterator[tuple[str, M]]:
        """Pairs of name and module, in order."""
        return iter(self._modules.items())  # type: ignore[arg-type]
