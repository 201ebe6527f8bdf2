"""A small encoder, and the test error of a scheme after some steps of training."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polytask.encoders.batch_norm import BatchNorm1d
from polytask.encoders.encoder import Encoder, Stage
from polytask.features import FeatureShape


class Dense(Encoder):
    """The raw numbers (`embed`), then fully connected layers (`layer1`...), each normalised before if so wished."""

    modality = "tabular"

    def __init__(self, *sizes, norm=False):
        stages = {"embed": Stage(nn.Identity(), FeatureShape("vector", sizes[0]))}
        for number, (incoming, outgoing) in enumerate(pairwise(sizes), start=1):
            layers = [BatchNorm1d(incoming)] if norm else []
            layers += [nn.Linear(incoming, outgoing), nn.ReLU()]
            stages[f"layer{number}"] = Stage(nn.Sequential(*layers), FeatureShape("vector", outgoing))
        super().__init__(stages)


class Data(NamedTuple):
    """Inputs, the tasks' targets, and the rows that these are of (all where there is no entry)."""

    inputs: Tensor
    targets: Mapping[str, Tensor]
    rows: Mapping[str, Tensor] = {}


def error_of(scheme, sizes, train, test, *, steps, norm=False, seed=0):
    """The mean over tasks of the squared error on test data, with a linear head for each task."""
    torch.manual_seed(seed)
    trunk = scheme.build({"row": Dense(*sizes, norm=norm)}, list(train.targets))
    heads = {task: nn.Linear(trunk.shape(task).width, 1) for task in train.targets}
    optimizer = torch.optim.Adam([*trunk.parameters(), *(p for h in heads.values() for p in h.parameters())], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(_errors(trunk, heads, train)).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(sum(_errors(trunk.eval(), heads, test))) / len(heads)


def _errors(trunk, heads, data):
    features = trunk({"row": data.inputs}, list(heads), data.rows).features
    return [(heads[t](features[t].values)[:, 0] - data.targets[t]).square().mean() for t in heads]


def columns(count, rows, seed):
    """Task k wants the same function as the others, of column k."""
    inputs = torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Data(inputs, {f"column{k}": torch.sin(5 * inputs[:, k]) for k in range(count)})
