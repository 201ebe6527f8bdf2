"""Which parameters a loss reaches, read from the autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

_SEVERAL = -1


@dataclass(frozen=True)
class Reach:
    """The leaves of the graph (parameters, mostly) that K losses reach.

    Attributes:
        shared: Those that more than one loss reaches.
        own: For each loss, those that it alone reaches.
    """

    shared: tuple[Tensor, ...]
    own: tuple[tuple[Tensor, ...], ...]


def reach(losses: Sequence[Tensor]) -> Reach:
    """Find what each loss reaches; a loss that requires no gradient reaches nothing.

    Every node is visited at most twice, however many losses there are: once for the first loss that comes by, once
    when a second one does.
    """
    visitor: dict[Node, int] = {}
    for index, loss in enumerate(losses):
        if not loss.requires_grad:
            continue
        waiting = [(get_gradient_edge(loss).node, index)]
        while waiting:
            node, by = waiting.pop()
            before = visitor.get(node)
            if before in (by, _SEVERAL):
                continue
            now = by if before is None else _SEVERAL
            visitor[node] = now
            waiting += [(child, now) for child, _ in node.next_functions if child is not None]
    shared: list[Tensor] = []
    own: list[list[Tensor]] = [[] for _ in losses]
    for node, by in visitor.items():
        if not node.next_functions and node.name().endswith("AccumulateGrad"):
            (shared if by == _SEVERAL else own[by]).append(node.variable)  # type: ignore[attr-defined]
    return Reach(tuple(shared), tuple(tuple(leaves) for leaves in own))
