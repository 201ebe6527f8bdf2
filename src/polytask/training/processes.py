"""The processes that train one model together, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polytask.balancing.processes import several_processes

T = TypeVar("T")


class Processes:
    """What processes that train together tell each other; call each method in all of them, in the same order.

    There are two ways: tensors travel between the devices; what Python decides by travels between the hosts, so that no
    step waits for a device.

    Attributes:
        rank: Which of them this is, counted from 0.
        count: How many there are.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        self._hosts: Any = dist.new_group(backend="gloo")

    @classmethod
    def join(cls) -> Processes | None:
        """The processes of `torch.distributed`; None where this one is alone."""
        return cls() if several_processes() else None

    def numbers(self, own: Sequence[int]) -> list[list[int]]:
        """A few whole numbers of each process, by rank."""
        given = torch.tensor(list(own), dtype=torch.int64)
        found = [torch.empty_like(given) for _ in range(self.count)]
        dist.all_gather(found, given, group=self._hosts)
        return [each.tolist() for each in found]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of a tensor that has the same shape in each."""
        result = tensor.detach().clone()
        dist.all_reduce(result)
        return result

    def rows(self, tensor: Tensor) -> Tensor:
        """The rows of all processes below each other: `[B, ...]`, where each may have another B, even 0."""
        counts = [count for (count,) in self.numbers([len(tensor)])]
        longest = max(counts)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        # NCCL knows no truth values.
        sent = padded.to(torch.uint8) if tensor.dtype == torch.bool else padded
        found = [torch.empty_like(sent) for _ in range(self.count)]
        dist.all_gather(found, sent.contiguous())
        whole = torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])
        return whole.to(tensor.dtype)

    def each(self, own: T) -> list[T]:
        """A value of each process, by rank."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, own, group=self._hosts)
        return found

    def first(self, own: T) -> T:
        """The value of the first process, for decisions that must not differ by a rounding."""
        found: list[Any] = [own]
        dist.broadcast_object_list(found, src=0, group=self._hosts)
        return found[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def align(self, module: nn.Module) -> None:
        """Give parameters and buffers the values that they have in the first process."""
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in [*module.parameters(), *module.buffers()]:
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        for tensors in groups.values():
            message = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
            sent = message.to(torch.uint8) if message.dtype == torch.bool else message
            dist.broadcast(sent, src=0)
            for tensor, part in zip(tensors, torch.split(sent, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))
