import json
from pathlib import Path

import pytest
import torch
from torch import nn


class Network(nn.Module):
    """A trunk and a head for each task, in float64 so that results can be compared closely."""

    def __init__(self, tasks):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks})
        self.double()

    def losses(self, inputs):
        features = self.trunk(inputs)
        return {task: (head(features) - i).square().mean() for i, (task, head) in enumerate(self.heads.items())}

    def jacobian(self, inputs):
        """`[K, P]` of the trunk, one task at a time in a graph of its own."""
        rows = []
        for task in self.heads:
            gradients = torch.autograd.grad(self.losses(inputs)[task], list(self.trunk.parameters()))
            rows.append(torch.cat([g.flatten() for g in gradients]))
        return torch.stack(rows)

    def trunk_gradient(self):
        return torch.cat([p.grad.flatten() for p in self.trunk.parameters()])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(["a", "b", "c"])


@pytest.fixture
def make_network():
    def make(*tasks):
        torch.manual_seed(1)
        return Network(tasks)

    return make


@pytest.fixture
def inputs():
    return torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def golden():
    """Jacobians, and for each method the weights and the update that its definition gives (`golden.json`)."""
    return json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]
