"""What a task predicts for other tasks to read."""

import pytest
import torch

from polytask.tasks import Classification, MultiLabel, Regression

OUTPUT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Classification("kind", classes=3), OUTPUT.exp() / OUTPUT.exp().sum(1, keepdim=True)),
        (MultiLabel("tags", classes=3), 1 / (1 + (-OUTPUT).exp())),
        (Regression(["x", "y", "z"], mean=[5.0] * 3, std=[7.0] * 3), OUTPUT),
    ],
)
def test_probabilities_or_standardised_numbers(task, expected):
    torch.testing.assert_close(task.prediction(OUTPUT), expected)
    assert task.prediction(OUTPUT.bfloat16()).dtype == torch.float32
    assert task.prediction(OUTPUT.double()).dtype == torch.float64
    output = OUTPUT.clone().requires_grad_()
    task.prediction(output)[:, 0].sum().backward()
    assert output.grad.any()
