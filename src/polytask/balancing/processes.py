"""Several processes that train together: whether there are any, and sums of gradients over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.balancing.gradients import flat

SPARSE, DENSE = 1, 2
"""How a process holds a gradient; where they differ, the greater number counts."""


def several_processes() -> bool:
    """Whether `torch.distributed` has more than one process."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@torch.no_grad()
def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Add up `.grad` over the processes; call it in each of them, with parameters in the same order.

    A gradient may be missing in some of them. What has none in any of them has none afterwards.
    """
    if not several_processes():
        return
    found = {place: p.grad for place, p in enumerate(parameters) if p.grad is not None}
    kinds = kinds_anywhere([[kind_of(found.get(place)) for place in range(len(parameters))]], parameters[0].device)
    present = {place: int(kind) for place, kind in enumerate(kinds[0].tolist()) if kind}
    for place, whole in sum_of_gradients(parameters, found, present).items():
        parameters[place].grad = whole.to(parameters[place].dtype)


def kind_of(gradient: Tensor | None) -> int:
    """How a gradient is held; 0: there is none."""
    return 0 if gradient is None else SPARSE if gradient.is_sparse else DENSE


def kinds_anywhere(kinds: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """uint8, on the CPU: the greatest number that any process has at each place of a table."""
    flags = torch.tensor(kinds, dtype=torch.uint8).to(device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return flags.cpu()


def sum_of_gradients(
    parameters: Sequence[Tensor], gradients: Mapping[int, Tensor], kinds: Mapping[int, int]
) -> dict[int, Tensor]:
    """Gradients added up over the processes, in one message for all parameters of a device and type.

    Args:
        parameters: In an order that is the same in all processes.
        gradients: What this process has, by the parameter's place.
        kinds: What any process has, by the parameter's place, and how it is to be held.

    Returns:
        A gradient for each entry of `kinds`, in float32 or wider.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place in kinds:
        parameter = parameters[place]
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        groups.setdefault((parameter.device, dtype), []).append(place)
    found: dict[int, Tensor] = {}
    for (_, dtype), places in groups.items():
        chosen = [parameters[place] for place in places]
        message = torch.cat([flat(gradients.get(place), p, dtype) for place, p in zip(places, chosen, strict=True)])
        torch.distributed.all_reduce(message)
        parts = torch.split(message, [parameter.numel() for parameter in chosen])
        for place, parameter, part in zip(places, chosen, parts, strict=True):
            whole = part.view(parameter.shape)
            found[place] = whole.to_sparse(1) if kinds[place] == SPARSE else whole
    return found
