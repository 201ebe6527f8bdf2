"""Domains of one problem, each a task with rows of its own, and a network trained on them."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from polytask import sharing
from polytask.encoders.encoder import Encoder, Stage
from polytask.features import FeatureShape

ADAM = partial(torch.optim.Adam, lr=0.02)


class Narrow(Encoder):
    """One linear stage with few features: there is no room for what every domain has of its own."""

    modality = "tabular"

    def __init__(self, inputs, width):
        super().__init__({"layer": Stage(nn.Linear(inputs, width), FeatureShape("vector", width))})


def directions(count, size):
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(99)), dim=1)


def common_and_own(seed, rows, domains=8):
    """40 columns mean the same in all domains; 3 others mean something else, even the contrary, in each."""
    random = torch.Generator().manual_seed(seed)
    common, own = directions(1, 40)[0], directions(domains, 3)
    data = {}
    for number in range(domains):
        x, z = torch.randn(rows, 40, generator=random), torch.randn(rows, 3, generator=random)
        data[f"domain{number}"] = torch.cat([x, 3 * z], dim=1), (1.2 * x @ common + z @ own[number] > 0).long()
    return data


def shortcut(seed, rows, domains=4, holds=0.97):
    """6 columns say what holds; one more says it almost surely, with another sign and offset in each domain.

    Which domain a row is from can be read off this column.

    Args:
        holds: How often the last column tells the truth; 0.5: it tells nothing.
    """
    random = torch.Generator().manual_seed(seed)
    common = directions(1, 6)[0]
    data = {}
    for number in range(domains):
        x = torch.randn(rows, 6, generator=random)
        label = (x @ common + 0.5 * torch.randn(rows, generator=random) > 0).long()
        told = torch.where(torch.rand(rows, generator=random) < holds, label, 1 - label)
        column = (-1) ** number * (2 * told - 1) + 2 * (number - 1.5) + 0.3 * torch.randn(rows, generator=random)
        data[f"domain{number}"] = torch.cat([x, column.unsqueeze(1)], dim=1), label
    return data


def trained(scheme, data, *, width, steps, optimizer=ADAM, seed=0, **parameters):
    """A trunk and heads after `steps` on all of `data`."""
    torch.manual_seed(seed)
    tasks, inputs = list(data), torch.cat([rows for rows, _ in data.values()])
    trunk = sharing.create(scheme, **parameters).build({"row": Narrow(inputs.shape[1], width)}, tasks)
    heads = nn.ModuleDict({task: nn.Linear(trunk.shape(task).width, 2) for task in tasks})
    rows = dict(zip(tasks, torch.arange(len(inputs)).chunk(len(tasks)), strict=True))
    updates = optimizer([*trunk.parameters(), *heads.parameters()])
    for step in range(steps):
        trunk.set_progress(step / steps)
        found = trunk({"row": inputs}, tasks, rows)
        losses = [F.cross_entropy(heads[task](found.features[task].values), label) for task, (_, label) in data.items()]
        updates.zero_grad()
        sum([*losses, *found.penalties.values()]).backward()
        updates.step()
    return trunk.eval(), heads


@torch.no_grad()
def error(trunk, heads, data):
    """The mean over the domains of the share of wrong answers."""
    wrong = []
    for task, (rows, label) in data.items():
        features = trunk({"row": rows}, [task], {}).features[task].values
        wrong.append((heads[task](features).argmax(1) != label).float().mean())
    return float(torch.stack(wrong).mean())
