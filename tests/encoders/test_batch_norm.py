import pytest
import torch
from torch import nn

from polytask.encoders.batch_norm import BatchNorm1d, BatchNorm2d

SHAPES = [(BatchNorm1d, nn.BatchNorm1d, (4, 3), (1, 3)), (BatchNorm2d, nn.BatchNorm2d, (4, 3, 2, 2), (1, 3, 1, 1))]


@pytest.mark.parametrize(("ours", "theirs", "many", "one"), SHAPES)
def test_is_pytorchs_except_for_a_single_value_a_channel(ours, theirs, many, one):
    norm, reference = ours(3), theirs(3)
    for _ in range(3):
        values = torch.randn(many) * 3 + 1
        torch.testing.assert_close(norm(values), reference(values))
    single = torch.randn(one)
    found = norm(single)
    assert torch.equal(norm.running_mean, reference.running_mean)
    assert norm.num_batches_tracked == 3
    torch.testing.assert_close(found, reference.eval()(single))
    with pytest.raises(ValueError, match="more than 1 value"):
        reference.train()(single)


def test_gradients_of_a_single_row_are_right_whatever_the_layer_sees_before_the_backward_pass():
    norm = BatchNorm1d(3).double().train()
    norm(torch.randn(5, 3, dtype=torch.float64))
    row = torch.randn(1, 3, dtype=torch.float64)
    expected = (row - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    alone = norm(row)
    norm(10 + 5 * torch.randn(5, 3, dtype=torch.float64))
    alone.sum().backward()
    torch.testing.assert_close(norm.weight.grad, expected[0])
