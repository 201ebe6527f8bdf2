"""The autograd graph of K losses: which parameters they reach, and where their gradients meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from polytask.errors import UserError

SEVERAL = -1
"""In place of a loss's number: more than one loss reaches this."""

NEUTRAL = frozenset({"TBackward0", "TransposeBackward0", "ToCopyBackward0"})
"""Nodes that lay out or cast a parameter."""

USED_UP = (
    "The losses' graph has been used up by an earlier backward pass. Compute the losses anew before each call of "
    "backward."
)

_USED = "polytask: used up"

_ACCUMULATE = "torch::autograd::AccumulateGrad"


@dataclass(frozen=True)
class Crossing:
    """An edge on which the gradient of one loss flows into what is shared.

    Attributes:
        task: The number of the loss.
        node: The node that only this loss reaches; None where the loss itself is shared.
        slot: Which of the gradients that the node gives this is.
        into: The edge's other end.
    """

    task: int
    node: Node | None
    slot: int
    into: GradientEdge


class Graph:
    """What K losses reach; a loss that requires no gradient reaches nothing.

    Every node is visited at most twice, however many losses there are: once for the first loss that comes by, once when
    a second one does.

    Args:
        losses: K scalars.

    Attributes:
        visitor: The number of the loss that reaches a node, or `SEVERAL`.
        readers: The nodes that a node's gradient comes from, each with the slot.

    Raises:
        UserError: A part of the graph runs under re-entrant activation checkpointing.
    """

    def __init__(self, losses: Sequence[Tensor]) -> None:
        self.roots = [get_gradient_edge(loss) if loss.requires_grad else None for loss in losses]
        self.visitor: dict[Node, int] = {}
        self.readers: dict[Node, list[tuple[Node, int]]] = {}
        self._leaves: dict[Tensor, Node] = {}
        for index, root in enumerate(self.roots):
            if root is not None:
                if _USED in _notes(root.node):
                    raise UserError(USED_UP)
                self._visit(root.node, index)
        self._reached: dict[int, list[Tensor]] = {}
        for leaf, node in self._leaves.items():
            self._reached.setdefault(self.visitor[node], []).append(leaf)

    def mark_as_used(self) -> None:
        """Let no other graph be made of these losses: autograd would not know that they were passed through."""
        for root in self.roots:
            if root is not None:
                _notes(root.node)[_USED] = True

    def _visit(self, start: Node, index: int) -> None:
        visitor, readers = self.visitor, self.readers
        waiting = [(start, index)]
        while waiting:
            node, by = waiting.pop()
            before = visitor.get(node)
            if before in (SEVERAL, by):
                continue
            visitor[node] = now = by if before is None else SEVERAL
            following = node.next_functions
            if before is None:
                self._note(node)
                for slot, (child, _) in enumerate(following):
                    if child is not None:
                        readers.setdefault(child, []).append((node, slot))
                        waiting.append((child, now))
            else:
                waiting += [(child, now) for child, _ in following if child is not None]

    def _note(self, node: Node) -> None:
        name = type(node).__name__
        if name == "AccumulateGrad":
            self._leaves[node.variable] = node  # type: ignore[attr-defined]
        elif name == "CheckpointFunctionBackward":
            raise UserError(
                "A part of the network runs under re-entrant activation checkpointing, which hides its parameters from "
                "task gradients. Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )

    def leaf(self, parameter: Tensor) -> Node | None:
        """The node that accumulates a parameter's gradient; None where no loss reaches it."""
        return self._leaves.get(parameter)

    def shared(self) -> tuple[Tensor, ...]:
        """The parameters that more than one loss reaches."""
        return tuple(self._reached.get(SEVERAL, ()))

    def own(self, index: int) -> list[Tensor]:
        """The parameters that this loss alone reaches."""
        return self._reached.get(index, [])

    def crossings(self, shared: Iterable[Tensor]) -> list[Crossing]:
        """Where the gradients of single losses flow into what several reach, or into one of the shared parameters."""
        meeting = {node for parameter in shared if (node := self._leaves.get(parameter)) is not None}
        visitor = self.visitor
        found = [
            Crossing(index, None, 0, root)
            for index, root in enumerate(self.roots)
            if root is not None and (visitor[root.node] == SEVERAL or root.node in meeting)
        ]
        for node, by in visitor.items():
            if by == SEVERAL:
                continue
            for slot, (child, number) in enumerate(node.next_functions):
                if child is not None and (visitor[child] == SEVERAL or child in meeting):
                    found.append(Crossing(by, node, slot, GradientEdge(child, number)))
        return found


def _notes(node: Any) -> dict[str, Any]:
    """What has been written at a node."""
    return node.metadata  # type: ignore[no-any-return]


def leaf_behind(node: Node) -> Tensor | None:
    """The parameter that a node leads to through casts and transpositions only, if it does."""
    while node.name() in NEUTRAL:
        following = node.next_functions[0][0]
        if following is None:
            return None
        node = following
    return node.variable if node.name() == _ACCUMULATE else None  # type: ignore[attr-defined]
