import pytest
import torch
from torch import nn

from polytask import balancing
from polytask.balancing import gradients
from polytask.balancing.gradients import gramian_in_parts, plan, task_gradients
from polytask.errors import UserError


def test_the_gramian_is_that_of_the_explicit_jacobian(network, inputs):
    jacobian = network.jacobian(inputs)
    for shared in (network.trunk.parameters(), None):
        torch.testing.assert_close(balancing.gramian(network.losses(inputs), shared), jacobian @ jacobian.T)


def test_the_gramian_changes_no_gradient_and_keeps_the_graph(network, inputs):
    losses = network.losses(inputs)
    first = balancing.gramian(list(losses.values()))
    assert all(p.grad is None for p in network.parameters())
    torch.testing.assert_close(balancing.gramian(losses), first)
    sum(losses.values()).backward()


def test_parameters_given_twice_count_once(network, inputs):
    parameters = list(network.trunk.parameters())
    losses = network.losses(inputs)
    torch.testing.assert_close(balancing.gramian(losses, parameters * 2), balancing.gramian(losses, parameters))


def test_a_task_that_does_not_reach_the_shared_parameters_has_a_row_of_zeros(network, inputs):
    losses = network.losses(inputs)
    losses["elsewhere"] = nn.Linear(2, 1).double()(torch.ones(1, 2, dtype=torch.float64)).sum()
    losses["constant"] = torch.tensor(3.0, dtype=torch.float64)
    gramian = balancing.gramian(losses, network.trunk.parameters())
    assert not gramian[3:].any()
    assert not gramian[:, 3:].any()
    torch.testing.assert_close(gramian[:3, :3], balancing.gramian(network.losses(inputs)))


def test_nothing_shared_gives_a_gramian_of_zeros():
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    assert balancing.gramian([a * 2, b * 3]).tolist() == [[0, 0], [0, 0]]


def test_half_precision_parameters_have_a_gramian_in_float32():
    w = nn.Parameter(torch.full((300,), 1.0, dtype=torch.bfloat16))
    gramian = balancing.gramian([w.sum(), (w * 2).sum()])
    assert gramian.dtype == torch.float32
    assert gramian.tolist() == [[300, 600], [600, 1200]]


def test_the_precision_that_the_user_chose_for_the_network_stays():
    torch.set_float32_matmul_precision("medium")
    try:
        w = nn.Parameter(torch.randn(64, dtype=torch.float32))
        x = torch.randn(3, 64)
        gramian = balancing.gramian([(w * row).sum() for row in x])
        torch.testing.assert_close(gramian.double(), x.double() @ x.double().T, rtol=1e-5, atol=1e-5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_frozen_shared_parameter_is_refused():
    trunk = nn.Linear(2, 3)
    trunk.bias.requires_grad_(False)
    losses = [trunk(torch.ones(1, 2)).sum(), trunk(torch.ones(1, 2)).mean()]
    with pytest.raises(UserError, match=r"Shared parameter 1, of shape \(3,\), requires no gradient.*requires_grad\]"):
        balancing.gramian(losses, trunk.parameters())


def test_a_computed_tensor_is_refused_as_a_shared_parameter():
    w = nn.Parameter(torch.ones(2))
    features = w * 2
    with pytest.raises(UserError, match="is computed from other tensors"):
        balancing.gramian([features.sum(), features.mean()], [features])


def test_passes_through_the_trunk_are_as_many_as_tasks(network, inputs):
    passes = 0

    def count(*_):
        nonlocal passes
        passes += 1

    features = network.trunk(inputs)
    features.register_hook(count)
    losses = [(head(features) - i).square().mean() for i, head in enumerate(network.heads.values())]
    task_gradients(plan(losses, network.trunk.parameters()), losses)
    assert passes == 3


def test_the_graph_is_freed_after_the_last_pass_unless_it_is_to_be_kept(network, inputs):
    losses = list(network.losses(inputs).values())
    task_gradients(plan(losses, None), losses, keep_graph=True)
    task_gradients(plan(losses, None), losses)
    with pytest.raises(RuntimeError, match="second time"):
        losses[-1].backward()


def test_gradients_that_autograd_hands_out_as_one_tensor_do_not_become_one():
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    losses = [((a + b) * torch.tensor([1.0, 2.0])).sum(), c.sum()]
    task_gradients(plan(losses, None), losses).accumulate(torch.ones(2))
    a.grad.mul_(10)
    assert b.grad.tolist() == [1, 2]
    assert a.grad.data_ptr() != b.grad.data_ptr()


def test_gradients_are_laid_out_as_the_parameters():
    w = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    losses = [(w * 2).sum(), w.square().sum()]
    task_gradients(plan(losses, None), losses).accumulate(torch.ones(2))
    assert w.grad.stride() == w.stride()
    torch.testing.assert_close(w.grad, 2 + 2 * w.detach())


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 6, 100])
def test_in_bounded_memory_the_gramian_is_the_same(make_network, inputs, kept):
    network = make_network(*"abcdefg")
    losses = list(network.losses(inputs).values())
    planned = plan(losses, None)
    jacobian = network.jacobian(inputs)
    found = gramian_in_parts(planned, losses, kept * planned.bytes_per_task())
    torch.testing.assert_close(found, jacobian @ jacobian.T)


def test_layers_with_few_rows_are_compared_without_forming_their_gradients():
    wide, narrow = nn.Linear(64, 64), nn.Linear(64, 2)
    features = narrow(wide(torch.randn(4, 64)).relu())
    found = plan([features.sum(), features.square().sum()], None)
    assert [layer.parameters for layer in found.ghosts] == [(wide.weight, wide.bias)]
    assert set(found.direct) == {narrow.weight, narrow.bias}


def test_layer_normalisation_of_one_vector():
    norm = nn.LayerNorm(4).double()
    features = norm(torch.randn(4, dtype=torch.float64))
    losses = [features.square().sum(), features[0]]
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, list(norm.parameters()), retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(balancing.gramian(losses, norm.parameters()), jacobian @ jacobian.T)
    balancing.create("equal").backward(losses)


def test_a_lookup_in_a_small_table_keeps_gradients_no_larger_than_the_table():
    words = torch.randint(5, (16, 8))
    small, large = nn.Embedding(5, 3), nn.Embedding(1000, 3)
    for table, ghosts in ((small, 0), (large, 1), (nn.Embedding(5, 3, sparse=True), 1)):
        hidden = table(words).sum(1)
        assert len(plan([hidden.sum(), hidden.square().sum()], None).ghosts) == ghosts


def test_weight_gradients_are_not_copied_before_the_last_pass():
    weights = nn.ParameterList([nn.Parameter(torch.randn(50)) for _ in range(3)])
    losses = [sum((index + 1) * weight.square().sum() for weight in weights) for index in range(4)]
    found = task_gradients(plan(losses, None), losses)
    assert found._workspace._buffers == {}
    (block,) = found.blocks
    assert block.rows.shape == (4, 150)
    torch.testing.assert_close(block.rows[3], 8 * torch.cat(block.parameters).detach())


def test_many_weights_are_put_side_by_side_some_at_a_time(monkeypatch):
    monkeypatch.setattr(gradients, "_BLOCK", 100)
    weights = nn.ParameterList([nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in (60, 30, 20, 300, 5)])
    losses = [sum((index + 1) * weight.square().sum() for weight in weights) for index in range(3)]
    found = task_gradients(plan(losses, weights), losses, keep_graph=True)
    assert [block.rows.shape[1] for block in found.blocks] == [90, 20, 300, 5]
    square = 4 * torch.cat(list(weights)).detach().square().sum()
    factors = torch.arange(1, 4, dtype=torch.float64)
    torch.testing.assert_close(found.gramian(), square * torch.outer(factors, factors))
    (whole,) = task_gradients(plan(losses, None), losses, whole=True).blocks
    assert whole.rows.shape == (3, 415)
