"""Steps of two processes, each with its part of the rows, beside the same steps of one."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed
from torch import nn

from polytask import balancing
from polytask.data.batch import Batch
from polytask.data.request import Request, Share
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, MultiLabel, Regression
from polytask.training.balanced_step import BalancedStep
from polytask.training.processes import Processes
from polytask.training.scoring import Scorer

ROWS = 11
LABELLED = {
    "everywhere": (range(ROWS), range(ROWS)),
    "partly": ([0, 2, 3, 7, 10], [1, 2, 8]),
    # The rows with even numbers go to the first process, and the others to the second.
    "a task in one process only": (range(ROWS), [0, 4]),
    "nothing in one process": ([0, 2, 8], [0, 4]),
    "nothing": ([], []),
}
METHODS = {
    "equal": {},
    "random": {},
    "uncertainty": {},
    "geometric_mean": {},
    "dwa": {},
    "famo": {},
    "upgrad": {},
    "gradnorm": {},
    "pcgrad": {},
    "graddrop": {},
    "moco": {},
}


def model(penalty=False):
    torch.manual_seed(0)
    tasks = [
        Classification("a", classes=3, counts=[5, 3, 5], class_weights="balanced"),
        Regression("b", mean=[0.0], std=[5.0], weight=0.5),
        MultiLabel("c", classes=["x", "y"], counts=[6, 2], known=[11, 11]),
    ]
    encoder = {"row": MLP(width=6, depth=2, shape=TabularShape(4))}
    if penalty:
        return MultiTaskModel(encoder, tasks, sharing={"type": "adversarial"})
    return MultiTaskModel(encoder, tasks)


def batch(labelled, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a, b = labelled
    rows = torch.arange(ROWS)
    inputs = {"row": {"numeric": torch.randn(ROWS, 4, generator=draw), "categorical": torch.zeros(ROWS, 0).long()}}
    targets = {
        "a": torch.randint(3, (ROWS,), generator=draw),
        "b": torch.randn(ROWS, 1, generator=draw),
        "c": torch.randint(2, (ROWS, 2), generator=draw).float(),
    }
    known = torch.isin(rows, torch.tensor(list(a), dtype=torch.int64))
    masks = {
        "a": known,
        "b": torch.isin(rows, torch.tensor(list(b), dtype=torch.int64)).unsqueeze(1),
        "c": torch.stack([known, known & (rows < 5)], dim=1),
    }
    weights = {"a": torch.rand(ROWS, generator=draw)}
    return Batch.of(inputs, targets, masks, rows, weights)


def steps(name, count, processes=None):
    """What two steps of a method give: losses, rows, gradients and what the method keeps."""
    network, balancer = model(), balancing.create(name, **METHODS[name])
    step = BalancedStep(network, balancer, {"a": 1.0, "b": 0.5, "c": 0.0 if name == "equal" else 1.0}, processes)
    network.double()
    found = {}
    for labels, labelled in LABELLED.items():
        parts = []
        for seed in range(count):
            whole = batch(labelled, seed)._map(lambda t: t.double() if t.is_floating_point() else t)
            if processes is None:
                parts.append(whole)
            elif len(rows := torch.arange(processes.rank, ROWS, processes.count)):
                parts.append(whole.part(rows))
        # What is not labelled may not be there at all.
        parts = [part for part in parts if any(part.has(task) for task in network.task_names)] or parts[:0]
        network.zero_grad()
        balancer.zero_grad()
        result = step.backward(parts, network.shared_parameters(), None)
        step.look_back(parts)
        found[labels] = {
            "losses": {task: loss.detach().double() for task, loss in result.losses.items()},
            "rows": result.rows,
            "gradients": [None if p.grad is None else p.grad for p in network.parameters()],
            "own": [None if p.grad is None else p.grad for p in balancer.parameters()],
            "kept": {key: value for key, value in balancer.state_dict().items() if isinstance(value, torch.Tensor)},
        }
    return found


def everything(processes=None):
    return {f"{name}, {count}": steps(name, count, processes) for name in METHODS for count in (1, 2)}


def scores(processes=None):
    network = model()
    scorer = Scorer(list(network.tasks.values()), processes)
    for seed, labelled in enumerate(LABELLED.values()):
        part = batch(labelled, seed)
        if processes is not None:
            part = part.part(torch.arange(processes.rank, ROWS, processes.count))
        present = [task for task in network.task_names if part.has(task)]
        with torch.no_grad():
            scorer.update(network(part.inputs, present, part.labelled), part)
    return scorer.compute()


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    processes = Processes.join()
    layer = nn.BatchNorm1d(3)
    nn.init.constant_(layer.weight, rank + 1.0)
    layer.running_mean += rank + 1
    processes.align(layer)
    told = {
        "steps": everything(processes),
        "scores": scores(processes),
        "rows": processes.rows(torch.full((3 * rank, 2), rank == 1)),
        "first": processes.first(f"of {rank}"),
        "each": processes.each(rank),
        "aligned": [layer.weight.detach(), layer.running_mean],
    }
    torch.save(told, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    started = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)]
    try:
        assert [each.wait(timeout=300) for each in started] == [0, 0]
    finally:
        for each in started:
            each.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_two_processes_is_that_of_one_with_all_rows(name, count, found):
    expected = steps(name, count)
    for each in found:
        told = each["steps"][f"{name}, {count}"]
        for labels, result in expected.items():
            torch.testing.assert_close(told[labels], result, equal_nan=True, msg=f"differs with labels {labels}")


def test_the_first_process_scores_all_rows(found):
    expected = scores()
    for each in found:
        assert each["scores"].keys() == expected.keys()
        for task, values in expected.items():
            assert each["scores"][task] == pytest.approx(values, rel=1e-5, nan_ok=True)


def test_what_processes_tell_each_other(found):
    for each in found:
        assert each["rows"].tolist() == [[True, True]] * 3
        assert each["first"] == "of 0"
        assert each["each"] == [0, 1]
        assert [values.tolist() for values in each["aligned"]] == [[1.0] * 3] * 2


def test_alone_there_are_no_processes():
    assert Processes.join() is None


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_shares_of_a_request_are_all_of_it_once(processes):
    request = Request(3, np.array([5, 2, 9, 4, 7]), ("a", "b"), 2, (2, 3))
    shares = [Share(rank, processes).of(request) for rank in range(processes)]
    assert sorted(np.concatenate([share.positions for share in shares])) == [2, 4, 5, 7, 9]
    for share in shares:
        first, second = share.sizes
        assert set(share.positions[:first]) <= {5, 2}
        assert set(share.positions[first : first + second]) <= {9, 4, 7}
        assert first + second == len(share.positions)
        assert (share.epoch, share.tasks, share.step) == (3, ("a", "b"), 2)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
