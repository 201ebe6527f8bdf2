import numpy as np
import pytest
import torch

from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Regression
from polytask.training.gradient_cosines import gradient_cosines

TASKS = ("a", "b", "c")


def network(dropout=0.3):
    torch.manual_seed(0)
    encoder = MLP(width=8, depth=2, dropout=dropout, shape=TabularShape(4))
    return MultiTaskModel({"row": encoder}, [Regression(task, mean=[0.0], std=[1.0]) for task in TASKS])


def batch(seed, present=TASKS):
    draw = torch.Generator().manual_seed(seed)
    inputs = {"row": {"numeric": torch.randn(16, 4, generator=draw), "categorical": torch.zeros(16, 0).long()}}
    targets = {task: torch.randn(16, 1, generator=draw) for task in TASKS}
    masks = {task: torch.full((16, 1), task in present) for task in TASKS}
    return Batch.of(inputs, targets, masks, torch.arange(16))


def by_autograd(model, data):
    """The cosines of one batch, each gradient by a backward pass of its own."""
    model.eval()
    shared = model.shared_parameters()
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, shared, retain_graph=True)])
        for loss in model.losses(data).values()
    ]
    units = torch.stack([gradient / gradient.norm() for gradient in gradients])
    model.train()
    return (units @ units.T).numpy()


def test_the_mean_over_the_batches_of_the_cosines():
    model = network().train()
    found = gradient_cosines(model, [batch(1), batch(2)], model.shared_parameters())
    expected = (by_autograd(model, batch(1)) + by_autograd(model, batch(2))) / 2
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_pair_that_is_never_together_is_unknown():
    model = network()
    found = gradient_cosines(model, [batch(1, "ab"), batch(2, "bc"), batch(3, "")], model.shared_parameters())
    assert np.isnan(found[0, 2]) and np.isnan(found[2, 0])
    np.testing.assert_allclose(found[:2, :2], by_autograd(model, batch(1, "ab")) * [[1, 1], [1, 1]], atol=1e-5)


def test_measuring_changes_nothing():
    model = network().train()
    model.trunk.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    gradient_cosines(model, [batch(1)], model.shared_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("batches", [[], [batch(1)]])
def test_where_nothing_is_shared_nothing_is_measured(batches):
    assert gradient_cosines(network(), batches, []) is None
