"""Backward passes of several tasks at once: one product of matrices in place of several small ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from polytask.balancing.features import Features, features_of
from polytask.balancing.gradients import Listener, Plan, Row, TaskGradients, clear_about_a_second_pass
from polytask.balancing.workspace import Workspace
from polytask.errors import UserError

_ROWS = 1024
"""The rows of all tasks together that a pass takes at most."""

_WEIGHTS = 6
"""How many numbers the layers' weights hold for each one of their inputs and outputs, where this pays.

Then it is the weights that a pass spends its time to read; else several tasks' gradients leave the cache.
"""

_BATCHED = (
    "AccumulateGrad", "AddBackward0", "AddmmBackward0", "CatBackward0", "CloneBackward0", "DivBackward0",
    "EluBackward0", "EmbeddingBackward0", "ExpandBackward0", "GeluBackward0", "HardtanhBackward0",
    "LeakyReluBackward0", "MmBackward0", "MulBackward0", "NativeDropoutBackward0", "NativeLayerNormBackward0",
    "NegBackward0", "PermuteBackward0", "ReluBackward0", "ReshapeAliasBackward0", "SigmoidBackward0", "SiluBackward0",
    "SqueezeBackward1", "SubBackward0", "TBackward0", "TanhBackward0", "ToCopyBackward0", "TransposeBackward0",
    "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
)  # fmt: skip
"""Nodes whose backward works on several gradients at once; others may loop within, and get slower."""


def batched_gradients(
    planned: Plan, losses: Sequence[Tensor], workspace: Workspace, *, others: bool = True, keep_graph: bool = False
) -> TaskGradients | None:
    """Measure as `task_gradients` does, with passes of several tasks from the shared features on; None if none pays.

    It pays where the layers have few rows for their widths, and every node on the way has a rule for several gradients
    at once. A hook of the user's own on a tensor between layers sees the gradients of several tasks as one tensor under
    `torch.func.vmap`; where it cannot work on that, nothing is measured here.
    """
    sizes = [layer.size for layer in planned.ghosts]
    weights = sum(inputs * outputs for _, inputs, outputs, _ in sizes)
    if len(losses) < 2 or planned.plain or weights <= _WEIGHTS * sum(rows * (m + n) for rows, m, n, _ in sizes):
        return None
    features = features_of(planned.graph, planned.shared)
    if features is None or not _all_batched([edge.node for edge in features.edges]):
        return None
    at_once = max(2, _ROWS // max(1, *(rows for rows, *_ in sizes)))
    own = planned.own if others else ((),) * len(losses)
    seeds, specific = features.gradients(losses, own, keep_graph=True)
    if any(seed is None for row in seeds for seed in row):
        return None
    found = TaskGradients(planned, len(losses), workspace)
    # The graph is kept throughout: a pass that fails halfway would leave half of it.
    for start in range(0, len(losses), at_once):
        chunk = seeds[start : start + at_once]
        try:
            stacks = _passed(planned, features, chunk)
        except UserError:
            raise
        except RuntimeError:
            return None
        for place in range(len(chunk)):
            row = [None if stack is None else stack[place] for stack in stacks]
            edges = len(planned.edges)
            found.add(Row(tuple(row[:edges]), tuple(row[edges:]), tuple(specific[start + place])))
    if not keep_graph:
        planned.graph.mark_as_used()
    return found


def _passed(planned: Plan, features: Features, rows: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """What one pass for several tasks finds, `[n, ...]` each, at the plan's edges and for its direct parameters."""
    edges = planned.edges
    inputs: list[Any] = [*edges, *planned.direct]
    reached: list[bool] = []

    def backward(*seeds: Tensor) -> tuple[Tensor, ...]:
        given = torch.autograd.grad(features.edges, inputs, seeds, retain_graph=True, allow_unused=True)
        found = [*listener.corrected(given[: len(edges)]), *given[len(edges) :]]
        reached[:] = [gradient is not None for gradient in found]
        return tuple(gradient for gradient in found if gradient is not None)

    stacked = [torch.stack(seeds) for seeds in zip(*rows, strict=True)]
    with Listener(edges) as listener, clear_about_a_second_pass():
        rest = iter(torch.func.vmap(backward)(*stacked))
    return [next(rest) if known else None for known in reached]


def _all_batched(start: Sequence[Node]) -> bool:
    waiting, seen = list(start), set(start)
    while waiting:
        node = waiting.pop()
        if type(node).__name__ not in _BATCHED:
            return False
        fresh = [child for child, _ in node.next_functions if child is not None and child not in seen]
        seen.update(fresh)
        waiting += fresh
    return True
