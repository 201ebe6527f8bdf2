"""Networks of every kind, small: a zoo on which the task gradients of any engine can be compared with plain passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

TASKS = ("a", "b", "c")


class Case:
    """A network and its losses.

    Args:
        model: All parameters.
        compute: A forward pass: the losses by task.
        shared: The parameters to be called shared.
        tasks: The losses' names.
        samples: For each task, the numbers of its samples, where no sample belongs to two.
    """

    def __init__(
        self,
        model: nn.Module,
        compute: Callable[[], Mapping[str, Tensor]],
        shared: Sequence[nn.Parameter],
        *,
        tasks: Sequence[str] = TASKS,
        samples: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model = model
        self.shared = [parameter for parameter in dict.fromkeys(shared) if parameter.requires_grad]
        self.tasks = tasks
        self.samples = samples
        self._compute = compute
        self._state = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]

    def losses(self) -> dict[str, Tensor]:
        """A forward pass, always the same one: the state it changes is put back, and the random numbers repeat."""
        with torch.no_grad():
            for tensor, value in self._state:
                tensor.copy_(value)
        torch.manual_seed(1)
        return dict(self._compute())


@dataclass(frozen=True)
class Entry:
    """A case in waiting.

    Attributes:
        build: Builds it, in PyTorch's default type.
        dtypes: The default types to build it in.
        computes_in: The narrowest type that it computes in, if not the default type.
        linear: Whether gradients of a sum of losses are sums of gradients, which hooks can change.
        gap: Why an engine may be wrong here; None where it may not.
    """

    build: Callable[[], Case]
    dtypes: tuple[torch.dtype, ...]
    computes_in: torch.dtype | None
    linear: bool
    gap: str | None

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        return self.computes_in or dtype


FULL = (torch.float64, torch.float32)
HALF = (torch.bfloat16, torch.float16)
ZOO: dict[str, Entry] = {}


def case(
    *,
    dtypes: Sequence[torch.dtype] = FULL,
    computes_in: torch.dtype | None = None,
    linear: bool = True,
    gap: str | None = None,
) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Put a function that builds a case into the zoo, under its name."""

    def add(build: Callable[[], Case]) -> Callable[[], Case]:
        assert build.__name__ not in ZOO
        ZOO[build.__name__] = Entry(build, tuple(dtypes), computes_in, linear, gap)
        return build

    return add


class Call(nn.Module):
    """Modules and parameters by name, and what to do with them.

    Args:
        run: Takes this object and the inputs.
        parts: Its attributes.
    """

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(shape))


def loss_of(kind: int, outputs: Tensor) -> Tensor:
    """Losses of three kinds, so that the tasks' gradients differ in direction and length."""
    if kind % 3 == 0:
        return (outputs - 1).square().mean()
    if kind % 3 == 1:
        return 3 * functional.softplus(outputs * torch.linspace(-1, 1, outputs.shape[-1])).mean()
    targets = torch.arange(len(outputs)) % outputs.shape[-1]
    return functional.cross_entropy(outputs, targets)


def rows_of(features: Tensor) -> Tensor:
    """`[B, n]`."""
    return features.flatten(1) if features.ndim > 1 else features.reshape(1, -1)


def heads_for(features: Tensor, tasks: Sequence[str] = TASKS) -> nn.ModuleDict:
    return nn.ModuleDict({task: nn.Linear(rows_of(features).shape[1], 3) for task in tasks})


def hard(trunk: nn.Module, *inputs: Tensor, tasks: Sequence[str] = TASKS) -> Case:
    """Hard parameter sharing: a head for each task on what `trunk` makes of the inputs."""
    heads = heads_for(trunk(*inputs), tasks)

    def compute() -> dict[str, Tensor]:
        features = rows_of(trunk(*inputs))
        return {task: loss_of(kind, heads[task](features)) for kind, task in enumerate(tasks)}

    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    return Case(model, compute, list(trunk.parameters()), tasks=tasks)
