"""Choices that are learned: drawn by Gumbel-softmax while training, the likeliest option in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder
from polytask.errors import UserError
from polytask.sharing.sharing import EncoderTrunk, Sharing


@dataclass(frozen=True)
class Drawing:
    """How choices are drawn while training; `Choosing` says what each value means."""

    temperature: float
    final_temperature: float
    straight_through: bool
    warm_up: float
    speed: float

    def temperature_at(self, progress: float) -> float:
        """It falls geometrically from the end of the warm-up on."""
        done = max(0.0, progress - self.warm_up) / (1 - self.warm_up)
        return float(self.temperature * (self.final_temperature / self.temperature) ** done)


class Choosing(Sharing):
    """A scheme that learns discrete choices.

    Args:
        temperature: Temperature of Gumbel-softmax when choices begin to be drawn. The higher, the more evenly the
            gradient (and without `straight_through` the weight too) is spread over the options.
        final_temperature: The temperature at the end of training. In between it falls geometrically.
        straight_through: Whether one option alone is used in each step, with the gradient of the soft weights; else
            options are mixed by the soft weights.
        warm_up: The share of training, from its start, in which nothing is drawn.
        speed: What the learned scores are multiplied by to be logits. Adam moves every parameter at the same pace,
            so choices learn this many times as fast as weights.

    Raises:
        UserError: A value is out of range.
    """

    scheme: ClassVar[str]
    """The name, for messages."""

    def __init__(
        self,
        temperature: float = 5.0,
        final_temperature: float = 0.5,
        straight_through: bool = True,
        warm_up: float = 0.1,
        speed: float = 10.0,
    ) -> None:
        positive = {"temperature": temperature, "final_temperature": final_temperature, "speed": speed}
        for name, value in positive.items():
            if not value > 0:
                raise UserError(f"{self.scheme}: {name} is {value}, but must be above 0.")
        if not 0 <= warm_up < 1:
            raise UserError(f"{self.scheme}: warm_up is {warm_up}, but must be at least 0 and less than 1.")
        self.drawing = Drawing(temperature, final_temperature, straight_through, warm_up, speed)


class ChoosingTrunk(EncoderTrunk):
    """A trunk that learns choices, and in evaluation goes by the likeliest ones once the warm-up is over.

    How far training is belongs to the state, so that a model that is loaded evaluates as the one that was saved. A
    training loop of one's own has to call `set_progress`; else the warm-up never ends.

    Args:
        name: The input.
        encoder: What the choices are about.
        tasks: All tasks.
        drawing: How choices are drawn while training.
    """

    progress: Tensor

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], drawing: Drawing) -> None:
        super().__init__(name, encoder, tasks)
        self.drawing = drawing
        self.register_buffer("progress", torch.zeros(()))
        # The same on the host, where reading it does not wait for the device.
        self._now = 0.0

    def set_progress(self, progress: float) -> None:
        """See `Trunk.set_progress`."""
        # Rounded alike, so that training and evaluation agree on what has begun.
        self._now = float(torch.tensor(progress, dtype=self.progress.dtype))
        self.progress.fill_(progress)

    @property
    def now(self) -> float:
        """How much of the training is done: in training as `set_progress` said, in evaluation as the state says."""
        return self._now if self.training else float(self.progress)

    @property
    def warming_up(self) -> bool:
        """Whether nothing is drawn or chosen yet."""
        return self.now < self.drawing.warm_up


class Choices(nn.Module):
    """Some choices of one option each, all alike likely at first.

    Args:
        count: C, the number of choices.
        options: O, the number of options of each.
        drawing: How they are drawn.
    """

    def __init__(self, count: int, options: int, drawing: Drawing) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count, options))
        self.drawing = drawing

    @property
    def logits(self) -> Tensor:
        """`[C, O]`."""
        return self.drawing.speed * self.scores

    def probabilities(self) -> Tensor:
        """How likely each option is: `[C, O]`."""
        return self.logits.softmax(1)

    def draw(self, progress: float) -> Tensor:
        """Weights of the options, each choice drawn by itself: `[C, O]`, rows sum to 1."""
        temperature = self.drawing.temperature_at(progress)
        return F.gumbel_softmax(self.logits, temperature, hard=self.drawing.straight_through)

    def likeliest(self) -> list[int]:
        """The likeliest option of each choice; the first of those that are equal."""
        return [row.index(max(row)) for row in self.scores.tolist()]
