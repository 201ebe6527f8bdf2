"""What training gives a balancer, and when."""

import pytest
import torch

from polytask.balancing import Equal, GramianBalancer, IndependentBatches, LossBalancer
from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, Regression
from polytask.training.balanced_step import BalancedStep


class Recording(GramianBalancer):
    paper, year = "a test", 2020

    def weights(self, gramian):
        return torch.ones(len(gramian), dtype=gramian.dtype)

    def backward(self, losses, shared=None, **given):
        self.given = {"losses": losses, **given}
        super().backward(losses, shared, **given)


def model():
    torch.manual_seed(0)
    tasks = [Classification("a", classes=3, counts=[5, 5, 5]), Regression("b", mean=[0.0], std=[5.0], weight=0.5)]
    return MultiTaskModel({"row": MLP(width=8, depth=2, shape=TabularShape(4))}, tasks)


def batch(a, b):
    """Ten rows; `a` and `b` tell which are labelled."""
    draw = torch.Generator().manual_seed(0)
    inputs = {"row": {"numeric": torch.randn(10, 4, generator=draw), "categorical": torch.zeros(10, 0).long()}}
    targets = {"a": torch.randint(3, (10,), generator=draw), "b": torch.randn(10, 1, generator=draw)}
    rows = torch.arange(10)
    masks = {"a": torch.isin(rows, torch.tensor(a)), "b": torch.isin(rows, torch.tensor(b)).unsqueeze(1)}
    return Batch.of(inputs, targets, masks, rows)


def step(network, balancer):
    return BalancedStep(network, balancer, {name: task.weight for name, task in network.tasks.items()})


def test_task_weights_multiply_what_the_balancer_sees_and_not_what_is_shown():
    network, balancer = model(), Recording()
    rows = batch(range(10), range(10))
    shown = step(network, balancer).backward([rows], network.trunk.shared_parameters(), None).losses
    expected = network.losses(rows)
    torch.testing.assert_close(shown, expected)
    torch.testing.assert_close(balancer.given["losses"], {"a": expected["a"], "b": 0.5 * expected["b"]})


def test_a_method_on_gradients_is_told_which_rows_are_labelled_where_some_are_not():
    network, balancer = model(), Recording()
    step(network, balancer).backward([batch(range(10), range(10))], network.trunk.shared_parameters(), None)
    assert balancer.given["samples"] is None
    step(network, balancer).backward([batch([0, 3, 4], range(10))], network.trunk.shared_parameters(), None)
    assert {task: rows.tolist() for task, rows in balancer.given["samples"].items()} == {
        "a": [0, 3, 4],
        "b": list(range(10)),
    }


def test_gradients_are_the_same_whether_or_not_labels_are_disjoint():
    found = []
    for b in ([1, 5, 6], [1, 3, 6]):
        network = model()
        step(network, Recording()).backward([batch([0, 3, 4], b)], network.trunk.shared_parameters(), None)
        plain = model()
        step(plain, Equal()).backward([batch([0, 3, 4], b)], plain.trunk.shared_parameters(), None)
        torch.testing.assert_close([p.grad for p in network.parameters()], [p.grad for p in plain.parameters()])
        found.append(network.trunk.shared_parameters()[0].grad)
    assert not torch.equal(*found)


def test_a_part_of_the_batch_has_a_label_of_each_task():
    network, balancer = model(), Recording(batch_fraction=0.2)
    step(network, balancer).backward([batch([7, 8], range(10))], network.trunk.shared_parameters(), None)
    part = batch([7, 8], range(10)).part(torch.tensor([0, 1, 7]))
    expected = network.losses(part)
    torch.testing.assert_close(balancer.given["probe"], {"a": expected["a"], "b": 0.5 * expected["b"]})


def test_parts_of_a_batch_keep_what_belongs_together():
    whole = batch([1, 4, 7], [0, 4])
    part = whole.part(torch.tensor([4, 9]))
    assert len(part) == 2
    assert part.rows.tolist() == [4, 9]
    assert torch.equal(part.inputs["row"]["numeric"], whole.inputs["row"]["numeric"][[4, 9]])
    assert (part.count("a"), part.count("b")) == (1, 1)


class Cross(IndependentBatches):
    paper, year = "a test", 2020

    def update_weights(self, cross):
        self.tasks = len(cross)

    def update_weights_by(self, product):
        self.tasks = len(product)

    def weights(self, gramian):
        return torch.ones(len(gramian), dtype=gramian.dtype)


@pytest.mark.parametrize(
    ("a", "tasks"),
    [(range(10), ["a", "b"]), ([0, 1, 2], ["a", "b"]), ([0, 3, 6, 9, 1], ["b"]), ([2, 1, 0, 4], ["a", "b"])],
)
def test_a_batch_is_divided_where_a_method_takes_several(a, tasks):
    network, balancer = model(), Cross()
    shown = step(network, balancer).backward([batch(a, range(10))], network.trunk.shared_parameters(), None).losses
    assert list(shown) == tasks
    assert balancer.tasks == len(tasks)


def test_a_batch_without_a_common_task_is_left_out():
    network = model()
    assert not step(network, Cross()).backward([batch([0], [1])], network.trunk.shared_parameters(), None).losses
    assert all(p.grad is None for p in network.parameters())


def test_a_method_that_looks_back_gets_the_new_losses_without_a_graph():
    class Back(LossBalancer):
        paper, year = "a test", 2020
        looks_back = True

        def combine(self, losses):
            return losses.sum()

        def after_step(self, losses):
            self.seen = losses

    network, balancer = model(), Back()
    balanced, rows = step(network, balancer), batch(range(10), range(10))
    before = balanced.backward([rows], network.trunk.shared_parameters(), None).losses
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    balanced.look_back([rows])
    assert balancer.seen["a"] < before["a"]
    assert not balancer.seen["a"].requires_grad
    step(network, Equal()).look_back([rows])


@pytest.mark.parametrize("balancer", [Equal, Recording, Cross])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_penalties_get_their_plain_gradient_however_tasks_are_weighed(balancer, scale):
    networks = [model(), model()]
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    for network, strength in zip(networks, (0.0, 3.0), strict=True):

        def objectives(part, totals=None, *, network=network, plain=network.objectives, strength=strength, **options):
            found = plain(part, totals, **options)
            size = network.trunk.shared_parameters()[0].square().sum() * strength
            return found._replace(penalties={"size": size + 0 * found.losses["a"].detach(), "none": torch.zeros(())})

        network.objectives = objectives
        balanced = BalancedStep(network, balancer(), dict.fromkeys(network.task_names, 1.0))
        balanced.backward([batch(range(10), range(10))], network.trunk.shared_parameters(), scaler)
    without, penalised = (network.trunk.shared_parameters()[0] for network in networks)
    torch.testing.assert_close(penalised.grad - without.grad, 6 * penalised.detach() * (scale or 1.0))
