"""Every fusion once, small, over encoders of four modalities, with rows that lack some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from polytask import fusion
from polytask.fusion import FusedEncoder
from polytask.partial import PartialInput, chosen_rows

from ..encoders import cases

ENCODERS = {"picture": "cnn", "text": "transformer", "row": "mlp", "molecule": "gcn"}
HELD = {"picture": (0, 1, 3), "text": (1, 2, 4), "row": (0, 1, 2, 4), "molecule": (1, 3)}
"""The rows of five that have each input; row 1 has all of them."""
ROWS = 5


@dataclass
class FusedCase:
    """A fusion over some encoders, and what it reads."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs_of: tuple[str, ...] = ("picture", "text", "row")

    def build(self) -> FusedEncoder:
        built = {name: cases.CASES[ENCODERS[name]].build() for name in self.inputs_of}
        torch.manual_seed(0)
        return fusion.create(self.name, **self.parameters).build(built)

    def whole(self, seed: int = 0) -> dict[str, Any]:
        """What rows with all inputs have."""
        return {name: cases.CASES[ENCODERS[name]].inputs(ROWS, seed) for name in self.inputs_of}

    def inputs(self, seed: int = 0) -> dict[str, Any]:
        """The same, but some rows lack some inputs."""
        return {name: partial(value, HELD[name]) for name, value in self.whole(seed).items()}


def partial(value: Any, rows: tuple[int, ...], size: int = ROWS) -> PartialInput:
    """An input that some rows have."""
    held = torch.tensor(rows, dtype=torch.int64)
    return PartialInput(chosen_rows(value, held), held, size)


CASES = {
    "fused": FusedCase("concat", {"width": 6, "depth": 2}),
    "fused-bare": FusedCase("concat", {"depth": 0}),
    "fused-attention": FusedCase("attention", {"dim": 8, "hidden": 4, "heads": 2}),
    "fused-perceiver": FusedCase("perceiver", {"dim": 8, "latents": 3, "depth": 2, "heads": 2}),
    "fused-transformer": FusedCase("shared_transformer", {"dim": 8, "depth": 2, "heads": 2}),
    "fused-cls": FusedCase("shared_transformer", {"dim": 8, "depth": 1, "heads": 2, "pooling": "cls", "grid": 2}),
    "fused-graphs": FusedCase("shared_transformer", {"dim": 8, "depth": 1, "heads": 2}, ("molecule", "text")),
}
