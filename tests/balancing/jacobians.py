"""Task gradients to try solvers and methods on, from harmless to degenerate."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

seeds = st.integers(0, 2**32 - 1)


def _wide(rng, tasks):
    return rng.normal(size=(tasks, 3 * tasks))


def _square(rng, tasks):
    return rng.normal(size=(tasks, tasks))


def _more_tasks_than_dimensions(rng, tasks):
    return rng.normal(size=(tasks, max(1, tasks // 2)))


def _low_rank(rng, tasks):
    return rng.normal(size=(tasks, max(1, tasks // 3))) @ rng.normal(size=(max(1, tasks // 3), 2 * tasks))


def _duplicates(rng, tasks):
    return _wide(rng, tasks)[rng.integers(0, tasks, tasks)]


def _opposites(rng, tasks):
    rows = rng.normal(size=(tasks, rng.integers(1, 2 * tasks + 1)))
    for _ in range(1 + tasks // 3):
        one, other = rng.integers(0, tasks, 2)
        rows[one] = -rows[other]
    return rows


def _integers(rng, tasks):
    rows = rng.integers(-1, 2, (tasks, rng.integers(1, tasks + 2))).astype(float)
    rows[(rows == 0).all(1)] = 1
    return rows


def _different_lengths(rng, tasks):
    return _wide(rng, tasks) * 10.0 ** rng.uniform(-6, 6, (tasks, 1))


def _long(rng, tasks):
    return 1e6 * _wide(rng, tasks)


def _short(rng, tasks):
    return 1e-6 * _wide(rng, tasks)


def _some_zero(rng, tasks):
    return _wide(rng, tasks) * rng.integers(0, 2, (tasks, 1))


def _similar(rng, tasks):
    return rng.normal(size=3 * tasks) + 0.01 * _wide(rng, tasks)


HARMLESS = (_wide, _similar, _long, _short)
NEVER_ZERO = (
    *HARMLESS,
    _square,
    _more_tasks_than_dimensions,
    _low_rank,
    _duplicates,
    _opposites,
    _integers,
    _different_lengths,
)
ALL = (*NEVER_ZERO, _some_zero)


@st.composite
def jacobians(draw, kinds=ALL, most_tasks=8):
    """`[K, P]`, float64."""
    kind, tasks = draw(st.sampled_from(kinds)), draw(st.integers(1, most_tasks))
    return kind(np.random.default_rng(draw(seeds)), tasks)


def tensors(kinds=ALL, most_tasks=8):
    """The same as tensors."""
    return jacobians(kinds, most_tasks).map(torch.from_numpy)


def lengths(jacobian):
    return np.linalg.norm(jacobian, axis=1)


def step(balancer, jacobian, names=None, losses=None):
    """The update that `backward` makes where the task gradients are the rows of `jacobian`."""
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    names = names or [str(i) for i in range(len(jacobian))]
    values = jacobian @ theta + (0.0 if losses is None else torch.tensor(losses, dtype=jacobian.dtype))
    balancer.backward(dict(zip(names, values, strict=True)), [theta])
    return theta.grad


def golden_for(golden, method):
    """Name, Jacobian, parameters and update of the golden cases of a method."""
    double = torch.float64
    return [
        (
            case["name"],
            torch.tensor(case["jacobian"], dtype=double),
            expected["parameters"],
            torch.tensor(expected["update"], dtype=double),
        )
        for case in golden
        for expected in case["expected"]
        if expected["method"] == method
    ]


def relative(found, expected):
    """The difference relative to what is expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))
