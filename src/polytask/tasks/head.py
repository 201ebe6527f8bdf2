"""The layers of a task's own between the features and the outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from polytask.errors import UserError


def mlp_head(width: int, hidden: Sequence[int], outputs: int, dropout: float, *, task: str) -> nn.Module:
    """A multi-layer perceptron, linear where `hidden` is empty.

    Args:
        width: Features that come in.
        hidden: Widths of the hidden layers, each followed by a ReLU.
        outputs: Values that go out.
        dropout: Probability of dropping a value before each linear map.
        task: The task's name, for messages.

    Raises:
        UserError: A width is not positive, or the probability is not in [0, 1).
    """
    if any(size < 1 for size in hidden):
        raise UserError(f"Task '{task}': hidden is {list(hidden)}, but every hidden layer needs at least one unit.")
    if not 0 <= dropout < 1:
        raise UserError(f"Task '{task}': dropout is {dropout}, but must be at least 0 and below 1.")
    layers: list[nn.Module] = []
    for size in (*hidden, outputs):
        if layers:
            layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(width, size))
        width = size
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
