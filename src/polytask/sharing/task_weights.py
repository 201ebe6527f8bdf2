"""A task's own changes of weights that it shares with others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from polytask.encoders import Features, Stage
from polytask.modules import NamedModules


class Change(nn.Module, ABC):
    """What makes a task's weight out of a shared one."""

    @abstractmethod
    def changed(self, weight: Tensor) -> Tensor:
        """The task's weight."""

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """What a function gives for the changed weight, found without making this weight.

        Args:
            function: A function of PyTorch.
            arguments: What it is called with; the second is the shared weight.
            keywords: What it is called with by name.

        Returns:
            The result; `NotImplemented` where there is no shorter way than to make the weight.
        """
        return NotImplemented


class TaskWeights(nn.Module):
    """A task's changes of the weights of one stage.

    While the stage runs, each function of PyTorch that is given a shared weight computes with the task's weight
    instead. So it does not matter whether a layer is called, or a function is given the layer's weights, as recurrent
    layers and the packed attention of PyTorch do; and the fused paths that such layers have in evaluation mode are
    not taken, since they ask before (`torch.overrides.has_torch_function`).

    What a stage computes again in the backward pass (activation checkpointing inside of it) would not see the changes:
    checkpoint the call of this module, as a whole.

    Args:
        changes: By the name that the weight has in the stage.
    """

    def __init__(self, changes: Mapping[str, Change]) -> None:
        super().__init__()
        self._weights = [attrgetter(name) for name in changes]
        # A dot would end the name in state dictionaries.
        self.changes: NamedModules[Change] = NamedModules(
            {name.replace(".", "/"): change for name, change in changes.items()}
        )

    def forward(self, stage: Stage, features: Any) -> Features:
        """The stage's output with the task's weights; the stage itself stays as it is."""
        changes = {
            id(weight(stage)): change for weight, change in zip(self._weights, self.changes.values(), strict=True)
        }
        with _InForce(changes):
            return stage(features)  # type: ignore[no-any-return]


class _InForce(TorchFunctionMode):
    """Sees every call of a function of PyTorch, and changes those that are given one of some weights.

    Args:
        changes: By the weight's identity.
    """

    def __init__(self, changes: Mapping[int, Change]) -> None:
        super().__init__()
        self._changes = changes

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if func.__name__ == "__get__":
            # An attribute, such as the shape or the type of numbers, which a change does not touch.
            return func(*args, **keywords)
        if len(args) > 1 and (change := self._changes.get(id(args[1]))) is not None:
            result = change.call(func, args, keywords)
            if result is not NotImplemented:
                return result
        return func(*map(self._changed, args), **{name: self._changed(value) for name, value in keywords.items()})

    def _changed(self, value: Any) -> Any:
        change = self._changes.get(id(value))
        if change is not None:
            return change.changed(value)
        if type(value) in (list, tuple) and any(id(each) in self._changes for each in value):
            return type(value)(map(self._changed, value))
        return value
