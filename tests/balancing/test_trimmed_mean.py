import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.balancing.trimmed_mean import TrimmedMean
from polytask.errors import UserError


def random_jacobian(tasks, columns=9, seed=0):
    return torch.randn(tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def definition(jacobian, trim):
    columns = [sorted(column)[trim : len(jacobian) - trim] for column in jacobian.T.tolist()]
    return torch.tensor([sum(column) / len(column) for column in columns], dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10000), tasks=st.integers(1, 9), data=st.data())
def test_the_update_is_that_of_the_definition(seed, tasks, data):
    trim = data.draw(st.integers(0, (tasks - 1) // 2))
    jacobian = random_jacobian(tasks, seed=seed)
    jacobian[:, 3] = jacobian[:, 3].sign()
    torch.testing.assert_close(TrimmedMean(trim).combine(jacobian), definition(jacobian, trim))


@pytest.mark.parametrize(("tasks", "trim"), [(3, 1), (7, 2), (12, 5), (4, 0)])
def test_the_update_is_that_of_torchjd(tasks, trim):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_jacobian(tasks, 300)
    expected = aggregation.TrimmedMean(trim_number=trim)(jacobian)
    torch.testing.assert_close(TrimmedMean(trim).combine(jacobian), expected)


def test_a_column_by_hand():
    jacobian = torch.tensor([[1.0, -9], [5, 2], [1e30, 4], [3, 3]])
    assert TrimmedMean().combine(jacobian).tolist() == [4, 2.5]
    assert jacobian[2, 0] == torch.tensor(1e30)


def test_with_too_few_tasks_it_is_the_median():
    jacobian = torch.tensor([[1.0, 6], [4, -1], [9, 2]])
    assert TrimmedMean(trim=5).combine(jacobian).tolist() == [4, 2]
    assert TrimmedMean().combine(jacobian[:2]).tolist() == [2.5, 2.5]
    assert TrimmedMean().combine(jacobian[:1]).tolist() == [1, 6]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_tasks_does_not_matter(seed):
    jacobian = random_jacobian(6, seed=seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(TrimmedMean(2).combine(jacobian[order]), TrimmedMean(2).combine(jacobian))


def test_a_step_that_overflows_in_float16_is_left_to_the_scaler():
    jacobian = random_jacobian(5)
    jacobian[2] = torch.nan
    assert TrimmedMean().combine(jacobian).isnan().all()


def test_absent_tasks_do_not_count():
    theta = nn.Parameter(torch.zeros(9, dtype=torch.float64))
    jacobian = random_jacobian(5)
    balancer = TrimmedMean()
    balancer.prepare("abcde")
    balancer.backward({"d": jacobian[3] @ theta, "a": jacobian[0] @ theta, "b": jacobian[1] @ theta}, [theta])
    torch.testing.assert_close(theta.grad, definition(jacobian[[0, 1, 3]], 1))


def test_a_negative_number_is_refused():
    with pytest.raises(UserError, match="trimmed_mean: trim is -1"):
        TrimmedMean(-1)
