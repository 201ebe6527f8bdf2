"""Tasks that have nothing in common, over an encoder whose last stage has one unit, for tests that experts help."""

from functools import cache

import torch
from torch import nn

from polytask import sharing

from .two_tasks import Net

INPUTS, ROWS, TESTED = 6, 400, 2000
SIZES = (INPUTS, 24, 8, 1)


def data(seed, tasks, functions):
    """Inputs, and for each task one of some functions of them; consecutive tasks may have the same one."""
    random = torch.Generator().manual_seed(5)
    directions = torch.randn(functions, INPUTS, 1, generator=random) * (2 / INPUTS**0.5)
    inputs = torch.randn(ROWS + TESTED, INPUTS, generator=torch.Generator().manual_seed(seed))
    values = torch.sin(inputs @ directions).squeeze(2)
    return inputs, {task: values[place * functions // len(tasks)] for place, task in enumerate(tasks)}


def trained(name, tasks, functions, seed, steps=120, **parameters):
    """The trunk, and its mean squared error on new rows relative to the mean's, averaged over the tasks."""
    inputs, targets = data(seed, tasks, functions)
    torch.manual_seed(seed)
    trunk = sharing.create(name, **parameters).build({"row": Net(*SIZES)}, tasks)
    heads = nn.ModuleDict({task: nn.Linear(trunk.shape(task).width, 1) for task in tasks})
    optimiser = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=2e-2)
    trunk.train()
    for _ in range(steps):
        found = trunk({"row": inputs[:ROWS]}, tasks, {})
        loss = sum(found.penalties.values(), torch.zeros(()))
        for task, features in found.features.items():
            loss = loss + (heads[task](features.values)[:, 0] - targets[task][:ROWS]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = trunk.eval()({"row": inputs[ROWS:]}, tasks, {}).features
        errors = [
            (heads[task](found[task].values)[:, 0] - targets[task][ROWS:]).square().mean() / targets[task].var()
            for task in tasks
        ]
    return trunk, float(torch.stack(errors).mean())


@cache
def error(name, seeds=(0, 2), **parameters):
    """The error of two tasks that have nothing in common, averaged over `seeds`; 1: no better than the mean."""
    return sum(trained(name, ("first", "second"), 2, seed, **parameters)[1] for seed in seeds) / len(seeds)
