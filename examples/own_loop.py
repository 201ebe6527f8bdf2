"""A balancer in a training loop of your own, on a plain PyTorch model: one line changes.

    python own_loop.py [BALANCER...]      # names as `polytask methods` prints them; upgrad if there is none

Scans of digits (scikit-learn brings them), two tasks: which digit it is, and whether it is odd. Prints each task's
accuracy on test data, for the plain sum of the losses and for each balancer. One seed is one draw.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from polytask import balancing

images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images, targets = images.float() / 16, {"digit": labels, "odd": labels % 2}
train, test = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split(1200)


def accuracies(balancer: balancing.Balancer | None) -> dict[str, float]:
    """Train with a balancer, or on the sum of the losses."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    heads = nn.ModuleDict({"digit": nn.Linear(32, 10), "odd": nn.Linear(32, 2)})
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-3)
    for _ in range(20):
        for rows in train[torch.randperm(len(train))].split(32):
            features = trunk(images[rows])
            losses = {task: cross_entropy(head(features), targets[task][rows]) for task, head in heads.items()}
            optimizer.zero_grad()
            if balancer is None:
                sum(losses.values()).backward()
            else:
                balancer.backward(losses, shared=trunk.parameters())
            optimizer.step()
    with torch.no_grad():
        found = {task: head(trunk(images[test])).argmax(1) == targets[task][test] for task, head in heads.items()}
    return {task: right.float().mean().item() for task, right in found.items()}


if __name__ == "__main__":
    print(f"{'':20s}" + "".join(f"{task:>10s}" for task in targets))
    for name in [None, *(sys.argv[1:] or ["upgrad"])]:
        found = accuracies(None if name is None else balancing.create(name))
        print(f"{name or 'sum of the losses':20s}" + "".join(f"{value:10.3f}" for value in found.values()), flush=True)
