"""Where the global random numbers are, so that a training that is interrupted draws on as it would have."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from polytask.errors import UserError
from polytask.training.processes import Processes


class RandomNumbers:
    """The global random numbers of all processes that train together.

    Args:
        device: The device of this process.
        processes: Those that train together; None: this one alone.
    """

    def __init__(self, device: torch.device, processes: Processes | None) -> None:
        self._device = device
        self._processes = processes

    def state_dict(self) -> list[dict[str, Any]]:
        """Where they are in each process; called in all of them."""
        own = random_state(self._device)
        return [own] if self._processes is None else self._processes.each(own)

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go back there."""
        rank = 0 if self._processes is None else self._processes.rank
        if len(states) != (1 if self._processes is None else self._processes.count):
            raise UserError(
                f"The run trained on {len(states)} devices, and goes on exactly with as many only: set "
                f"training.devices to {len(states)} in its config.yaml."
            )
        restore_random_state(states[rank], self._device)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of PyTorch's generators, on the CPU and on `device`, and of NumPy's and Python's; plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, values, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "device": {} if device.type == "cpu" else {device.type: torch.get_device_module(device).get_rng_state()},
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(values), following],
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go back to where `random_state` found the generators; a device of another type keeps its own."""
    torch.set_rng_state(state["torch"])
    if device.type in state["device"]:
        torch.get_device_module(device).set_rng_state(state["device"][device.type])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, values, following = state["python"]
    random.setstate((version, tuple(values), following))
