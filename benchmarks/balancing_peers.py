"""Steps of torchjd for `balancing.py`, in its default and its tuned settings.

All weigh the tasks by the inverse norms of their gradients, so that no solver is in the figures, except where UPGrad is
named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from balancing_problems import Problem, Workload
from torch import Tensor

Prepare = Callable[[Workload], Callable[[], object]]


def inverse_norms(gramian: Tensor) -> Tensor:
    return gramian.diagonal().clamp(min=1e-300).rsqrt()


def weighting() -> Any:
    from torchjd.aggregation import Weighting

    class InverseNorms(Weighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            return inverse_norms(gramian)

    return InverseNorms()


def aggregator(upgrad: bool) -> Any:
    from torchjd.aggregation import GramianWeightedAggregator, UPGrad

    return UPGrad() if upgrad else GramianWeightedAggregator(weighting())


def jacobian_by_default(upgrad: bool = False) -> Prepare:
    """As torchjd's documentation shows it: all tasks in one batched pass, the Jacobian as one matrix."""

    def prepare(workload: Workload) -> Callable[[], object]:
        from torchjd.autojac import jac_to_grad, mtl_backward

        method = aggregator(upgrad)

        def step() -> None:
            features, losses = workload.forward()
            mtl_backward(list(losses.values()), features=features)
            jac_to_grad(workload.trunk.parameters(), method)

        return step

    return prepare


def jacobian_tuned(chunk: int | None, upgrad: bool = False) -> Prepare:
    """With the parameters named, the tasks in chunks, and the Gramian summed over the parameters."""

    def prepare(workload: Workload) -> Callable[[], object]:
        from torchjd.autojac import jac_to_grad, mtl_backward

        method = aggregator(upgrad)
        shared = list(workload.trunk.parameters())
        heads = [list(head.parameters()) for head in workload.heads]

        def step() -> None:
            features, losses = workload.forward()
            mtl_backward(
                list(losses.values()),
                features=features,
                shared_params=shared,
                tasks_params=heads,
                parallel_chunk_size=chunk,
            )
            jac_to_grad(shared, method, optimize_gramian_computation=True)

        return step

    return prepare


def engine(workload: Workload) -> Callable[[], object]:
    """The Gramian without the Jacobian, layer by layer, then a backward pass of the weighted losses."""
    from torchjd.autogram import Engine

    found = Engine(workload.trunk, batch_dim=None)
    method = weighting()

    def step() -> None:
        stacked = torch.stack(list(workload.forward()[1].values()))
        stacked.backward(method(found.compute_gramian(stacked)))

    return step


def engine_by_sample(workload: Workload) -> Callable[[], object]:
    """The Gramian of all samples' gradients, each labelled for one task, and from it that of the tasks'."""
    from torchjd.autogram import Engine

    samples = workload.samples
    if samples is None:
        raise ValueError("each sample has K losses, so this would measure K times the batch")
    found = Engine(workload.trunk, batch_dim=0)
    method = weighting()
    order = torch.cat(list(samples.values()))
    means = torch.zeros(len(samples), len(order), device=order.device)
    for row, chosen in zip(means, samples.values(), strict=True):
        row[chosen] = 1 / len(chosen)

    def step() -> None:
        losses = torch.cat(
            [each.reshape(-1) for each in workload.losses(workload.trunk(workload.inputs), "none").values()]
        )
        by_sample = torch.zeros_like(losses).index_copy(0, order, losses)
        weights = method(means @ found.compute_gramian(by_sample) @ means.T)
        by_sample.backward(weights @ means)

    return step


def peers(problem: Problem) -> dict[str, Prepare]:
    """The steps that are worth measuring on a problem, by name."""
    found = {
        "torchjd, default": jacobian_by_default(),
        "torchjd, all at once, tuned": jacobian_tuned(None),
        "torchjd, one by one, tuned": jacobian_tuned(1),
        "torchjd, engine": engine,
    }
    if problem.one_task_per_sample:
        found["torchjd, engine, by sample"] = engine_by_sample
    if problem.tasks == 10:
        found["torchjd, default, UPGrad"] = jacobian_by_default(upgrad=True)
        found["torchjd, one by one, tuned, UPGrad"] = jacobian_tuned(1, upgrad=True)
    return found
