import pytest
import torch
from torch import nn

from polytask.balancing import GramianBalancer
from polytask.balancing.disjoint import colours, memberships
from polytask.errors import UserError


class InverseLength(GramianBalancer):
    paper, year = "a test", 2020

    def weights(self, gramian):
        return gramian.diagonal().clamp(min=1e-30).rsqrt()


def test_samples_are_numbers_or_masks():
    samples = {"a": torch.tensor([0, 2]), "b": torch.tensor([False, True, False, False])}
    assert memberships(samples, ["b", "a"], 4).tolist() == [[False, True, False, False], [True, False, True, False]]


def test_a_task_without_samples_is_an_error():
    with pytest.raises(UserError, match="says nothing of task 'b'"):
        memberships({"a": torch.tensor([0])}, ["a", "b"], 4)


@pytest.mark.parametrize("samples", [torch.tensor([4]), torch.tensor([True])])
def test_samples_of_another_dimension_than_the_features_first_are_not_made_use_of(samples):
    assert memberships({"a": torch.tensor([0]), "b": samples}, ["a", "b"], 4) is None


def test_tasks_without_common_samples_share_a_pass():
    members = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    assert colours(members) == [[0, 2], [1, 3]]
    assert colours(torch.ones(3, 2, dtype=torch.bool)) == [[0], [1], [2]]
    assert colours(torch.eye(3, dtype=torch.bool)) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("samples", "passes"),
    [
        ({"a": [0, 3], "b": [1, 4], "c": [2, 5]}, 1),
        ({"a": [0, 1], "b": [1, 2], "c": [3, 4]}, 2),
        ({"a": [0, 1], "b": [1, 2], "c": [1, 4]}, 3),
    ],
)
def test_the_passes_through_the_trunk_are_as_few_as_they_can_be(samples, passes):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in samples}).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    counted = 0

    def count(gradient):
        nonlocal counted
        counted += 1
        return gradient

    def losses(hook):
        hidden = trunk[1](trunk[0](inputs))
        if hook:
            hidden.register_hook(count)
        features = trunk[2](hidden)
        return {task: heads[task](features[rows]).square().mean() for task, rows in samples.items()}

    given = {task: torch.tensor(rows) for task, rows in samples.items()}
    InverseLength().backward(losses(False), trunk.parameters())
    plain = [p.grad.clone() for p in [*trunk.parameters(), *heads.parameters()]]
    for parameter in [*trunk.parameters(), *heads.parameters()]:
        parameter.grad = None
    InverseLength().backward(losses(True), trunk.parameters(), samples=given)
    assert counted == passes
    torch.testing.assert_close([p.grad for p in [*trunk.parameters(), *heads.parameters()]], plain)


def test_losses_that_depend_on_other_samples_are_measured_one_by_one():
    torch.manual_seed(0)
    trunk, head = nn.Linear(4, 5).double(), nn.Linear(5, 1).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)

    def losses():
        features = trunk(inputs)
        return {"a": head(features).square().mean(), "b": features[:3].sum()}

    InverseLength().backward(losses(), trunk.parameters())
    plain = trunk.weight.grad.clone()
    trunk.weight.grad = None
    wrong = {"a": torch.tensor([3, 4]), "b": torch.tensor([0, 1, 2])}
    InverseLength().backward(losses(), trunk.parameters(), samples=wrong)
    torch.testing.assert_close(trunk.weight.grad, plain)
