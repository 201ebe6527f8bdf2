"""PyTorch's random numbers, to be drawn again."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class RandomNumbers:
    """Where PyTorch's global random numbers are, on the CPU and on some devices.

    Args:
        devices: The devices; all but those of CUDA are left alone.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}

    def restore(self) -> None:
        """Go back to there."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
