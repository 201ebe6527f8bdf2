"""The gradient engine against plain autograd: K losses, K forward passes, K backward passes."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch._functorch import config

from polytask import balancing
from polytask.balancing import Balancer, GramianBalancer, JacobianBalancer, batched

from . import zoo_dense, zoo_disjoint, zoo_images, zoo_sequences, zoo_sharing  # noqa: F401 (they fill the zoo)
from .zoo import ZOO, Case

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 8 * 2.0**-10, torch.bfloat16: 8 * 2.0**-7}
"""Relative; in half precision a few units in the last place, as sums are rounded at other points."""


def builds(*dtypes: torch.dtype, chosen: Callable[[str], bool] = lambda name: True) -> pytest.MarkDecorator:
    """The cases to build, each in its types, as far as they are among `dtypes`."""
    found = [
        pytest.param(
            (name, dtype),
            id=f"{name}-{str(dtype).removeprefix('torch.')}",
            marks=[pytest.mark.xfail(strict=False, reason=entry.gap)] if entry.gap else [],
        )
        for name, entry in ZOO.items()
        for dtype in entry.dtypes
        if dtype in dtypes and chosen(name)
    ]
    # The scope makes all tests of a case run one after the other, on one reference.
    return pytest.mark.parametrize("expected", found, indirect=True, scope="module")


everything = builds(*TOLERANCE)
in_double_precision = builds(torch.float64)
where_all_is_linear = builds(torch.float64, chosen=lambda name: ZOO[name].linear)
with_disjoint_samples = builds(torch.float64, torch.float32, chosen=lambda name: name.startswith("disjoint"))


def coupled(gramian: Tensor) -> Tensor:
    """Weights that depend smoothly on all of the Gramian, and differ from task to task."""
    gramian = gramian.double()
    lengths = gramian.diagonal().sqrt()
    cosines = gramian / (lengths.outer(lengths) + 1e-12)
    return (2 + cosines.sum(1).tanh() + 0.1 * torch.arange(len(gramian))) / (0.1 + lengths)


class OnGramian(GramianBalancer):
    paper, year = "a test", 2020

    def weights(self, gramian: Tensor) -> Tensor:
        return coupled(gramian)


class OnJacobian(JacobianBalancer):
    paper, year = "a test", 2020

    def combine(self, jacobian: Tensor) -> Tensor:
        return coupled(jacobian @ jacobian.T).to(jacobian) @ jacobian


@dataclass(frozen=True)
class Reference:
    """What separate passes give.

    Attributes:
        case: The network.
        tolerance: How much an engine may differ.
        rows: For each task `.grad` by parameter.
        gramian: That of the shared parameters.
        common: That of the parameters that more than one loss reaches.
    """

    case: Case
    tolerance: float
    rows: list[dict[str, Tensor | None]]
    gramian: Tensor
    common: Tensor


def separate_gradients(case: Case) -> list[dict[str, Tensor | None]]:
    """For each task `.grad` of all parameters, after a forward and a backward pass for it alone."""
    rows = []
    for task in case.tasks:
        case.model.zero_grad()
        loss = case.losses()[task]
        if loss.requires_grad:
            loss.backward()
        rows.append({name: parameter.grad for name, parameter in case.model.named_parameters()})
    return rows


def flat(gradient: Tensor | None) -> Tensor:
    return torch.zeros(()) if gradient is None else gradient.detach().to_dense().double().flatten()


def gramian_of(rows: list[dict[str, Tensor | None]], names: list[str]) -> Tensor:
    result = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for name in names:
        for i, one in enumerate(rows):
            for j, other in enumerate(rows):
                if one[name] is not None and other[name] is not None:
                    result[i, j] += flat(one[name]) @ flat(other[name])
    return result


def assert_close_gramians(found: Tensor, expected: Tensor, tolerance: float) -> None:
    lengths = expected.diagonal().sqrt()
    excess = (found.cpu().double() - expected).abs() - tolerance * lengths.outer(lengths)
    assert (excess <= 0).all(), f"found\n{found}\nexpected\n{expected}"


def layout(gradient: Tensor) -> tuple[object, ...]:
    """How a gradient is stored; the stride of a dimension of length 1 means nothing."""
    strides = zip(gradient.shape, gradient.stride(), strict=True) if gradient.layout == torch.strided else ()
    return gradient.dtype, gradient.layout, [stride for length, stride in strides if length > 1]


def assert_close_gradients(expected: Reference, *, stored_alike: bool = True) -> None:
    """Whether `.grad` is what `coupled` makes of separate passes."""
    case, rows = expected.case, expected.rows
    shared = set(case.shared)
    weights = coupled(expected.gramian)
    whole = float(weights @ expected.gramian.diagonal().sqrt())
    for name, parameter in case.model.named_parameters():
        reached = [row[name] for row in rows if row[name] is not None]
        if not reached:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        if stored_alike:
            assert layout(parameter.grad) == layout(reached[0]), name
        factors = weights if parameter in shared else torch.ones_like(weights)
        terms = [factor * flat(row[name]) for factor, row in zip(factors, rows, strict=True)]
        # A gradient that vanishes but for rounding is measured against the others.
        size = float(sum(term.norm() for term in terms)) + 0.01 * whole
        error = float((flat(parameter.grad) - sum(terms)).norm())
        assert error <= expected.tolerance * size, f"{name}: {error / size:.1e}"


def backward(balancer: Balancer, case: Case, **options: object) -> None:
    case.model.zero_grad()
    balancer.backward(case.losses(), case.shared, **options)


@pytest.fixture(autouse=True, scope="module")
def compiled_graphs_that_can_be_passed_several_times():
    with config.patch(donated_buffer=False):
        yield


@pytest.fixture(scope="module")
def expected(request):
    """The reference; the default type is that of the case as long as it is in use."""
    name, dtype = request.param
    entry, before = ZOO[name], torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    case = entry.build()
    rows = separate_gradients(case)
    parameters = dict(case.model.named_parameters())
    shared = [name for name, parameter in parameters.items() if parameter in set(case.shared)]
    common = [name for name in parameters if sum(row[name] is not None for row in rows) > 1]
    tolerance = TOLERANCE[entry.precision(dtype)]
    yield Reference(case, tolerance, rows, gramian_of(rows, shared), gramian_of(rows, common))
    torch.set_default_dtype(before)


@everything
def test_the_gramian_is_that_of_separate_passes(expected):
    case = expected.case
    case.model.zero_grad()
    losses = case.losses()
    assert_close_gramians(balancing.gramian(losses, case.shared), expected.gramian, expected.tolerance)
    assert_close_gramians(balancing.gramian(losses), expected.common, expected.tolerance)
    assert all(parameter.grad is None for parameter in case.model.parameters())


@everything
def test_every_gradient_is_that_of_separate_passes(expected):
    backward(OnGramian(), expected.case)
    assert_close_gradients(expected)


@in_double_precision
def test_every_gradient_is_that_of_separate_passes_where_the_method_takes_the_gradients_themselves(expected):
    backward(OnJacobian(), expected.case)
    assert_close_gradients(expected, stored_alike=False)


@where_all_is_linear
def test_every_gradient_is_that_of_separate_passes_where_memory_is_short(expected):
    backward(OnGramian(memory_budget=1e-6), expected.case)
    assert_close_gradients(expected)


@where_all_is_linear
def test_every_gradient_is_that_of_separate_passes_where_a_last_backward_pass_makes_them(expected):
    backward(OnGramian(update="backward"), expected.case)
    assert_close_gradients(expected)


@everything
def test_every_gradient_is_that_of_separate_passes_where_passes_take_several_tasks(expected, monkeypatch):
    monkeypatch.setattr(batched, "_WEIGHTS", 0)  # Else none of these networks is wide enough for it to pay.
    backward(OnGramian(), expected.case)
    assert_close_gradients(expected)


@with_disjoint_samples
def test_every_gradient_is_that_of_separate_passes_where_tasks_have_samples_of_their_own(expected):
    backward(OnGramian(), expected.case, samples=expected.case.samples)
    assert_close_gradients(expected)
