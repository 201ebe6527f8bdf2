"""Whether training runs in several processes."""

from __future__ import annotations

import torch


def several_processes() -> bool:
    """Whether `torch.distributed` has more than one process."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
