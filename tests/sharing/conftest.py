import pytest
import torch
from torch import nn

from polytask.encoders.encoder import Encoder, Stage
from polytask.features import FeatureShape


class Layers(Encoder):
    """Three linear stages, 4 -> 6 -> 5 -> 3, called bottom, middle and top."""

    modality = "tabular"

    def __init__(self):
        sizes = {"bottom": (4, 6), "middle": (6, 5), "top": (5, 3)}
        super().__init__(
            {
                name: Stage(nn.Sequential(nn.Linear(*size), nn.Tanh()), FeatureShape("vector", size[1]))
                for name, size in sizes.items()
            }
        )


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Layers()
