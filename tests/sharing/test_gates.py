import math

import pytest
import torch

from polytask.sharing.gates import RECENT, SoftmaxGate, drop_experts, imbalance


def test_a_gate_is_a_softmax_of_a_linear_map():
    torch.manual_seed(0)
    gate, features = SoftmaxGate(4, 3), torch.randn(5, 4)
    logits = features @ gate.map.weight.T + gate.map.bias
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(gate(features).weights, expected)
    assert gate(features).penalties == {}


def test_a_gate_over_one_expert_has_nothing_to_learn():
    gate = SoftmaxGate(4, 1)
    assert list(gate.parameters()) == []
    assert gate(torch.randn(3, 4)).weights.tolist() == [[1.0]] * 3


def test_usage_follows_the_mean_weights_of_recent_training_batches():
    torch.manual_seed(0)
    gate = SoftmaxGate(4, 3)
    assert gate.usage.tolist() == pytest.approx([1 / 3] * 3)
    gate.eval()(torch.randn(5, 4))
    assert gate.usage.tolist() == pytest.approx([1 / 3] * 3)
    expected = torch.full((3,), 1 / 3)
    gate.train()
    for rows in (5, 2):
        weights = gate(torch.randn(rows, 4)).weights.detach()
        expected = (1 - RECENT) * expected + RECENT * weights.mean(0)
    torch.testing.assert_close(gate.usage, expected)
    gate(torch.ones(0, 4))
    torch.testing.assert_close(gate.usage, expected)
    assert "usage" in gate.state_dict()


def test_dropped_experts_give_their_weight_to_the_others():
    torch.manual_seed(0)
    weights = torch.rand(2000, 4).softmax(1)
    found = drop_experts(weights, 0.3)
    torch.testing.assert_close(found.sum(1), torch.ones(2000))
    dropped = found == 0
    assert dropped.float().mean().item() == pytest.approx(0.3 - 0.3**4, abs=0.02)
    assert not dropped.all(1).any()
    ratio = found / weights
    for row in range(50):
        kept = ratio[row][~dropped[row]]
        torch.testing.assert_close(kept, kept[:1].expand_as(kept))
    # Which are dropped differs from row to row.
    assert len(dropped.unique(dim=0)) == 15


def test_a_row_of_which_all_experts_are_dropped_stays_as_it_is():
    weights = torch.tensor([[0.25, 0.75]], requires_grad=True)
    found = drop_experts(weights, 1.0)
    assert found.tolist() == weights.tolist()
    found[0, 0].backward()
    assert weights.grad.tolist() == [[1.0, 0.0]]


def test_weights_that_do_not_sum_to_one_keep_their_sum():
    torch.manual_seed(0)
    weights = torch.tensor([[0.2, 0.3, 0.1]]).expand(100, -1)
    torch.testing.assert_close(drop_experts(weights, 0.5).sum(1), torch.full((100,), 0.6))


def everything(count):
    return torch.arange(count)


def test_imbalance_of_one_gate_is_what_its_mean_entropy_lacks():
    torch.manual_seed(0)
    weights = torch.randn(6, 4).softmax(1)
    mean = weights.mean(0)
    entropy = -(mean * mean.log()).sum()
    assert imbalance([weights], [everything(4)], 4).item() == pytest.approx(math.log(4) - entropy.item(), abs=1e-6)


def test_imbalance_is_zero_where_the_gates_together_use_all_experts_equally():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert imbalance([one, other], [everything(2)] * 2, 2).item() == pytest.approx(0, abs=1e-6)
    assert imbalance([one, one], [everything(2)] * 2, 2).item() == pytest.approx(math.log(2), abs=1e-5)


def test_imbalance_of_gates_over_different_experts_compares_with_uniform_gates():
    # Two tasks with an expert each (0 and 1), and a shared one (2).
    columns = [torch.tensor([0, 2]), torch.tensor([1, 2])]
    even = torch.tensor([[0.5, 0.5]])
    assert imbalance([even, even], columns, 3).item() == pytest.approx(0, abs=1e-6)
    only_own = torch.tensor([[1.0, 0.0]])
    # Shares 1/2, 1/2, 0 in place of 1/4, 1/4, 1/2.
    assert imbalance([only_own, only_own], columns, 3).item() == pytest.approx(math.log(2), abs=1e-5)
    # The other task is not in this step: its expert is in neither.
    assert imbalance([even], columns[:1], 3).item() == pytest.approx(0, abs=1e-6)


def test_imbalance_has_finite_gradients_for_experts_that_are_not_used():
    weights = torch.tensor([[1.0, 0.0]], requires_grad=True)
    imbalance([weights], [everything(2)], 2).backward()
    assert weights.grad.isfinite().all()
