import pytest
import torch

from polytask.balancing.adam import TaskAdam
from polytask.balancing.per_task import PerTask, TaskParameters

CPU = torch.device("cpu")


def test_new_tasks_start_with_the_initial_values_and_others_keep_theirs():
    kept = PerTask({"loss": 1.0, "steps": 0.0})
    kept.add(["a", "b", "a"])
    kept.write("loss", ["b"], torch.tensor([5.0]))
    assert kept.read("loss", ["c", "b"], CPU).tolist() == [1, 5]
    assert kept.tasks == ("a", "b", "c")
    assert kept.read("steps", ["a", "b", "c"], CPU).tolist() == [0, 0, 0]


def test_values_are_written_by_name_in_any_order():
    kept = PerTask({"loss": 0.0})
    kept.add(["a", "b", "c"])
    kept.write("loss", ["c", "a"], torch.tensor([3.0, 1.0]))
    assert kept.read("loss", ["a", "b", "c"], CPU).tolist() == [1, 0, 3]


def test_names_of_any_kind_travel_in_the_state():
    kept = PerTask({"loss": 0.0})
    kept.add(["type", "a.b", ""])
    kept.write("loss", ["type", "a.b", ""], torch.arange(3.0))
    fresh = PerTask({"loss": 0.0})
    fresh.add(["other"])
    fresh.load_state_dict(kept.state_dict())
    assert fresh.read("loss", ["", "type"], CPU).tolist() == [2, 0]
    assert fresh.tasks == ("type", "a.b", "")


def test_the_numbers_move_with_the_losses_device():
    kept = PerTask({"loss": 0.0})
    kept.add(["a"])
    assert kept.read("loss", ["a"], torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_is_that_of_pytorch(weight_decay):
    ours = TaskAdam(0.5, lr=0.1, weight_decay=weight_decay)
    theirs = torch.nn.Parameter(torch.full((3,), 0.5))
    optimizer = torch.optim.Adam([theirs], lr=0.1, weight_decay=weight_decay)
    for gradient in torch.randn(20, 3, generator=torch.Generator().manual_seed(0)):
        ours.step(["a", "b", "c"], gradient)
        theirs.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(ours.read("value", ["a", "b", "c"], CPU), theirs.detach())


def test_trainable_numbers_are_one_parameter_each_under_the_tasks_names():
    numbers = TaskParameters(0.25)
    assert numbers.add(["type", "a.b"]) == ["type", "a.b"]
    assert numbers.add(["a.b", "c"]) == ["c"]
    assert len(list(numbers.parameters())) == 3
    numbers.read(["c", "type"], CPU).sum().backward()
    assert [p.grad is not None for p in numbers.parameters()] == [True, False, True]
    fresh = TaskParameters(0.0)
    fresh.load_state_dict(numbers.state_dict())
    assert fresh.read(["a.b"], CPU).tolist() == [0.25]
