"""How new layers start."""

from __future__ import annotations

from torch import nn


def he_init(module: nn.Module) -> None:
    """Initialise every linear map and convolution for a ReLU after it, so that values keep their scale with depth.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852: normal weights of variance
    2 / fan-in, biases of zero.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
