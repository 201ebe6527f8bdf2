"""Memory that is kept from step to step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


class Workspace:
    """Buffers by key, kept for the next step: on the CPU fresh memory costs more than what is computed in it."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def take(self, key: Hashable, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised tensor; one that was taken with the same key before is no longer valid."""
        size = torch.Size(shape).numel()
        full = (key, dtype, device)
        buffer = self._buffers.get(full)
        if buffer is None or buffer.numel() < size:
            # The old one is let go first, so that both are never there at once.
            self._buffers.pop(full, None)
            buffer = self._buffers[full] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(*shape)

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """Copies start empty."""
        return Workspace, ()
