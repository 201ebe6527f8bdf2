import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.gradient_cosine import GradientCosine
from polytask.errors import UserError

seeds = st.integers(0, 10_000)
JACOBIAN = torch.tensor([[2.0, 0], [0.3, 0.4], [-1, 5], [0, 7], [0, 0]], dtype=torch.float64)
NAMES = ["main", "for", "against", "across", "nothing"]


def random_jacobian(seed, tasks, size=5):
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(balancer, jacobian, names):
    theta = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.backward(dict(zip(names, jacobian @ theta, strict=True)), [theta])
    return theta.grad


@pytest.mark.parametrize(("weighted", "expected"), [(False, [1, 1, 0, 1, 1]), (True, [1, 0.6, 0, 0, 0])])
def test_hand_worked_weights(weighted, expected):
    balancer = GradientCosine("main", weighted=weighted)
    step(balancer, JACOBIAN, NAMES)
    assert balancer.last.weight_values.tolist() == pytest.approx(expected)


def test_losses_in_order_have_their_positions_for_names():
    gramian = JACOBIAN @ JACOBIAN.T
    assert GradientCosine("2").weights(gramian).tolist() == [0, 1, 1, 1, 1]


@settings(max_examples=50, deadline=None)
@given(seed=seeds, tasks=st.integers(1, 6), weighted=st.booleans(), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_update_never_opposes_the_main_task(seed, tasks, weighted, scale):
    jacobian = random_jacobian(seed, tasks)
    jacobian[1:] *= scale
    update = GradientCosine("0", weighted=weighted).combine(jacobian)
    assert update @ jacobian[0] >= (1 - 1e-9) * jacobian[0] @ jacobian[0]


@settings(max_examples=30, deadline=None)
@given(seed=seeds, weighted=st.booleans(), factors=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_the_weights_do_not_depend_on_the_scales_of_the_losses(seed, weighted, factors):
    jacobian = random_jacobian(seed, 4)
    balancer = GradientCosine("1", weighted=weighted)
    scaled = torch.tensor(factors, dtype=torch.float64)[:, None] * jacobian
    torch.testing.assert_close(balancer.weights(scaled @ scaled.T), balancer.weights(jacobian @ jacobian.T))


def test_several_main_tasks_count_with_the_sum_of_their_gradients():
    jacobian = random_jacobian(3, 5)
    names = ["a", "m", "b", "n", "c"]
    balancer = GradientCosine(["n", "m"], weighted=True)
    step(balancer, jacobian, names)
    main = jacobian[1] + jacobian[3]
    cosines = torch.cosine_similarity(jacobian, main[None], dim=1).clamp(min=0)
    expected = [cosines[0], 1, cosines[2], 1, cosines[4]]
    assert balancer.last.weight_values.tolist() == pytest.approx([float(w) for w in expected])


@settings(max_examples=30, deadline=None)
@given(seed=seeds, order=st.permutations(range(5)), weighted=st.booleans())
def test_the_order_of_the_tasks_does_not_matter(seed, order, weighted):
    jacobian = random_jacobian(seed, 5)
    names = list("abcde")
    balancer = GradientCosine("c", weighted=weighted)
    update = step(balancer, jacobian, names)
    torch.testing.assert_close(step(balancer, jacobian[order], [names[i] for i in order]), update)


def test_tasks_can_be_absent_even_the_main_one():
    balancer = GradientCosine("main")
    balancer.prepare(NAMES)
    step(balancer, JACOBIAN[[2, 0]], ["against", "main"])
    assert balancer.last.weight_values.tolist() == [0, 1]
    step(balancer, JACOBIAN[[1, 2]], ["for", "against"])
    assert balancer.last.weight_values.tolist() == [1, 1]


@pytest.mark.parametrize("weighted", [False, True])
def test_a_main_gradient_of_zero_opposes_nothing(weighted):
    jacobian = JACOBIAN.clone()
    jacobian[0] = 0
    balancer = GradientCosine("main", weighted=weighted)
    step(balancer, jacobian, NAMES)
    assert balancer.last.weight_values.tolist() == [1] + [0 if weighted else 1] * 4


def test_one_task_alone_keeps_its_gradient():
    torch.testing.assert_close(step(GradientCosine("main"), JACOBIAN[:1], ["main"]), JACOBIAN[0])


def test_a_main_task_that_is_no_task_is_refused():
    with pytest.raises(UserError, match="gradient_cosine: the main task 'depth' is no task"):
        GradientCosine("depth").prepare(["a", "b"])
    with pytest.raises(UserError, match="gradient_cosine: none of the main tasks"):
        step(GradientCosine("depth"), JACOBIAN[:2], ["a", "b"])
    with pytest.raises(UserError, match="main names no task"):
        GradientCosine([])
