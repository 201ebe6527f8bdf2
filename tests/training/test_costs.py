import pytest
import torch

from polytask import encoders, sharing, tasks
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape, TabularShape
from polytask.sharing import relations
from polytask.training.costs import count_costs

NAMES = ("a", "b", "c")


def model_of(scheme, encoder):
    return MultiTaskModel({"input": encoder}, [tasks.Regression(name) for name in NAMES], scheme)


def mlp():
    return encoders.MLP(width=8, depth=2, shape=TabularShape(4))


ROW = {"input": {"numeric": torch.randn(2, 4), "categorical": torch.zeros(2, 0, dtype=torch.long)}}
FIRST, SECOND, HEAD = 4 * 8 + 8, 8 * 8 + 8, 8 + 1


@pytest.mark.parametrize(("share_until", "shared"), [(None, 2), ("layer1", 1), (0, 0)])
def test_costs_of_hard_sharing_by_hand(share_until, shared):
    costs = count_costs(model_of(sharing.Hard(share_until), mlp()), model_of(sharing.Hard(), mlp()), ROW)
    sizes, products = (FIRST, SECOND), (4 * 8, 8 * 8)
    common = sum(sizes[:shared])
    own = sum(sizes[shared:]) + HEAD
    for cost in costs.tasks.values():
        assert (cost.shared, cost.own, cost.parameters) == (common, own, common + own)
        assert cost.multiply_adds == sum(products) + 8
    assert (costs.together.shared, costs.together.own) == (common, 3 * own)
    assert costs.together.multiply_adds == sum(products[:shared]) + 3 * sum(products[shared:]) + 3 * 8
    assert (costs.separate.shared, costs.separate.own) == (0, 3 * (FIRST + SECOND + HEAD))
    assert costs.separate.multiply_adds == 3 * (sum(products) + 8)


def test_convolutions_are_counted_at_each_position_and_the_model_stays_as_it_was():
    shape = ImageShape(1, 8, 8)
    build = lambda: encoders.CNN(width=4, depth=1, grid=1, normalization="none", shape=shape)  # noqa: E731
    model = model_of(sharing.Hard(), build()).train()
    costs = count_costs(model, model_of(sharing.Hard(), build()), {"input": torch.randn(1, 1, 8, 8)})
    assert costs.tasks["a"].multiply_adds == 8 * 8 * 9 * 4 + 4
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_task_reads_is_part_of_its_cost_even_if_its_loss_does_not_reach_it():
    wanted = [tasks.Regression(name) for name in NAMES]
    chain = relations.create("cascade", task="b", reads=["a"], detach=True)
    model = MultiTaskModel({"input": mlp()}, wanted, sharing.Hard(0), [chain])
    costs = count_costs(model, model_of(sharing.Hard(), mlp()), ROW)
    assert costs.tasks["a"].parameters == FIRST + SECOND + HEAD
    assert costs.tasks["b"].parameters == 2 * (FIRST + SECOND + HEAD) + 1
    assert costs.tasks["b"].multiply_adds == 2 * costs.tasks["a"].multiply_adds + 1


def test_the_comparison_is_said_in_words():
    costs = count_costs(model_of(sharing.Hard(0), mlp()), model_of(sharing.Hard(), mlp()), ROW)
    assert costs.saving == "1.00 of the parameters, 1.00 of the multiply-adds"
