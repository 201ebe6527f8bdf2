"""Tasks whose samples are disjoint: one backward pass measures several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from polytask.balancing.features import Features, features_of
from polytask.balancing.gradients import (
    Block,
    Listener,
    Plan,
    Row,
    TaskGradients,
    accumulate,
    accumulate_others,
    clear_about_a_second_pass,
    flat,
    pieces,
    products,
    total,
)
from polytask.balancing.graph import leaf_behind
from polytask.balancing.layers import Layer, layers_of, wide
from polytask.balancing.precision import true_float32
from polytask.balancing.workspace import Workspace
from polytask.errors import UserError, listing

Samples = Mapping[str, Tensor]


def memberships(samples: Samples, tasks: Sequence[str], batch: int) -> Tensor | None:
    """`[K, B]`, which samples each task has; None where the features' first dimension is not that of the samples.

    Args:
        samples: For each task, the numbers of its samples or a mask `[B]`.
        tasks: The tasks of the step.
        batch: B.

    Raises:
        UserError: A task is missing.
    """
    result = torch.zeros(len(tasks), batch, dtype=torch.bool, device="cpu")
    for number, task in enumerate(tasks):
        if task not in samples:
            raise UserError(f"samples= says nothing of task '{task}'. It has: {listing(samples)}.")
        chosen = samples[task]
        if not isinstance(chosen, Tensor) or chosen.is_floating_point() or chosen.is_complex():
            raise UserError(f"samples= of task '{task}' must be a tensor: whole numbers, or a mask of truth values.")
        chosen = chosen.detach().cpu()
        # Indexing takes bytes for a mask.
        chosen = chosen.long() if chosen.dtype == torch.uint8 else chosen
        if chosen.dtype == torch.bool:
            if chosen.shape != (batch,):
                return None
        elif chosen.numel() and not (int(chosen.min()) >= 0 and int(chosen.max()) < batch):
            return None
        result[number, chosen] = True
    return result


def colours(members: Tensor) -> list[list[int]]:
    """Groups of tasks without common samples, few of them: each task joins the first group that it fits in.

    Args:
        members: `[K, B]`, which samples each task has.
    """
    groups: list[list[int]] = []
    taken: list[Tensor] = []
    for task, own in enumerate(members):
        place = next((index for index, samples in enumerate(taken) if not (samples & own).any()), len(groups))
        if place == len(groups):
            groups.append([])
            taken.append(torch.zeros_like(own))
        groups[place].append(task)
        taken[place] |= own
    return groups


class DisjointGradients:
    """The gradients of K losses whose samples are disjoint, from one backward pass through what is shared.

    Args:
        layers: All shared parameters belong to these.
        outputs: For each, the gradient of its output for the sum of the losses.
        owner: `[B]`, the task of each sample.
        count: K.
        others: For each loss, other parameters with their gradients.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        outputs: Sequence[Tensor | None],
        owner: Tensor,
        count: int,
        others: Sequence[Sequence[tuple[Tensor, Tensor]]],
    ) -> None:
        self.count = count
        self._owner = owner
        self._others = others
        reached = [(layer, output) for layer, output in zip(layers, outputs, strict=True) if output is not None]
        self._compared = [(layer, output) for layer, output in reached if layer.products_pay(count)]
        self._blocks = [self._formed(layer, output) for layer, output in reached if not layer.products_pay(count)]

    @torch.no_grad()
    def _formed(self, layer: Layer, output: Tensor) -> Block:
        """The tasks' gradients themselves: each takes its own samples only, so all together cost as much as one."""
        batch = len(self._owner)
        dtype = torch.promote_types(layer.parameters[0].dtype, torch.float32)
        rows = torch.zeros(
            self.count, sum(p.numel() for p in layer.parameters), dtype=dtype, device=layer.parameters[0].device
        )
        for task, filled in enumerate(rows):
            samples = (self._owner == task).nonzero().flatten()
            if len(samples):
                parts = layer.part(output, samples.to(output.device), batch)
                torch.cat([flat(part, p, dtype) for part, p in zip(parts, layer.parameters, strict=True)], out=filled)
        return Block(layer.parameters, rows)

    @torch.no_grad()
    def gramian(self) -> Tensor:
        """`[K, K]`, the scalar products of the tasks' gradients for the shared parameters."""
        everyone = range(self.count)
        # Samples of no task have no gradient, so that they can count as any task's.
        groups = self._owner.clamp(min=0)
        with true_float32():
            parts = [
                (everyone, layer.products(output, groups.to(output.device), self.count))
                for layer, output in self._compared
            ]
            parts += [(everyone, products(block.rows)) for block in self._blocks]
        return total(parts, self.count)

    @torch.no_grad()
    def accumulate(self, weights: Tensor, own_weights: Tensor | None = None) -> None:
        """See `TaskGradients.accumulate`."""
        chosen = weights.cpu()[self._owner.clamp(min=0)]
        with true_float32():
            for layer, output in self._compared:
                rows = chosen.to(wide(output), non_blocking=True).repeat_interleave(len(output) // len(chosen))
                weighted = (wide(output) * rows.view(-1, *[1] * (output.ndim - 1))).to(output.dtype)
                accumulate(layer.parameters, layer.gradients(weighted))
            for block in self._blocks:
                update = weights.to(block.rows, non_blocking=True) @ block.rows
                for parameter, gradient in pieces(block.parameters, update):
                    accumulate((parameter,), (gradient,))
        accumulate_others(self._others, own_weights)


def disjoint_gradients(
    planned: Plan,
    losses: Sequence[Tensor],
    samples: Samples,
    tasks: Sequence[str],
    workspace: Workspace,
    *,
    others: bool = True,
    keep_graph: bool = False,
) -> DisjointGradients | TaskGradients | None:
    """Measure tasks that have no sample in common in one pass, where that is exact; None where it is not.

    It is exact where nothing shared couples the samples of a batch (as batch normalisation does in training), and each
    shared parameter belongs to a layer whose samples can be told apart. Tasks that have samples in common are measured
    in passes of their own.

    Raises:
        UserError: `samples` lacks a task.
    """
    features = features_of(planned.graph, planned.shared)
    if features is None or not features.batch or planned.plain:
        return None
    batch = features.batch
    members = memberships(samples, tasks, batch)
    groups = [] if members is None else colours(members)
    layers = _layers(planned, features)
    if members is None or layers is None or len(groups) == len(tasks):
        return None
    own = planned.own if others else ((),) * len(losses)
    rows, specific = features.gradients(losses, own, keep_graph=True)
    if not _confined(rows, members):
        return None
    outputs = _passes(features, layers, rows, groups)
    if outputs is None:
        return None
    if not keep_graph:
        planned.graph.mark_as_used()
    if len(groups) == 1:
        owner = torch.where(members.any(0), members.int().argmax(0), -1)
        return DisjointGradients(layers, outputs[0], owner, len(losses), specific)
    compared = [place for place, layer in enumerate(layers) if layer.ghost_pays(len(losses))]
    formed = [place for place in range(len(layers)) if place not in compared]
    narrow = replace(
        planned,
        ghosts=tuple(layers[place] for place in compared),
        direct=tuple(parameter for place in formed for parameter in layers[place].parameters),
    )
    found = TaskGradients(narrow, len(losses), workspace)
    colour_of = {task: colour for colour, group in enumerate(groups) for task in group}
    for task in range(len(losses)):
        given = outputs[colour_of[task]]
        found.add(
            Row(
                tuple(_only(given[place], members[task]) for place in compared),
                tuple(part for place in formed for part in _part(layers[place], given[place], members[task])),
                tuple(specific[task]),
            )
        )
    return found


def _layers(planned: Plan, features: Features) -> list[Layer] | None:
    """The layers of all shared parameters; None where some have none, or where the samples cannot be told apart."""
    layered, rest = layers_of(planned.graph, planned.shared)
    if rest or any(len(uses) > 1 or not uses[0].dense for uses in layered):
        return None
    layers = [uses[0] for uses in layered]
    batch = features.batch
    assert batch is not None
    return layers if _keeps_samples_apart([edge.node for edge in features.edges], layers, batch) else None


def _passes(
    features: Features,
    layers: Sequence[Layer],
    rows: Sequence[Sequence[Tensor | None]],
    groups: Sequence[Sequence[int]],
) -> list[list[Tensor | None]] | None:
    """For each group the gradients of the layers' outputs; None where a hook changes gradients."""
    edges = [layer.edge for layer in layers]
    passes = []
    with Listener([*features.edges, *edges]) as listener, clear_about_a_second_pass():
        for group in groups:
            seeds: list[Tensor | None] = []
            for place in range(len(features.edges)):
                reached = [gradient for task in group if (gradient := rows[task][place]) is not None]
                seeds.append(torch.stack(reached).sum(0) if reached else None)
            starts = [(edge, seed) for edge, seed in zip(features.edges, seeds, strict=True) if seed is not None]
            outputs = torch.autograd.grad(
                [edge for edge, _ in starts],
                edges,
                [seed for _, seed in starts],
                allow_unused=True,
                retain_graph=True,
            )
            given: list[Tensor | None] = [*seeds, *outputs]
            heard = listener.corrected(given)
            if [one is None or one.data_ptr() for one in given] != [one is None or one.data_ptr() for one in heard]:
                return None  # For all that is known, the hook works across the samples.
            passes.append(given[len(seeds) :])
    return passes


def _only(output: Tensor | None, members: Tensor) -> Tensor | None:
    """The gradient of an output, 0 outside of the rows of some samples."""
    if output is None:
        return None
    rows = members.to(output.device).repeat_interleave(len(output) // len(members))
    return output * rows.view(-1, *[1] * (output.ndim - 1))


@torch.no_grad()
def _part(layer: Layer, output: Tensor | None, members: Tensor) -> Sequence[Tensor | None]:
    samples = members.nonzero().flatten()
    if output is None or not len(samples):
        return [None] * len(layer.parameters)
    return layer.part(output, samples.to(output.device), len(members))


def _confined(rows: Sequence[Sequence[Tensor | None]], members: Tensor) -> bool:
    """Whether each loss depends on its own samples only."""
    outside = []
    for row, own in zip(rows, members, strict=True):
        for gradient in row:
            if gradient is not None:
                largest = gradient.flatten(1).abs().amax(1)
                outside.append(largest.masked_fill(own.to(gradient.device, non_blocking=True), 0.0).any())
    # Looked at once for each device, so that it is waited for once.
    devices = {found.device for found in outside}
    return bool(devices) and not any(
        bool(torch.stack([found for found in outside if found.device == device]).any()) for device in devices
    )


_ELEMENTWISE = (
    "Relu", "Gelu", "Silu", "Sigmoid", "Tanh", "Elu", "LeakyRelu", "Hardtanh", "Hardswish", "Hardsigmoid", "Mish",
    "Softplus", "NativeDropout", "Mul", "Div", "Add", "Sub", "Pow", "Exp", "Log", "Neg", "Sqrt", "Rsqrt", "Clone",
    "ToCopy", "Clamp", "Where", "Alias", "Abs", "MaskedFill",
)  # fmt: skip
_ROW_BY_ROW = (
    "View", "UnsafeView", "ReshapeAlias", "MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D",
    "MkldnnAdaptiveAvgPool2D", "UpsampleNearest2D", "UpsampleBilinear2D", "NativeGroupNorm", "Convolution", "Addmm",
    "Mm", "Bmm", "Embedding", "ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFlashAttention",
    "ScaledDotProductEfficientAttention",
)  # fmt: skip

_WEIGHTED = {
    "AddmmBackward0": (2, 0),
    "MmBackward0": (1,),
    "ConvolutionBackward0": (1, 2),
    "NativeLayerNormBackward0": (1, 2),
    "NativeGroupNormBackward0": (1, 2),
    "EmbeddingBackward0": (0,),
}
"""The slots of a node's weight, and of its bias, along which the samples' gradients are summed."""


def _keeps_samples_apart(start: Sequence[Node], layers: Sequence[Layer], batch: int) -> bool:
    """Whether every node leaves the samples apart, one after the other along the first dimension."""
    known = {layer.edge.node: set(layer.parameters) for layer in layers}
    seen: set[Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        name = node.name()
        rule = _RULES.get(name)
        shape = node._input_metadata[0].shape
        if rule is None or not shape or shape[0] % batch or not rule(node):
            return False
        weighted = _WEIGHTED.get(name, ())
        own = known.get(node, set())
        for child in (node.next_functions[slot][0] for slot in weighted):
            if child is not None and leaf_behind(child) not in own:
                return False
        waiting += [c for slot, (c, _) in enumerate(node.next_functions) if c is not None and slot not in weighted]
    return True


def _always(node: Any) -> bool:  # noqa: ARG001 (a rule)
    return True


def _same_first(node: Any) -> bool:
    """Whether what an elementwise node reads has its rank and first dimension: nothing is spread over the samples."""
    shape = node._input_metadata[0].shape
    for child, number in node.next_functions:
        if child is not None:
            other = child._input_metadata[number].shape
            if len(other) != len(shape) or other[0] != shape[0]:
                return False
    return True


def _signed(number: int) -> int:
    # Dimensions are saved as unsigned numbers.
    return number - 2**64 if number >= 2**63 else number


def _avoids_first(node: Any) -> bool:
    """Whether a node that works along one dimension leaves the first alone."""
    dims = getattr(node, "_saved_dim", None)
    if dims is None:
        return False
    rank = len(node._input_metadata[0].shape)
    chosen = [dims] if isinstance(dims, int) else list(dims)
    return bool(chosen) and all(_signed(dim) % max(1, rank) != 0 for dim in chosen)


def _reduces_later(node: Any) -> bool:
    """Whether a sum or mean leaves the first dimension alone."""
    rank = len(node._saved_self_sym_sizes)
    dims = node._saved_dim
    return dims is not None and len(dims) > 0 and all(_signed(dim) % rank != 0 for dim in dims)


def _swaps_later(node: Any) -> bool:
    rank = len(node._input_metadata[0].shape)
    return all(_signed(dim) % rank != 0 for dim in (node._saved_dim0, node._saved_dim1))


def _permutes_later(node: Any) -> bool:
    rank = len(node._input_metadata[0].shape)
    return _signed(node._saved_dims[0]) % rank == 0


def _normalizes_later(node: Any) -> bool:
    return len(node._saved_normalized_shape) < len(node._input_metadata[0].shape)


_RULES: dict[str, Callable[[Any], bool]] = {
    **{f"{name}Backward0": _same_first for name in _ELEMENTWISE},
    **{f"{name}Backward0": _always for name in _ROW_BY_ROW},
    **{
        f"{name}Backward0": _avoids_first
        for name in ("Softmax", "LogSoftmax", "Cat", "Split", "SplitWithSizes", "UnsafeSplit", "Slice")
    },
    "ConstantPadNdBackward0": _same_first,
    "MeanBackward1": _reduces_later,
    "SumBackward1": _reduces_later,
    "TransposeBackward0": _swaps_later,
    "PermuteBackward0": _permutes_later,
    "NativeLayerNormBackward0": _normalizes_later,
}
