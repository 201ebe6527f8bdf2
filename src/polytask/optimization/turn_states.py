"""An optimiser's state of its own for each turn of a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Turn = tuple[str, ...]


class TurnStates:
    """Keeps what an optimiser knows of shared parameters (Adam's moments and step counts) apart for each turn.

    The optimiser holds the state of the current turn, and this object those of the others: so it is as if each turn had
    an optimiser of its own over the shared parameters, which all have the same learning rate.

    Args:
        optimizer: The optimiser.
        parameters: The shared parameters, in an order that stays the same.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        self._optimizer = optimizer
        self._parameters = list(parameters)
        self._current: Turn | None = None
        self._kept: dict[Turn, dict[int, Any]] = {}

    def enter(self, turn: Turn) -> None:
        """Give the optimiser the state of a turn, before its step; none where it is the turn's first."""
        if turn == self._current:
            return
        state = self._optimizer.state
        if self._current is not None:
            held = {index: state.pop(p) for index, p in enumerate(self._parameters) if p in state}
            self._kept[self._current] = held
        for index, own in self._kept.pop(turn, {}).items():
            state[self._parameters[index]] = own
        self._current = turn

    def state_dict(self) -> dict[str, Any]:
        """What the optimiser does not hold, ready for a checkpoint."""
        return {
            "current": None if self._current is None else list(self._current),
            "kept": [[list(turn), states] for turn, states in self._kept.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back; the optimiser's own state is loaded by itself."""
        self._current = None if state["current"] is None else tuple(state["current"])
        self._kept = {
            tuple(turn): {index: self._placed(index, own) for index, own in states.items()}
            for turn, states in state["kept"]
        }

    def _placed(self, index: int, own: Mapping[str, Any]) -> dict[str, Any]:
        """A parameter's state, where the parameter is; counts of steps stay where PyTorch wants them."""
        parameter = self._parameters[index]
        group = next(g for g in self._optimizer.param_groups if any(p is parameter for p in g["params"]))
        moves_steps = group.get("fused") or group.get("capturable")
        return {
            name: value.to(parameter.device) if isinstance(value, Tensor) and (name != "step" or moves_steps) else value
            for name, value in own.items()
        }
