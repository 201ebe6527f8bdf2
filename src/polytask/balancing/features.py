"""The shared features: where the tasks' heads read what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from polytask.balancing.gradients import (
    Plan,
    accumulate_others,
    clear_about_a_second_pass,
    products,
    total,
    weighted_sum,
)
from polytask.balancing.graph import Crossing, Graph, leaf_behind
from polytask.balancing.layers import wide
from polytask.balancing.precision import true_float32
from polytask.balancing.stand_ins import stand_ins_behind
from polytask.errors import UserError

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Features:
    """The tensors through which all gradients of the losses reach what is shared.

    Attributes:
        graph: The losses' graph.
        edges: Where their gradients flow in; none of them depends on another.
    """

    graph: Graph
    edges: tuple[GradientEdge, ...]

    @property
    def batch(self) -> int | None:
        """The length of their first dimension, if all have the same."""
        shapes = [edge.node._input_metadata[edge.output_nr].shape for edge in self.edges]
        if any(len(shape) < 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
            return None
        return int(shapes[0][0])

    def gradients(
        self, losses: Sequence[Tensor], own: Sequence[Sequence[Tensor]], *, keep_graph: bool
    ) -> tuple[list[list[Tensor | None]], list[list[tuple[Tensor, Tensor]]]]:
        """The gradient of each loss for the features, and those for the parameters that it alone reaches.

        Only the heads are passed through, each once.
        """
        rows: list[list[Tensor | None]] = []
        others: list[list[tuple[Tensor, Tensor]]] = []
        for loss, specific in zip(losses, own, strict=True):
            found: Sequence[Tensor | None] = [None] * (len(self.edges) + len(specific))
            if loss.requires_grad:
                inputs: list[Any] = [*self.edges, *specific]
                with clear_about_a_second_pass():
                    found = torch.autograd.grad(loss, inputs, retain_graph=keep_graph, allow_unused=True)
            rows.append(list(found[: len(self.edges)]))
            pairs = zip(specific, found[len(self.edges) :], strict=True)
            others.append([(parameter, gradient) for parameter, gradient in pairs if gradient is not None])
        return rows, others

    def measured(self, planned: Plan, losses: Sequence[Tensor], *, keep_graph: bool) -> FeatureGradients:
        """The gradients of all losses for the features."""
        rows, others = self.gradients(losses, planned.own, keep_graph=keep_graph)
        return FeatureGradients(self, rows, others, keep_graph)


class FeatureGradients:
    """The gradients of K losses for the shared features.

    Args:
        features: The features.
        rows: For each loss, its gradients for them.
        others: For each loss, other parameters with their gradients.
        keep_graph: Whether the graph is to be used again afterwards.
    """

    def __init__(
        self,
        features: Features,
        rows: Sequence[Sequence[Tensor | None]],
        others: Sequence[Sequence[tuple[Tensor, Tensor]]],
        keep_graph: bool,
    ) -> None:
        self.count = len(rows)
        self._others = others
        self._keep_graph = keep_graph
        self._found = []
        for index, edge in enumerate(features.edges):
            reached = [task for task, row in enumerate(rows) if row[index] is not None]
            if reached:
                stacked = torch.stack([row[index] for row in rows if row[index] is not None])  # type: ignore[misc]
                self._found.append((edge, reached, stacked))

    @torch.no_grad()
    def gramian(self) -> Tensor:
        """`[K, K]`, the scalar products of the tasks' gradients for the features."""
        with true_float32():
            return total([(reached, products(wide(s).flatten(1))) for _, reached, s in self._found], self.count)

    def accumulate(self, weights: Tensor, own_weights: Tensor | None = None) -> None:
        """See `TaskGradients.accumulate`; one backward pass goes through what is shared."""
        with torch.no_grad(), true_float32():
            seeds = [weighted_sum(stacked, weights, reached) for _, reached, stacked in self._found]
        with clear_about_a_second_pass():
            torch.autograd.backward([edge for edge, _, _ in self._found], seeds, retain_graph=self._keep_graph)
        accumulate_others(self._others, own_weights)


def features_of(graph: Graph, shared: Iterable[Tensor]) -> Features | None:
    """The shared features; None where one depends on another, so that there is no one place to cut."""
    crossings = graph.crossings(shared)
    edges = dict.fromkeys((crossing.into.node, crossing.into.output_nr) for crossing in crossings)
    nodes = {node for node, _ in edges}
    seen: set[Node] = set()
    waiting = [child for node in nodes for child, _ in node.next_functions if child is not None]
    while waiting:
        node = waiting.pop()
        if node in nodes:
            return None
        if node not in seen:
            seen.add(node)
            waiting += [child for child, _ in node.next_functions if child is not None]
    return Features(graph, tuple(GradientEdge(node, number) for node, number in edges)) if edges else None


def shared_features(planned: Plan, losses: Sequence[Tensor]) -> Features:
    """The shared features of a plan for some losses.

    Raises:
        UserError: There is no one place where the heads read what is shared, or no network at all.
    """
    if stand_ins_behind(losses) is not None:
        raise UserError(
            "on='features' needs the features, which gradients that were added up do not have (GradientSum; in a "
            "configuration training.accumulate, or several training.devices). Use on='parameters' or on='last', or "
            "call backward for each micro-batch."
        )
    features = features_of(planned.graph, planned.shared)
    if features is None:
        raise UserError(
            "on='features' needs one place where the heads read what is shared, but here a head reads features that "
            "others are made of. Use on='parameters' or on='last'."
        )
    return features


def last_layer(planned: Plan, losses: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parameters of the last shared layers of a plan for some losses.

    Raises:
        UserError: There is no network, and it was not noted while there was one.
    """
    stand_ins = stand_ins_behind(losses)
    if stand_ins is None:
        return last_parameters(planned.graph.crossings(planned.shared), planned.shared)
    found: tuple[Tensor, ...] | None = stand_ins[0].last
    if found is None:
        raise UserError(
            "on='last' with accumulated gradients needs to know the shared parameters while there is a network: "
            "GradientSum(parameters, tasks, shared=trunk.parameters())."
        )
    return found


def last_parameters(crossings: Sequence[Crossing], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parameters of the last shared layers: those that no other shared parameter separates from the heads."""
    wanted = set(shared)
    found: dict[Tensor, None] = {}
    seen: set[Node] = set()
    waiting = [crossing.into.node for crossing in crossings]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        children = [child for child, _ in node.next_functions if child is not None]
        own = [leaf for child in (node, *children) if (leaf := leaf_behind(child)) is not None and leaf in wanted]
        if own:
            found.update(dict.fromkeys(own))
        else:
            waiting += children
    return tuple(found)


def weighted_backward(
    losses: Sequence[Tensor], weights: Tensor, own_weights: Tensor | None, crossings: Sequence[Crossing]
) -> None:
    """One ordinary backward pass, in which what is shared gets the weighted gradients.

    Reducers, hooks and other frameworks see nothing unusual.

    Args:
        losses: K scalars.
        weights: `[K]`, for what is shared, on the CPU.
        own_weights: `[K]`, for what is not, 0 only where the weight is 0 too; None: 1.
        crossings: Where the gradients flow into what is shared.
    """
    seeds = torch.ones_like(weights) if own_weights is None else own_weights
    factors = torch.where(seeds == 0, 0.0, weights / seeds).tolist()
    roots = [seeds[index] for index in range(len(losses))]
    slots: dict[Node, tuple[int, list[int]]] = {}
    for crossing in crossings:
        if crossing.node is None:
            roots[crossing.task] = weights[crossing.task]
        else:
            slots.setdefault(crossing.node, (crossing.task, []))[1].append(crossing.slot)
    handles = [node.register_hook(_scaling(factors[task], places)) for node, (task, places) in slots.items()]
    try:
        pairs = _seeded(losses, roots)
        with clear_about_a_second_pass():
            torch.autograd.backward([loss for loss, _ in pairs], [seed for _, seed in pairs])
    finally:
        for handle in handles:
            handle.remove()


def _seeded(losses: Sequence[Tensor], seeds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(losses, seeds, strict=True)
    return [(loss, seed.to(loss, non_blocking=True)) for loss, seed in pairs if loss.requires_grad]


def separate_backward(planned: Plan, losses: Sequence[Tensor], weights: Tensor, own_weights: Tensor | None) -> None:
    """As `weighted_backward`, where some that several losses reach are to get the plain sum: a pass for each kind.

    Args:
        planned: Tells the kinds of the parameters.
        losses: K scalars.
        weights: `[K]`, for the shared parameters.
        own_weights: `[K]`, for those of one task; None: 1.
    """
    ones = torch.ones_like(weights)
    own = [parameter for parameters in planned.own for parameter in parameters]
    kinds = [(planned.plain, ones), (own, ones if own_weights is None else own_weights), (planned.shared, weights)]
    needed = [(list(parameters), chosen) for parameters, chosen in kinds if parameters]
    for index, (parameters, chosen) in enumerate(needed):
        pairs = _seeded(losses, chosen.unbind())
        with clear_about_a_second_pass():
            torch.autograd.backward(
                [loss for loss, _ in pairs],
                [weight for _, weight in pairs],
                inputs=parameters,
                retain_graph=index + 1 < len(needed),
            )


def _scaling(factor: float, slots: Sequence[int]) -> Callable[[Gradients, Gradients], Gradients]:
    """A hook that multiplies some of the gradients that a node gives."""

    def hook(given: Gradients, _: Gradients) -> Gradients:
        return tuple(
            gradient * factor if gradient is not None and slot in slots else gradient
            for slot, gradient in enumerate(given)
        )

    return hook
