"""What a checkpoint keeps of a training beside parameters and the optimiser, each part under its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Part(Protocol):
    """A part of a training that goes on from a checkpoint."""

    def state_dict(self) -> Any:
        """What `load_state_dict` needs, as plain values and tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from there."""


class CheckpointParts:
    """Saves and restores the parts of a training that it is told of.

    Some of them are made when the checkpoint has been read already: these go on from it as soon as they are added.

    Args:
        parts: Those that are there from the beginning, by name.
    """

    def __init__(self, **parts: Part) -> None:
        self._parts = parts
        self._waiting: dict[str, Any] = {}

    def add(self, name: str, part: Part) -> None:
        """Keep a part from now on."""
        self._parts[name] = part
        if name in self._waiting:
            part.load_state_dict(self._waiting.pop(name))

    def state_dict(self) -> dict[str, Any]:
        """The state of each part."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let each part go on from its state."""
        for name, own in state.items():
            if name in self._parts:
                self._parts[name].load_state_dict(own)
            else:
                self._waiting[name] = own
