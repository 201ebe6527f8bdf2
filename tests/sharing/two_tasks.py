"""Two regressions, related or not, for tests that a sharing scheme helps."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.features import FeatureShape

TASKS = ("first", "second")
INPUTS, TESTED = 8, 1000


class Net(Encoder):
    """Fully connected stages `layer1`, `layer2`..., of these sizes."""

    modality = "tabular"

    def __init__(self, *sizes):
        super().__init__(
            {
                f"layer{number}": Stage(nn.Sequential(nn.Linear(*size), nn.Tanh()), FeatureShape("vector", size[1]))
                for number, size in enumerate(pairwise(sizes), start=1)
            }
        )


class Problem(NamedTuple):
    """Two functions of some hidden units; the tasks have the units in common or not.

    Attributes:
        units: How many hidden units each function has.
        related: Whether they are the same ones.
        labelled: How many of the rows are labelled for the first task.
        rows: How many rows there are.
        width: Of the network.
    """

    units: int
    related: bool
    labelled: int
    rows: int
    width: int

    def data(self, seed):
        random = torch.Generator().manual_seed(seed)
        hidden = torch.randn(2, INPUTS, self.units, generator=random) * (1.5 / INPUTS**0.5)
        out = torch.randn(2, self.units, generator=random)
        inputs = torch.randn(self.rows + TESTED, INPUTS, generator=random)
        found = {}
        for place, task in enumerate(TASKS):
            target = torch.tanh(inputs @ hidden[0 if self.related else place]) @ out[place]
            found[task] = (target - target.mean()) / target.std()
        return inputs, found


@cache
def errors(problem, name, seeds=(0, 1, 2), steps=100, **parameters):
    """The tasks' mean squared errors on new rows (1: no better than the mean), averaged over `seeds`."""
    scheme = sharing.create(name, **parameters)
    return torch.stack([_errors(problem, scheme, seed, steps) for seed in seeds]).mean(0)


def _errors(problem, scheme, seed, steps):
    inputs, targets = problem.data(seed)
    torch.manual_seed(seed)
    trunk = scheme.build({"row": Net(INPUTS, problem.width, problem.width)}, TASKS)
    heads = nn.ModuleDict({task: nn.Linear(problem.width, 1) for task in TASKS})
    optimiser = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=2e-2, weight_decay=1e-4)
    rows = {TASKS[0]: torch.arange(problem.labelled)}
    kept = {TASKS[0]: slice(problem.labelled), TASKS[1]: slice(problem.rows)}
    trunk.train()
    for _ in range(steps):
        found = trunk({"row": inputs[: problem.rows]}, TASKS, rows)
        loss = sum(found.penalties.values(), torch.zeros(()))
        for task, features in found.features.items():
            loss = loss + (heads[task](features.values)[:, 0] - targets[task][kept[task]]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = trunk.eval()({"row": inputs[problem.rows :]}, TASKS, {})
        predicted = {task: heads[task](features.values)[:, 0] for task, features in found.features.items()}
        return torch.stack([(predicted[task] - targets[task][problem.rows :]).square().mean() for task in TASKS])


UNRELATED = Problem(units=8, related=False, labelled=400, rows=400, width=6)
"""The tasks need more units than one narrow network has: it cannot serve both."""

STARVED = Problem(units=2, related=True, labelled=20, rows=400, width=16)
"""The first task has few labels, and the second, which has many, needs the same units."""
