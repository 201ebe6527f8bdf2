"""Where a stage that a parameter names stands among an encoder's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from polytask.encoders.encoder import depth_of
from polytask.errors import UserError, listing

StageKey = str | int
"""A stage's name, or its number: 1 is the first, -1 the last."""


def stage_place(stage: StageKey, names: Sequence[str]) -> int:
    """Where a stage stands, counted from 0.

    Args:
        stage: Its name or number. A number may be text, as the keys of a JSON object are.
        names: The stages' names, in order.

    Raises:
        UserError: There is no such stage.
    """
    if isinstance(stage, str):
        if stage in names or not re.fullmatch(r"-?\d+", stage):
            return depth_of(stage, names) - 1
        stage = int(stage)
    if stage == 0 or abs(stage) > len(names):
        raise UserError(
            f"There is no stage number {stage}: the encoder's stages are numbered from 1 to {len(names)}, or from the "
            f"end from -1 to -{len(names)}. In order: {listing(names, limit=60)}."
        )
    return stage - 1 if stage > 0 else stage + len(names)
