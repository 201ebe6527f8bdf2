from itertools import combinations

import pytest
import torch
from torch import nn

from polytask import balancing, sharing
from polytask.encoders import Encoder, FeatureShape, Stage
from polytask.encoders.mlp import MLP
from polytask.encoders.tabular_resnet import TabularResNet
from polytask.errors import UserError
from polytask.shapes import TabularShape

TASKS = ["a", "b", "c"]
STAGES = ("bottom", "middle", "top")
PENALTIES = ("l2", "mean", "trace_norm", "cosine")


def trunk_of(encoder, penalty="l2", apart=0.5, tasks=TASKS, double=True, **options):
    """A trunk whose networks have gone apart."""
    trunk = sharing.Soft(penalty, **{"strength": 1.0, **options}).build({"row": encoder}, tasks)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(apart * torch.randn_like(parameter))
    return trunk.double() if double else trunk


def penalties(trunk, tasks=TASKS):
    parameter = next(trunk.parameters())
    return trunk.train()({"row": torch.ones(2, 4).to(parameter)}, tasks, {}).penalties


def by_hand(trunk, penalty, stages=STAGES, tasks=TASKS):
    """The penalty as the docstring writes it, pair by pair and tensor by tensor."""
    total = 0.0
    for stage in stages:
        networks = [list(trunk.levels[stage][task].parameters()) for task in tasks]
        flat = [torch.cat([parameter.flatten() for parameter in network]) for network in networks]
        square = torch.stack([vector.detach().square().sum() for vector in flat]).mean()
        if penalty == "l2":
            total += sum((one - other).square().sum() for one, other in combinations(flat, 2)) / square
        elif penalty == "mean":
            total += sum((one - sum(flat) / len(flat)).square().sum() for one in flat) / square
        else:
            for slot in zip(*networks, strict=True):
                rows = [parameter.flatten() for parameter in slot]
                if penalty == "trace_norm":
                    total += torch.linalg.matrix_norm(torch.stack(rows), ord="nuc") / square.sqrt()
                else:
                    for one, other in combinations(rows, 2):
                        weight = one.detach().norm() * other.detach().norm() / square
                        total += weight * (1 - torch.cosine_similarity(one, other, dim=0))
    return total


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("tasks", [["a", "b"], TASKS, ["a", "b", "c", "d", "e"]])
def test_value_and_gradient_are_those_of_the_formula(encoder, penalty, tasks):
    trunk = trunk_of(encoder, penalty, strength=0.3, tasks=tasks)
    (name, found), expected = *penalties(trunk, tasks).items(), 0.3 * by_hand(trunk, penalty, tasks=tasks)
    assert name == f"soft_{penalty}"
    torch.testing.assert_close(found, expected)
    parameters = list(trunk.parameters())
    ours = torch.autograd.grad(2.5 * found, parameters, retain_graph=True)
    for one, other in zip(ours, torch.autograd.grad(2.5 * expected, parameters), strict=True):
        torch.testing.assert_close(one, other)
    again = torch.autograd.grad(2.5 * found, parameters)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_long_tensors_are_taken_in_pieces(encoder, penalty, monkeypatch):
    trunk = trunk_of(encoder, penalty)
    whole = penalties(trunk)[f"soft_{penalty}"]
    monkeypatch.setattr("polytask.sharing.closeness._PIECE", 21)
    pieces = penalties(trunk)[f"soft_{penalty}"]
    torch.testing.assert_close(pieces, whole)
    gradients = [torch.autograd.grad(value, list(trunk.parameters())) for value in (whole, pieces)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_pairs_add_up_to_the_number_of_tasks_times_the_distance_to_the_mean(encoder):
    one, other = trunk_of(encoder, "l2"), trunk_of(encoder, "mean")
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(penalties(one)["soft_l2"], 3 * penalties(other)["soft_mean"])


@pytest.mark.parametrize("penalty", ["l2", "mean", "cosine"])
@pytest.mark.parametrize("apart", [1e-4, 1e-3])
def test_small_distances_between_long_networks_are_told(encoder, penalty, apart):
    """In single precision, with the sum of squares 1e7 to 1e9 times as large as the distance."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(3.0)
    trunk = trunk_of(encoder, penalty, double=False)
    with torch.no_grad():
        for stage in STAGES:
            first, *others = (list(trunk.levels[stage][task].parameters()) for task in TASKS)
            for other in others:
                for parameter, start in zip(other, first, strict=True):
                    parameter.copy_(start + apart * torch.randn_like(start))
    found = penalties(trunk)[f"soft_{penalty}"]
    torch.testing.assert_close(found.double(), by_hand(trunk.double(), penalty), rtol=1e-2, atol=0)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_alike_networks_are_not_moved_apart_and_only_their_common_length_counts(encoder, penalty):
    trunk = trunk_of(encoder, penalty, apart=0.0)
    found = penalties(trunk)[f"soft_{penalty}"]
    found.backward()
    if penalty == "trace_norm":
        torch.testing.assert_close(found, by_hand(trunk, penalty))
    else:
        assert abs(float(found.detach())) < 1e-12
    for stage in STAGES:
        for slot in zip(*(trunk.levels[stage][task].parameters() for task in TASKS), strict=True):
            for parameter in slot:
                torch.testing.assert_close(parameter.grad, slot[0].grad)
                if penalty != "trace_norm":
                    torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter))


def test_the_cosine_leaves_lengths_free_and_zeros_alone(encoder):
    trunk = trunk_of(encoder, "cosine")
    with torch.no_grad():
        for parameter in trunk.levels["middle"]["b"].parameters():
            parameter.mul_(3.0)
        for parameter in trunk.levels["top"]["a"].parameters():
            parameter.zero_()
    penalties(trunk)["soft_cosine"].backward()
    for parameter in trunk.parameters():
        assert parameter.grad.isfinite().all()
        assert abs(float((parameter.grad * parameter.detach()).sum())) < 1e-12
    assert not any(parameter.grad.any() for parameter in trunk.levels["top"]["a"].parameters())


@pytest.mark.parametrize("penalty", PENALTIES)
def test_one_network_alone_has_no_penalty(encoder, penalty):
    assert penalties(trunk_of(encoder, penalty, tasks=["a"]), ["a"]) == {}


@pytest.mark.parametrize(
    ("between", "stages"), [(["middle"], ["middle"]), ([1, -1], ["bottom", "top"]), (["top", 3], ["top"])]
)
def test_some_stages_alone_are_drawn_together(encoder, between, stages):
    trunk = trunk_of(encoder, between=between)
    found = penalties(trunk)["soft_l2"]
    torch.testing.assert_close(found, by_hand(trunk, "l2", stages))
    gradients = torch.autograd.grad(found, list(trunk.parameters()), allow_unused=True)
    reached = {parameter for parameter, each in zip(trunk.parameters(), gradients, strict=True) if each is not None}
    assert reached == {p for stage in stages for p in trunk.levels[stage].parameters()}


def test_all_networks_are_drawn_together_whatever_tasks_are_in_the_batch(encoder):
    trunk = trunk_of(encoder)
    torch.testing.assert_close(penalties(trunk, ["b"])["soft_l2"], penalties(trunk)["soft_l2"])
    assert penalties(trunk_of(encoder, strength=0.0)) == {}
    assert trunk.eval()({"row": torch.ones(2, 4).double()}, TASKS, {}).penalties == {}


def test_frozen_stages_and_statistics_are_not_penalised():
    encoder = TabularResNet(width=6, depth=1, shape=TabularShape(4))
    trunk = sharing.Soft().build({"row": encoder}, TASKS)
    with torch.no_grad():
        for name, buffer in trunk.named_buffers():
            if "running" in name:
                buffer.uniform_(1, 2)
    rows = {"numeric": torch.randn(8, 4), "categorical": torch.zeros(8, 0).long()}
    assert trunk.train()({"row": rows}, TASKS, {}).penalties["soft_l2"].item() < 1e-9
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    assert trunk.train()({"row": rows}, TASKS, {}).penalties == {}


def test_each_task_has_a_network_and_nothing_is_shared(encoder):
    size = sum(p.numel() for p in encoder.parameters())
    trunk = trunk_of(encoder, double=False)
    assert sum(p.numel() for p in trunk.parameters()) == 3 * size
    assert trunk.shared_parameters() == []
    assert [part.tasks for part in trunk.parts()] == [(task,) for _ in STAGES for task in TASKS]
    features = trunk.train()({"row": torch.randn(4, 4)}, TASKS, {}).features
    losses = {task: features[task].values.square().mean() for task in TASKS}
    balancing.create("upgrad").backward(losses, trunk.shared_parameters())
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_distances_are_reported_relative_to_the_networks_length(encoder):
    trunk = trunk_of(encoder, between=["bottom", "top"])
    table = trunk.learned()["distance"]
    levels = [trunk.levels[stage] for stage in ("bottom", "top")]
    flat = {
        task: torch.cat([p.detach().flatten() for each in levels for p in each[task].parameters()]) for task in TASKS
    }
    length = torch.stack([vector.square().sum() for vector in flat.values()]).mean().sqrt()
    expected = [[float((flat[one] - flat[other]).norm() / length) for other in TASKS] for one in TASKS]
    torch.testing.assert_close(table.values, torch.tensor(expected).to(table.values), rtol=1e-5, atol=1e-6)
    assert table.rows == table.columns == tuple(TASKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "l1"}, "'penalty' must be one of 'l2', 'mean', 'trace_norm', 'cosine', but 'l1'"),
        ({"strength": -1.0}, "'strength' must be a number, 0 or more, but -1.0"),
        ({"strength": float("inf")}, "'strength' must be a number"),
        ({"between": []}, r"'between' must be 'all', or a list.*\[\] was given"),
        ({"between": "top"}, "'between' must be 'all', or a list.*'top' was given"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        sharing.Soft(**options)


def test_a_stage_that_does_not_exist_is_refused(encoder):
    with pytest.raises(UserError, match=r"soft: between: The encoder has no stage 'midle'.*Did you mean 'middle'\?"):
        trunk_of(encoder, between=["midle"])


@pytest.mark.parametrize(("penalty", "strength"), [("l2", 3.0), ("cosine", 3.0), ("trace_norm", 0.3)])
def test_a_strength_does_nearly_the_same_at_any_width(penalty, strength):
    """With Adam, the share of the distance that is left is nearly the same for 16 times the width.

    Between these widths that of a plain sum of squares falls by a factor of 2.1, of a mean it rises by 1.8.
    """

    def left(width, strength):
        torch.manual_seed(0)
        trunk = sharing.Soft(penalty, strength=strength).build({"row": MLP(width, 2, shape=TabularShape(8))}, TASKS)
        heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in TASKS})
        optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-3)
        draw = torch.Generator().manual_seed(1)
        truth = {task: torch.randn(8, 1, generator=draw) / 3 for task in TASKS}
        for _ in range(60):
            x = torch.randn(32, 8, generator=draw)
            found = trunk({"row": {"numeric": x, "categorical": torch.zeros(32, 0).long()}}, TASKS, {})
            noise = torch.randn(32, 1, generator=draw)
            outputs = {task: heads[task](found.features[task].values) for task in TASKS}
            losses = [(outputs[task] - torch.sin(x @ truth[task]) - noise).square().mean() for task in TASKS]
            optimizer.zero_grad()
            (sum(losses) + sum(found.penalties.values())).backward()
            optimizer.step()
        return float(trunk.learned()["distance"].values.sum())

    shares = [left(width, strength) / left(width, 0.0) for width in (16, 256)]
    assert max(shares) < 0.9
    assert max(shares) / min(shares) < 1.4


class Direction(Encoder):
    """One linear map to one feature."""

    modality = "tabular"

    def __init__(self):
        super().__init__({"map": Stage(nn.Linear(20, 1, bias=False), FeatureShape("vector", 1))})


def errors(truth, schemes):
    """For each scheme, how far from the truth the tasks' weights are that are learned from 30 noisy rows a task."""
    draw = torch.Generator().manual_seed(1)
    tasks = list(truth)
    x = {task: torch.randn(30, 20, generator=draw) for task in tasks}
    y = {task: x[task] @ weights + 0.8 * torch.randn(30, 1, generator=draw) for task, weights in truth.items()}
    rows = {task: torch.arange(30 * place, 30 * place + 30) for place, task in enumerate(tasks)}

    def error(scheme):
        torch.manual_seed(0)
        trunk = scheme.build({"row": Direction()}, tasks)
        heads = nn.ModuleDict({task: nn.Linear(1, 1, bias=False) for task in tasks})
        for head in heads.values():
            nn.init.constant_(head.weight, 0.5)
        optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.02)
        for _ in range(200):
            found = trunk({"row": torch.cat(list(x.values()))}, tasks, rows)
            losses = [(heads[task](found.features[task].values) - y[task]).square().mean() for task in tasks]
            optimizer.zero_grad()
            (sum(losses) + sum(found.penalties.values())).backward()
            optimizer.step()
        with torch.no_grad():
            features = trunk.eval()({"row": torch.eye(20)}, tasks, {}).features
            return sum(float((heads[t](features[t].values) - truth[t]).square().sum()) for t in tasks)

    return {name: error(scheme) for name, scheme in schemes.items()}


HARD_AND_SEPARATE = {"hard": sharing.Hard(), "separate": sharing.Hard(0)}


def test_it_beats_one_network_and_separate_ones_on_tasks_that_are_alike_but_not_the_same():
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(20, 1, generator=draw) / 20**0.5
    truth = {f"t{k}": common + 0.8 * torch.randn(20, 1, generator=draw) / 20**0.5 for k in range(6)}
    soft = {
        "l2": sharing.Soft(),
        "mean": sharing.Soft("mean", strength=1.8),
        "cosine": sharing.Soft("cosine", strength=1.0),
    }
    found = errors(truth, {**HARD_AND_SEPARATE, **soft})
    for penalty in soft:
        assert found[penalty] < 0.85 * min(found["hard"], found["separate"]), found


def test_the_trace_norm_finds_the_few_directions_that_tasks_have_in_common():
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(20, 2, generator=draw) / 20**0.5
    truth = {f"t{k}": directions @ torch.randn(2, 1, generator=draw) for k in range(6)}
    found = errors(truth, {**HARD_AND_SEPARATE, "trace_norm": sharing.Soft("trace_norm")})
    assert found["trace_norm"] < 0.7 * min(found["hard"], found["separate"]), found


@pytest.mark.parametrize("penalty", ["l2", "mean", "trace_norm", "cosine"])
def test_weights_that_are_no_numbers_give_none(encoder, penalty):
    trunk = sharing.Soft(penalty).build({"row": encoder}, TASKS).train()
    with torch.no_grad():
        next(trunk.parameters()).fill_(float("nan"))
    assert trunk({"row": torch.ones(2, 4)}, TASKS, {}).penalties[f"soft_{penalty}"].isnan()
