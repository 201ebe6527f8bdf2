"""Several inputs that one encoder reads: none is fused with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from polytask.encoders import Encoder, Stage
from polytask.errors import UserError, listing
from polytask.fusion.fusion import Fusion
from polytask.fusion.modalities import ModalityEncoders
from polytask.partial import PartialInput
from polytask.row_values import RowTargets, join_values, select_values


class OneEncoder(Fusion):
    """One encoder reads every input, and each row has one of these.

    For data sets of one modality that are to be read in different ways: images of different sizes, with augmentation
    and normalisation of their own. Only one input has an entry in `encoders`. The rows of each input go through the
    network by themselves, so that batch normalisation sees one kind of images at a time.
    """

    fuses: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(0.0)

    def stages(self, encoders: Mapping[str, Encoder]) -> tuple[ModalityEncoders, dict[str, Stage]]:
        """There are none: nothing is fused."""
        raise NotImplementedError("One encoder for several inputs has no stages that fuse them.")


class OwnRows(NamedTuple):
    """What some rows of a batch have, all of one input.

    Attributes:
        values: What the encoder reads of them.
        rows: int64 `[n]`, on the CPU: the rows, ascending; None: all of the batch.
    """

    values: Any
    rows: Tensor | None

    def among(self, wanted: Tensor | None) -> tuple[Tensor | None, Tensor] | None:
        """The wanted rows (int64, ascending; None: all) that are among these; None where there are none.

        Returns:
            Their places among these rows, or None for all of these; and their places among the wanted ones.
        """
        assert self.rows is not None
        if wanted is None:
            return None, self.rows
        known = wanted.cpu()
        there = torch.isin(self.rows, known)
        if not there.any():
            return None
        places = torch.searchsorted(known, self.rows[there])
        return (None if bool(there.all()) else there.nonzero().squeeze(1).to(wanted.device)), places


def own_rows(inputs: Mapping[str, Any]) -> list[OwnRows]:
    """The rows of a batch by the input that they have.

    Raises:
        UserError: A row has several inputs, or none.
    """
    found = [(name, value) for name, value in inputs.items() if not isinstance(value, PartialInput) or len(value.rows)]
    if len(found) == 1:
        ((_, value),) = found
        if not isinstance(value, PartialInput):
            return [OwnRows(value, None)]
        if len(value.rows) == value.size:
            return [OwnRows(value.values, None)]
    parts = [value for _, value in found if isinstance(value, PartialInput)]
    rows = torch.cat([part.rows for part in parts]) if parts else torch.empty(0, dtype=torch.int64)
    if len(parts) < len(found) or len(set(rows.tolist())) < len(rows) or (parts and len(rows) < parts[0].size):
        raise UserError(
            f"One encoder reads the inputs {listing(inputs)}, so each row needs exactly one of them, but some have "
            "several, or none. Name the columns of the data sets differently (`rename`), or choose another fusion."
        )
    return [OwnRows(part.values, part.rows) for part in parts]


def joined_outputs(parts: Sequence[tuple[Any, Tensor]], task: str) -> Any:
    """A task's outputs for rows of several inputs, in the order of the rows.

    Args:
        parts: Outputs, and their rows' places (int64) among those that are wanted.
        task: The task, for messages.

    Raises:
        UserError: Outputs of several inputs cannot be put together.
    """
    if len(parts) == 1:
        return parts[0][0]
    outputs = [output for output, _ in parts]
    first = outputs[0]
    if not isinstance(first, Tensor | RowTargets) or (
        isinstance(first, Tensor) and len({output.shape[1:] for output in outputs}) > 1
    ):
        raise UserError(
            f"The task '{task}' has an answer at each position, and is asked for rows of several inputs in one batch. "
            "Take its labels from rows of one input (`sources`), or predict for one data set at a time."
        )
    return select_values(join_values(outputs), torch.cat([places for _, places in parts]).argsort())
