"""What `balancing.py` measures on: a trunk, K small heads on its features, and a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
TOKENS = 1000


@dataclass(frozen=True)
class Problem:
    """A model and a batch size.

    Attributes:
        name: A family of problems that differ in the number of tasks.
        tasks: K.
        batch: How many samples.
        trunk: Makes the shared part.
        inputs: Makes the input of some samples.
        width: How many features the trunk gives for a sample.
        one_task_per_sample: Whether each sample is labelled for one task only, else for all.
        exact: The most that an exact step may cost, over a plain one; None: no figure of its own.
        of_peer: The most that an exact step may cost, over the peer's fastest setting; None: no such figure.
        matrix_free: The most that a step of a matrix-free method may cost, over a plain one; None: no figure.
    """

    name: str
    tasks: int
    batch: int
    trunk: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    width: int
    one_task_per_sample: bool = False
    exact: float | None = None
    of_peer: float | None = None
    matrix_free: float | None = None

    @property
    def key(self) -> str:
        """What to call it on the command line."""
        return f"{self.name}-{self.tasks}"


class Workload:
    """A problem's model and batch, made anew from the same seed: no variant sees what another has left in a model."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        torch.manual_seed(0)
        tasks = range(problem.tasks)
        self.trunk = problem.trunk().to(device)
        self.heads = nn.ModuleList(nn.Linear(problem.width, CLASSES if task % 2 else 1) for task in tasks).to(device)
        self.inputs = problem.inputs(problem.batch).to(device)
        order = torch.randperm(problem.batch).to(device)
        self.samples = (
            {str(task): order[task :: problem.tasks] for task in tasks} if problem.one_task_per_sample else None
        )
        self.targets = []
        for task in tasks:
            rows = problem.batch if self.samples is None else len(self.samples[str(task)])
            target = torch.randint(CLASSES, (rows,)) if task % 2 else torch.randn(rows, 1)
            self.targets.append(target.to(device))

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The features and the tasks' losses."""
        features = self.trunk(self.inputs)
        return features, self.losses(features)

    def losses(self, features: Tensor, reduction: str = "mean") -> dict[str, Tensor]:
        """The losses of the samples that are labelled for each task: their mean, or with `none` all of them."""
        losses = {}
        for index, (head, target) in enumerate(zip(self.heads, self.targets, strict=True)):
            task = str(index)
            output = head(features if self.samples is None else features[self.samples[task]])
            loss = F.cross_entropy if index % 2 else F.mse_loss
            losses[task] = loss(output, target, reduction=reduction).squeeze()
        return losses

    def probe(self, fraction: float) -> dict[str, Tensor] | None:
        """The tasks' losses on a share of the batch; None where each sample is labelled for one task only."""
        if self.samples is not None:
            return None
        rows = math.ceil(len(self.inputs) * fraction)
        features = self.trunk(self.inputs[:rows])
        losses = {}
        for index, (head, target) in enumerate(zip(self.heads, self.targets, strict=True)):
            loss = F.cross_entropy if index % 2 else F.mse_loss
            losses[str(index)] = loss(head(features), target[:rows])
        return losses

    def zero_grad(self) -> None:
        self.trunk.zero_grad()
        self.heads.zero_grad()


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for taken, given in pairwise(widths):
        layers += [nn.Linear(taken, given), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class BasicBlock(nn.Module):
    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(taken, given, 3, stride, 1, bias=False),
            nn.BatchNorm2d(given),
            nn.ReLU(),
            nn.Conv2d(given, given, 3, 1, 1, bias=False),
            nn.BatchNorm2d(given),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given))

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.residual(images) + self.skip(images))


def small_resnet() -> nn.Module:
    """A ResNet-18 of a quarter of the width."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for taken, given, stride in [(16, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2)]:
        layers += [BasicBlock(taken, given, stride), BasicBlock(given, given, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Transformer(nn.Module):
    """Four encoder layers over tokens, their outputs averaged."""

    def __init__(self, width: int = 256, depth: int = 4, length: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True) for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.embedding(tokens) + self.positions
        for layer in self.layers:
            features = layer(features)
        return features.mean(1)


class GRU(nn.Module):
    """Two layers over a sequence, the output at its end."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.GRU(width, width, num_layers=2, batch_first=True)

    def forward(self, sequences: Tensor) -> Tensor:
        return self.layers(sequences)[0][:, -1]


def resnet50() -> nn.Module:
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    model.fc = nn.Identity()
    return model


class Bert(nn.Module):
    """BERT-base from random numbers; the output at the first token."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.encoder = BertModel(config, add_pooling_layer=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(input_ids=tokens).last_hidden_state[:, 0]


def rows(width: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, width)


def images(size: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, 3, size, size)


def tokens(length: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randint(TOKENS, (batch, length))


def problems(device: str) -> list[Problem]:
    """The problems for a kind of device; two need a GPU."""

    def plain_mlp() -> nn.Module:
        return mlp(256, 512, 512, 512, 512, 256)

    found = [
        *(
            Problem("mlp", k, 128, plain_mlp, rows(256), 256, exact=target, matrix_free=2.0)
            for k, target in [(3, 2.3), (10, 4.8), (40, 15.0)]
        ),
        Problem("wide", 10, 64, lambda: mlp(256, 1024, 1024, 1024, 256), rows(256), 256, exact=3.5),
        *(
            Problem("resnet", k, 32, small_resnet, images(32), 128, exact=target)
            for k, target in [(3, 2.2), (10, 6.3), (40, 23.0)]
        ),
        *(
            Problem("one-task-per-sample", k, 120, plain_mlp, rows(256), 256, one_task_per_sample=True, exact=target)
            for k, target in [(10, 1.6), (40, 2.0)]
        ),
        *(Problem("transformer", k, 32, Transformer, tokens(64), 256, of_peer=0.6) for k in (3, 10)),
        Problem("gru", 10, 32, GRU, lambda batch: torch.randn(batch, 64, 256), 256, of_peer=0.9),
    ]
    if device == "cuda":
        found += [Problem("resnet50", k, 32, resnet50, images(224), 2048) for k in (3, 10, 40)]
        found += [Problem("bert", k, 32, Bert, tokens(128), 768) for k in (3, 10, 40)]
    return found
