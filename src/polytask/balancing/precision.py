"""The precision that gradients are made and compared in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_autocast() -> Iterator[None]:
    """Let each operation work in the precision of what it is given.

    Backward passes keep to what autocast chose in the forward pass; called inside it, as training loops do, the rest
    of a balancer's work would be cast to half precision too.
    """
    devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    for device in devices:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in devices:
            torch.set_autocast_enabled(device, True)


@contextmanager
def true_float32() -> Iterator[None]:
    """Multiply in float32 proper, whatever faster precision the user chose for the network.

    Products of K rows cost nothing beside the passes that made them, and TensorFloat-32 would lose the Gramian's small
    eigenvalues.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with without_autocast():
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
