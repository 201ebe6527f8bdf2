"""How task gradients are measured: a backward pass for each task, and no weight gradient that is not needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from polytask.balancing.graph import USED_UP, Graph
from polytask.balancing.layers import Layer, layers_of, wide
from polytask.balancing.precision import true_float32
from polytask.balancing.workspace import Workspace
from polytask.errors import UserError


@dataclass(frozen=True)
class Plan:
    """What to ask autograd for.

    Attributes:
        graph: The losses' graph.
        shared: The shared parameters that some loss reaches.
        ghosts: Layers whose output gradients are asked for, and compared as they are.
        direct: Parameters whose gradients are asked for.
        plain: Parameters that several losses reach but that are not called shared: they get the plain sum.
        own: For each loss, the parameters that it alone reaches.
    """

    graph: Graph
    shared: tuple[Tensor, ...]
    ghosts: tuple[Layer, ...]
    direct: tuple[Tensor, ...]
    plain: tuple[Tensor, ...]
    own: tuple[tuple[Tensor, ...], ...]

    @property
    def edges(self) -> list[GradientEdge]:
        """The layers' outputs."""
        return [layer.edge for layer in self.ghosts]

    def bytes_per_task(self) -> int:
        """The memory that the gradients of one task take until all are compared."""
        shapes = [layer.edge.node._input_metadata[0] for layer in self.ghosts]
        kept: int = sum(math.prod(meta.shape) * meta.dtype.itemsize for meta in shapes)
        return kept + sum(parameter.numel() * max(4, parameter.element_size()) for parameter in self.direct)


def plan(
    losses: Sequence[Tensor],
    shared: Iterable[Tensor] | None,
    *,
    ghosts: bool = True,
    unreached: bool = False,
    graph: Graph | None = None,
) -> Plan:
    """Find out what the losses reach, and how each parameter's gradients are measured at the least cost.

    Args:
        losses: K scalars.
        shared: The shared parameters; None: those that more than one loss reaches.
        ghosts: Whether output gradients may stand for weight gradients.
        unreached: Whether to keep the shared parameters that no loss reaches, so that they are the same at each step.
        graph: The losses' graph, if it is known.

    Raises:
        UserError: A shared parameter requires no gradient, or is computed from others, or is distributed.
    """
    graph = graph or Graph(losses)
    wanted = checked(graph.shared() if shared is None else shared)
    named = set(wanted)
    reached = tuple(parameter for parameter in wanted if unreached or graph.leaf(parameter) is not None)
    with clear_about_a_second_pass():
        found, direct = layers_of(graph, reached) if ghosts else ([], list(reached))
    alone: list[Layer] = []
    for layers in found:
        if len(layers) == 1 and layers[0].ghost_pays(len(losses)):
            alone += layers
        else:
            direct += layers[0].parameters
    return Plan(
        graph,
        reached,
        tuple(alone),
        tuple(direct),
        tuple(parameter for parameter in graph.shared() if parameter not in named),
        tuple(tuple(p for p in graph.own(index) if p not in named) for index in range(len(losses))),
    )


@dataclass(frozen=True)
class Row:
    """The gradients of one task.

    Attributes:
        outputs: For each ghost layer, the gradient of its output.
        direct: For each direct parameter, its gradient.
        others: Other parameters with their gradients.
    """

    outputs: tuple[Tensor | None, ...]
    direct: tuple[Tensor | None, ...]
    others: tuple[tuple[Tensor, Tensor], ...]


class Listener:
    """Hears what reaches some nodes in a backward pass, after the hooks that the user put on their outputs.

    Autograd runs those hooks before it gives out a gradient, except where the pass goes on through the node.

    Args:
        edges: Where to listen; each leads to another node.
    """

    def __init__(self, edges: Sequence[GradientEdge]) -> None:
        self._edges = edges
        self._heard: dict[int, Tensor | None] = {}

    def __enter__(self) -> Listener:
        self._handles = [
            edge.node.register_prehook(partial(self._hear, place, edge.output_nr))
            for place, edge in enumerate(self._edges)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hear(self, place: int, number: int, gradients: Sequence[Tensor | None]) -> None:
        self._heard[place] = gradients[number]

    def corrected(self, given: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What reached each node in the last pass, for what autograd gave out."""
        corrected = [self._heard.get(place, gradient) for place, gradient in enumerate(given)]
        self._heard.clear()
        return corrected


def refuse_hooks_after_accumulation(planned: Plan) -> None:
    """Refuse what would not happen: gradients that are written to `.grad` call no hook.

    Raises:
        UserError: A parameter has a hook for after its gradient is accumulated.
    """
    reached = (*planned.shared, *planned.plain, *(parameter for own in planned.own for parameter in own))
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in reached):
        raise UserError(
            "A parameter has a hook that runs after its gradient is accumulated (an optimiser within the backward "
            "pass?). Task gradients are not accumulated by autograd, and would not call it. Use update='backward', or "
            "a method of the level 'loss'."
        )


def row(plan: Plan, losses: Sequence[Tensor], index: int, listener: Listener, *, others: bool, keep_graph: bool) -> Row:
    """Measure one task by a backward pass of its own.

    Args:
        plan: What to measure.
        losses: K scalars.
        index: Which of them.
        listener: Listens to the plan's edges.
        others: Whether to measure the gradients of the other parameters too.
        keep_graph: Whether the graph is to be used again afterwards.
    """
    edges = plan.edges
    specific = [*plan.plain, *plan.own[index]] if others else []
    inputs: list[Any] = [*edges, *plan.direct, *specific]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if losses[index].requires_grad and inputs:
        with clear_about_a_second_pass():
            found = torch.autograd.grad(losses[index], inputs, retain_graph=keep_graph, allow_unused=True)
    return Row(
        tuple(listener.corrected(found[: len(edges)])),
        tuple(found[len(edges) : len(edges) + len(plan.direct)]),
        tuple((p, g) for p, g in zip(specific, found[len(edges) + len(plan.direct) :], strict=True) if g is not None),
    )


@dataclass(frozen=True)
class Block:
    """The gradients of K tasks for some parameters of one device.

    Attributes:
        parameters: P numbers in all.
        rows: `[K, P]`.
    """

    parameters: tuple[Tensor, ...]
    rows: Tensor


class TaskGradients:
    """The gradients of K losses, taken in one by one.

    Weight gradients are held as autograd made them until all are there, and only then put side by side: copies made
    earlier would be there together with the activations that a pass still needs.

    Args:
        planned: Tells what the rows hold.
        count: K.
        workspace: Where the gradients of outputs are kept; what was kept there before is lost.
        whole: Whether the parameters of a device make one block, however large.
    """

    def __init__(self, planned: Plan, count: int, workspace: Workspace, *, whole: bool = False) -> None:
        self.count = count
        self.others: list[tuple[tuple[Tensor, Tensor], ...]] = []
        self._plan = planned
        self._workspace = workspace
        self._whole = whole
        self._reached: list[list[int]] = [[] for _ in planned.ghosts]
        self._outputs: list[Tensor | None] = [None for _ in planned.ghosts]
        self._found: dict[Tensor, list[Tensor | None]] = {parameter: [] for parameter in planned.direct}
        self._sparse: dict[Tensor, list[Tensor | None]] = {}

    @torch.no_grad()
    def add(self, row: Row) -> None:
        """Take in the gradients of the next task."""
        index = len(self.others)
        self.others.append(row.others)
        for place, output in enumerate(row.outputs):
            if output is None:
                continue
            rows = self._outputs[place]
            if rows is None:
                shape = (self.count, *output.shape)
                rows = self._workspace.take(("output", place), shape, output.dtype, output.device)
                self._outputs[place] = rows
            rows[len(self._reached[place])].copy_(output)
            self._reached[place].append(index)
        for parameter, gradient in zip(self._plan.direct, row.direct, strict=True):
            self._found[parameter].append(gradient)

    @cached_property
    def blocks(self) -> list[Block]:
        """The weight gradients of all tasks, in pieces of bounded size for each device unless they are to be whole."""
        groups: dict[torch.device, list[list[Tensor]]] = {}
        for parameter in self._found:
            chosen = groups.setdefault(parameter.device, [[]])
            if chosen[-1] and not self._whole and sum(p.numel() for p in (*chosen[-1], parameter)) > _BLOCK:
                chosen.append([])
            chosen[-1].append(parameter)
        return [self._block(parameters) for chosen in groups.values() for parameters in chosen]

    @torch.no_grad()
    def _block(self, parameters: Sequence[Tensor]) -> Block:
        dtype = reduce(torch.promote_types, {parameter.dtype for parameter in parameters}, torch.float32)
        width = sum(parameter.numel() for parameter in parameters)
        rows = torch.empty(self.count, width, dtype=dtype, device=parameters[0].device)
        # Taken out, so that what was held goes as the blocks come.
        held = [self._found.pop(parameter) for parameter in parameters]
        for parameter, found in zip(parameters, held, strict=True):
            known = [gradient for gradient in found if gradient is not None]
            if known and all(gradient.is_sparse for gradient in known):
                self._sparse[parameter] = found
        for into, of_task in zip(rows, zip(*held, strict=True), strict=True):
            torch.cat([flat(g, p, dtype) for g, p in zip(of_task, parameters, strict=True)], out=into)
        return Block(tuple(parameters), rows)

    @torch.no_grad()
    def gramian(self) -> Tensor:
        """`[K, K]`, the scalar products of the tasks' gradients for the shared parameters."""
        with true_float32():
            parts = [(range(self.count), products(block.rows)) for block in self.blocks]
            for layer, reached, outputs in zip(self._plan.ghosts, self._reached, self._outputs, strict=True):
                if outputs is not None:
                    parts.append((reached, layer.gramian(outputs[: len(reached)], self._workspace)))  # type: ignore[arg-type]
        return total(parts, self.count)

    @torch.no_grad()
    def accumulate(self, weights: Tensor, own_weights: Tensor | None = None) -> None:
        """Add the weighted sum of the tasks' gradients to the shared parameters' `.grad`, and to the others' their own.

        Args:
            weights: `[K]`.
            own_weights: `[K]`, for the other parameters; None: 1.
        """
        with true_float32():
            for block in self.blocks:
                self._accumulate_block(block, weights)
            for layer, reached, outputs in zip(self._plan.ghosts, self._reached, self._outputs, strict=True):
                if outputs is not None:
                    accumulate(
                        layer.parameters, layer.gradients(weighted_sum(outputs[: len(reached)], weights, reached))
                    )
        accumulate_others(self.others, own_weights)

    @torch.no_grad()
    def accumulate_update(self, update: Tensor) -> None:
        """Add an update `[P]` to the `.grad` of the parameters of the only block, and to the others' their own."""
        (block,) = self.blocks
        for parameter, gradient in pieces(block.parameters, update):
            if self._plan.graph.leaf(parameter) is None and not gradient.any():
                continue
            # A copy: the update may be something that the method keeps.
            accumulate((parameter,), (gradient.to_sparse(1) if parameter in self._sparse else gradient,), copy=True)
        accumulate_others(self.others, None)

    def _accumulate_block(self, block: Block, weights: Tensor) -> None:
        update = weights.to(block.rows, non_blocking=True) @ block.rows
        for parameter, piece in pieces(block.parameters, update):
            gradient = piece
            if parameter in self._sparse:
                chosen = weights.to(parameter, non_blocking=True)
                pairs = zip(self._sparse[parameter], chosen, strict=True)
                gradient = reduce(torch.add, [found * weight for found, weight in pairs if found is not None])
            accumulate((parameter,), (gradient,))


def task_gradients(
    planned: Plan,
    losses: Sequence[Tensor],
    workspace: Workspace | None = None,
    *,
    others: bool = True,
    keep_graph: bool = False,
    whole: bool = False,
) -> TaskGradients:
    """Measure the gradients of all tasks, one pass each.

    Args:
        planned: What to measure.
        losses: K scalars, of which at least one requires a gradient.
        workspace: Where they are kept.
        others: Whether to measure the gradients of the other parameters too, in the same passes.
        keep_graph: Whether the graph is to be used again afterwards.
        whole: Whether the parameters of a device make one block, however large.
    """
    last = max((index for index, loss in enumerate(losses) if loss.requires_grad), default=-1)
    found = TaskGradients(planned, len(losses), workspace or Workspace(), whole=whole)
    with Listener(planned.edges) as listener:
        for index in range(len(losses)):
            found.add(row(planned, losses, index, listener, others=others, keep_graph=keep_graph or index != last))
    return found


def whole_gradients(planned: Plan, losses: Sequence[Tensor]) -> TaskGradients:
    """The gradients of all tasks for a plan without ghosts, in one block or none.

    Raises:
        UserError: The shared parameters are on several devices.
    """
    found = task_gradients(planned, losses, whole=True)
    if len(found.blocks) > 1:
        raise UserError("The shared parameters are on several devices, which this method cannot work with.")
    return found


def gramian(losses: Mapping[str, Tensor] | Sequence[Tensor], shared: Iterable[nn.Parameter] | None = None) -> Tensor:
    """The exact Gramian of the tasks' gradients, `G = J Jᵀ`.

    The graph is kept, and no `.grad` changes.

    Args:
        losses: K scalars, by task name or in order.
        shared: The parameters to take gradients for; None: those that more than one loss reaches.

    Returns:
        `[K, K]`, in float32 or wider.

    Raises:
        UserError: A shared parameter requires no gradient.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
    found = task_gradients(plan(values, shared), values, others=False, keep_graph=True).gramian()
    return found.to(values[0].device)


def gramian_in_parts(planned: Plan, losses: Sequence[Tensor], budget: int) -> Tensor:
    """`[K, K]`, as `TaskGradients.gramian`, in bounded memory: some tasks at a time, at the price of more passes.

    Args:
        planned: What to measure.
        losses: K scalars.
        budget: Bytes for the gradients that are held at once; those of two tasks are held at the least.
    """
    count = len(losses)
    chunk = max(1, budget // max(1, planned.bytes_per_task()) - 1)
    result = torch.zeros(count, count, dtype=torch.float64, device="cpu")
    workspace = Workspace()
    with Listener(planned.edges) as listener:
        measure = partial(row, planned, losses, listener=listener, others=False, keep_graph=True)
        for start in range(0, count, chunk):
            held = list(range(start, min(start + chunk, count)))
            rows = [measure(index=index) for index in held]
            for other in range(held[-1] + 1, count) if held[-1] + 1 < count else [held.pop()]:
                gradients = TaskGradients(planned, len(held) + 1, workspace)
                for each in rows[: len(held)]:
                    gradients.add(each)
                gradients.add(measure(index=other))
                where = torch.tensor([*held, other], device="cpu")
                result[where.unsqueeze(1), where] = gradients.gramian().cpu().double()
    return result


def checked(shared: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The shared parameters without repetitions.

    Raises:
        UserError: One requires no gradient, is computed from others, or is distributed.
    """
    parameters = tuple(dict.fromkeys(shared))
    for index, parameter in enumerate(parameters):
        where = f"Shared parameter {index}, of shape {tuple(parameter.shape)},"
        if not parameter.requires_grad:
            raise UserError(
                f"{where} requires no gradient. Leave frozen parameters out: "
                "shared=[p for p in trunk.parameters() if p.requires_grad]."
            )
        if parameter.is_complex():
            raise UserError(
                f"{where} is complex, which task gradients do not support. Keep it as a real parameter, and use "
                "torch.view_as_complex in the network."
            )
        if not parameter.is_leaf:
            raise UserError(f"{where} is computed from other tensors. Give the parameters themselves.")
        if type(parameter).__name__ == "DTensor":
            raise UserError(f"{where} is distributed over several processes, which task gradients do not support yet.")
    return parameters


def total(parts: Sequence[tuple[Sequence[int], Tensor]], count: int) -> Tensor:
    """`[count, count]`, the sum of Gramians of some tasks each, on the device of the first."""
    if not parts:
        return torch.zeros(count, count)
    dtype = reduce(torch.promote_types, {part.dtype for _, part in parts})
    device = parts[0][1].device
    result = torch.zeros(count, count, dtype=dtype, device=device)
    for tasks, part in parts:
        if len(tasks) == count:
            result += part.to(device)
        else:
            where = torch.tensor(tasks, device="cpu").to(device, non_blocking=True)
            result[where.unsqueeze(1), where] += part.to(result)
    return result


def products(rows: Tensor) -> Tensor:
    """`[K, K]`, the scalar products of rows `[K, P]`; piece by piece, since long sums lose digits."""
    count, width = rows.shape
    whole = width - width % _PIECE
    parts = rows[:, :whole].view(count, -1, _PIECE).transpose(0, 1)
    rest = rows[:, whole:]
    return torch.bmm(parts, parts.transpose(1, 2)).sum(0) + rest @ rest.T


_PIECE = 2**14
"""Numbers of one task that are summed at once."""

_BLOCK = 2**18
"""Numbers of one task that a block holds, unless a single parameter has more."""


def flat(gradient: Tensor | None, parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient as a vector, 0 where there is none."""
    if gradient is None:
        return torch.zeros(parameter.numel(), dtype=dtype, device=parameter.device)
    return (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1).to(dtype)


def weighted_sum(stacked: Tensor, weights: Tensor, tasks: Sequence[int]) -> Tensor:
    """The sum of the gradients of some tasks, `[n, ...]`, times their weights among `[K]`."""
    chosen = weights if len(tasks) == len(weights) else weights[tasks]
    summed: Tensor = torch.tensordot(chosen.to(wide(stacked), non_blocking=True), wide(stacked), 1)
    return summed.to(stacked.dtype)


def pieces(parameters: Sequence[Tensor], update: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The parameters, P numbers in all, each with its part of an update `[P]`."""
    parts = torch.split(update, [parameter.numel() for parameter in parameters])
    return [(parameter, part.view(parameter.shape)) for parameter, part in zip(parameters, parts, strict=True)]


def accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor], *, copy: bool = False) -> None:
    """Add gradients to `.grad`.

    Args:
        parameters: What they are for.
        gradients: The gradients.
        copy: Whether somebody else may hold them: autograd can hand out one tensor as the gradient of two parameters.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is not None:
            parameter.grad = parameter.grad + gradient if parameter.grad.is_sparse else parameter.grad.add_(gradient)
        elif gradient.is_sparse:
            parameter.grad = gradient.to(parameter.dtype)
        elif copy or gradient.dtype != parameter.dtype or gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        else:
            parameter.grad = gradient


@torch.no_grad()
def accumulate_others(others: Sequence[Sequence[tuple[Tensor, Tensor]]], weights: Tensor | None) -> None:
    """Add the tasks' own gradients to `.grad`.

    Args:
        others: For each task, parameters and gradients.
        weights: `[K]`, on the CPU; None: 1.
    """
    factors = [None] * len(others) if weights is None else weights.tolist()
    for factor, pairs in zip(factors, others, strict=True):
        for parameter, gradient in pairs:
            weighted = gradient if factor is None else gradient * factor
            accumulate((parameter,), (weighted,), copy=weights is None)


@contextmanager
def clear_about_a_second_pass() -> Iterator[None]:
    """Say in the user's words why a graph cannot be passed through."""
    try:
        yield
    except RuntimeError as error:
        if "backward through the graph a second time" in str(error):
            raise UserError(USED_UP) from error
        if "donated" in str(error):
            raise UserError(
                "A compiled part of the network gives up its buffers after one backward pass. Before the first forward "
                "pass set torch._functorch.config.donated_buffer = False and torch.compiler.config.cache_key_tag to a "
                "text of your own (code from PyTorch's cache would still give them up, without an error), or use "
                "on='features'."
            ) from error
        raise
