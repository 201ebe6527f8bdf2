"""Training a scheme that learns choices."""

import torch
from torch import nn


def gumbel(*shape):
    """The noise that torch draws for choices of this shape."""
    return -torch.empty(*shape).exponential_().log()


def trained(scheme, encoder, train, *, steps, lr=0.01):
    """A trunk and its heads after some steps on batches of 128 rows."""
    tasks = list(train.targets)
    trunk = scheme.build({"row": encoder}, tasks)
    heads = {task: nn.Linear(trunk.shape(task).width, 1) for task in tasks}
    optimizer = torch.optim.Adam([*trunk.parameters(), *(p for h in heads.values() for p in h.parameters())], lr=lr)
    for step in range(steps):
        trunk.set_progress(step / steps)
        chosen = torch.randint(len(train.inputs), (128,))
        output = trunk({"row": train.inputs[chosen]}, tasks, {})
        losses = errors(output, heads, {task: target[chosen] for task, target in train.targets.items()})
        optimizer.zero_grad()
        (sum(losses) + sum(output.penalties.values())).backward()
        optimizer.step()
    return trunk, heads


def errors(output, heads, targets):
    """The mean squared error of each task."""
    return [(heads[task](output.features[task].values)[:, 0] - targets[task]).square().mean() for task in heads]


@torch.no_grad()
def share_of_variance(trunk, heads, test):
    """The mean over tasks of the error as a share of the target's variance."""
    output = trunk.eval()({"row": test.inputs}, list(heads), {})
    found = errors(output, heads, test.targets)
    return float(sum(e / test.targets[task].var() for task, e in zip(heads, found, strict=True))) / len(heads)
