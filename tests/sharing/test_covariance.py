import copy

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from polytask import MultiTaskModel, UserError
from polytask.balancing import Equal
from polytask.data.batch import Batch
from polytask.encoders import FeatureShape
from polytask.encoders.encoder import Encoder, Stage
from polytask.sharing import Covariance, Hard
from polytask.sharing.relations import Cascade
from polytask.sharing.task_covariance import TaskCovariance, closed_form, groups_of
from polytask.tasks import Classification, Regression
from polytask.training.balanced_step import BalancedStep

NAMES = ("a", "b", "c")


def by_hand(weights, ridge):
    """Ω and the penalty for a matrix `[P, K]`, with SciPy's matrix root."""
    count = weights.shape[1]
    products = weights.T @ weights
    root = sqrtm(products + ridge * np.trace(products) / count * np.eye(count)).real
    omega = root / np.trace(root)
    return omega, np.trace(weights @ np.linalg.inv(omega) @ weights.T)


def weights_of(seed=0, inputs=7, tasks=3):
    return np.random.default_rng(seed).normal(size=(inputs, tasks))


def columns(matrix):
    return [[torch.tensor(column)] for column in matrix.T]


def batch_of(tasks, rows=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = {
        task.name: torch.randint(task.outputs, (rows,), generator=draw)
        if isinstance(task, Classification)
        else torch.randn(rows, task.outputs, dtype=torch.float64, generator=draw)
        for task in tasks
    }
    masks = {task: torch.ones_like(target, dtype=torch.bool) for task, target in targets.items()}
    return Batch.of(
        {"row": torch.randn(rows, 4, dtype=torch.float64, generator=draw)}, targets, masks, torch.arange(rows)
    )


def model_of(encoder, scheme, tasks=None, **options):
    torch.manual_seed(0)
    tasks = tasks or [Regression(name) for name in NAMES]
    return MultiTaskModel({"row": copy.deepcopy(encoder)}, tasks, scheme, **options).double()


# -- the formula --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_omega_and_the_penalty_follow_their_formulas(ridge, seed):
    weights = weights_of(seed)
    covariance = TaskCovariance(3, ridge).double()
    penalty = covariance.penalty(columns(weights))
    omega, expected = by_hand(weights, ridge)
    assert penalty.item() == pytest.approx(expected)
    np.testing.assert_allclose(covariance.omega.numpy(), omega, atol=1e-12)
    spread = np.sqrt(np.diag(omega))
    np.testing.assert_allclose(covariance.correlations().numpy(), omega / np.outer(spread, spread), atol=1e-12)


def test_without_a_ridge_the_penalty_is_the_squared_trace_norm_and_no_other_covariance_gives_less():
    weights = weights_of()
    least = np.linalg.svd(weights, compute_uv=False).sum() ** 2
    assert TaskCovariance(3, 1e-12).double().penalty(columns(weights)).item() == pytest.approx(least)
    draw = np.random.default_rng(1)
    for _ in range(50):
        root = draw.normal(size=(3, 3))
        other = root @ root.T / np.trace(root @ root.T)
        assert np.trace(weights @ np.linalg.inv(other) @ weights.T) >= least


def test_the_step_takes_omega_as_a_constant():
    weights = weights_of()
    given = [[column.requires_grad_()] for (column,) in columns(weights)]
    covariance = TaskCovariance(3, 1e-3).double()
    covariance.penalty(given).backward()
    omega, _ = by_hand(weights, 1e-3)
    gradient = np.stack([column.grad.numpy() for (column,) in given], axis=1)
    np.testing.assert_allclose(gradient, 2 * weights @ np.linalg.inv(omega), rtol=1e-8)
    assert not covariance.omega.requires_grad


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[1.0, 1.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]),
        ([[1.0, -2.0], [2.0, -4.0]], [[1.0, -1.0], [-1.0, 1.0]]),
        ([[1.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]),
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_tasks_that_are_alike_opposite_unrelated_or_empty(weights, expected):
    covariance = TaskCovariance(2, 1e-8).double()
    assert covariance.penalty(columns(np.array(weights))).isfinite()
    torch.testing.assert_close(covariance.correlations(), torch.tensor(expected).double(), rtol=0, atol=1e-3)
    assert covariance.omega.trace().item() == pytest.approx(1)


def test_one_task_alone_has_nothing_to_be_compared_with():
    covariance = TaskCovariance(1, 0.1).double()
    assert covariance.penalty(columns(weights_of(tasks=1))).item() == 0
    assert covariance.omega.item() == 1


def test_weights_that_are_no_numbers_give_none():
    weights = [[torch.tensor([1.0, float("nan")])], [torch.ones(2)]]
    assert TaskCovariance(2, 0.1).penalty(weights).isnan()


def test_the_inverse_is_one():
    products = torch.tensor(weights_of(inputs=2, tasks=4))
    omega, inverse = closed_form(products.T @ products, 1e-3)
    torch.testing.assert_close(omega @ inverse, torch.eye(4).double())


def test_weights_of_one_shape_are_a_group():
    vector, matrix = torch.ones(3), torch.ones(2, 3)
    assert groups_of([[vector], [matrix], [], [vector], [matrix, vector], [matrix]]) == [[0, 3], [1, 5], [4]]
    covariance = TaskCovariance(5, 1e-9).double()
    one, other = weights_of(0, tasks=2), weights_of(1, inputs=4, tasks=2)
    penalty = covariance.penalty([*columns(one), *columns(other), []])
    (first, least), (second, more) = by_hand(one, 1e-9), by_hand(other, 1e-9)
    assert penalty.item() == pytest.approx(least + more)
    expected = np.zeros((5, 5))
    expected[:2, :2], expected[2:4, 2:4] = first, second
    np.testing.assert_allclose(covariance.omega.numpy(), expected, atol=1e-9)
    assert covariance.correlations()[4].tolist() == [0, 0, 0, 0, 1]


def test_several_tensors_are_one_vector():
    weights = weights_of(inputs=6)
    parts = [[torch.tensor(column[:2]), torch.tensor(column[2:]).view(2, 2)] for column in weights.T]
    penalty = TaskCovariance(3, 1e-3).double().penalty(parts)
    assert penalty.item() == pytest.approx(by_hand(weights, 1e-3)[1])


def test_the_penalty_is_exact_under_autocast():
    weights = [[torch.tensor(column).float()] for column in weights_of().T]
    expected = TaskCovariance(3, 1e-3).penalty(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TaskCovariance(3, 1e-3).penalty(weights), expected)


# -- in a model ---------------------------------------------------------------------------------------------------


def test_the_network_is_that_of_hard_sharing(encoder):
    for until in (None, 2, 0):
        hard = model_of(encoder, Hard(until))
        related = model_of(encoder, Covariance(until, relate="heads" if until is None else "both"))
        related.load_state_dict(hard.state_dict(), strict=False)
        batch = batch_of(hard.tasks.values())
        torch.testing.assert_close(related(batch.inputs), hard(batch.inputs))
        torch.testing.assert_close(related.losses(batch), hard.losses(batch))
        assert sum(p.numel() for p in related.parameters()) == sum(p.numel() for p in hard.parameters())


def test_heads_are_penalised_while_training(encoder):
    model = model_of(encoder, Covariance(strength=0.5, ridge=1e-3))
    penalties = model.objectives(batch_of(model.tasks.values())).penalties
    weights = torch.cat([head.weight for head in model.heads.values()]).T
    omega, expected = by_hand(weights.detach().numpy(), 1e-3)
    assert list(penalties) == ["head_covariance"]
    assert penalties["head_covariance"].item() == pytest.approx(0.5 * expected)
    values, rows, names = model.learned()["task correlations of heads"]
    assert rows == names == NAMES
    spread = np.sqrt(np.diag(omega))
    np.testing.assert_allclose(values.numpy(), omega / np.outer(spread, spread), atol=1e-6)
    model.eval()
    assert model.objectives(batch_of(model.tasks.values())).penalties == {}


def test_correlations_are_there_before_the_first_step(encoder):
    model = model_of(encoder, Covariance())
    table = model.learned()["task correlations of heads"].values
    assert (table - torch.eye(3)).abs().max() > 0.01


def test_strength_0_is_hard_sharing(encoder):
    gradients = []
    for scheme in (Hard(1), Covariance(1, relate="both", strength=0)):
        model = model_of(encoder, scheme)
        model.load_state_dict(model_of(encoder, Hard(1)).state_dict(), strict=False)
        found = model.objectives(batch_of(model.tasks.values()))
        total = sum(found.losses.values()) + sum(found.penalties.values())
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    torch.testing.assert_close(*gradients)


def test_heads_of_different_shapes_are_related_in_groups(encoder):
    tasks = [Regression("a"), Classification("b", classes=3), Regression("c"), Classification("d", classes=3)]
    tasks.append(Regression(["x", "y"], name="e"))
    model = model_of(encoder, Covariance(strength=1.0, ridge=1e-6), tasks)
    penalty = model.objectives(batch_of(tasks)).penalties["head_covariance"].item()
    heads = {task: head.weight.detach().flatten().numpy() for task, head in model.heads.items()}
    groups = (["a", "c"], ["b", "d"], ["e"])
    compared = [np.stack([heads[task] for task in group], 1) for group in groups if len(group) > 1]
    assert penalty == pytest.approx(sum(by_hand(weights, 1e-6)[1] for weights in compared))
    values, names, _ = model.learned()["task correlations of heads"]
    reported = {(names[i], names[j]) for i, j in (values.abs() > 1e-9).nonzero().tolist()}
    assert reported == {(one, other) for group in groups for one in group for other in group}


def test_the_last_linear_layer_of_a_head_is_related(encoder):
    tasks = [Regression("a", hidden=[8, 5]), Regression("b", hidden=[5])]
    model = model_of(encoder, Covariance(strength=1.0, ridge=1e-3), tasks)
    last = torch.cat([head[-1].weight for head in model.heads.values()]).T.detach().numpy()
    penalty = model.objectives(batch_of(tasks)).penalties["head_covariance"].item()
    assert penalty == pytest.approx(by_hand(last, 1e-3)[1])


class Normed(Encoder):
    """Stages with and without matrices."""

    modality = "tabular"

    def __init__(self):
        vector = FeatureShape("vector", 5)
        super().__init__(
            {
                "bottom": Stage(nn.Linear(4, 5), vector),
                "middle": Stage(nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 5)), vector),
                "top": Stage(nn.LayerNorm(5), vector),
            }
        )


def test_stages_are_related_each_with_a_covariance_of_its_own():
    model = model_of(Normed(), Covariance(0, relate="stages", strength=0.5, ridge=1e-3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    penalties = model.objectives(batch_of(model.tasks.values())).penalties
    expected = 0.0
    for name in ("bottom", "middle"):
        stages = [model.trunk.levels[name][task] for task in NAMES]
        weights = [torch.cat([p.flatten() for p in stage.parameters() if p.ndim == 2]) for stage in stages]
        expected += by_hand(torch.stack(weights, 1).detach().numpy(), 1e-3)[1]
    assert list(penalties) == ["stage_covariance"]
    assert penalties["stage_covariance"].item() == pytest.approx(0.5 * expected)
    assert list(model.learned()) == ["task correlations of bottom", "task correlations of middle"]


def test_both_are_related():
    model = model_of(Normed(), Covariance("bottom", relate="both"))
    assert list(model.objectives(batch_of(model.tasks.values())).penalties) == ["stage_covariance", "head_covariance"]
    assert list(model.learned()) == ["task correlations of heads", "task correlations of middle"]
    # Where the tasks have no stages of their own, there are the heads.
    model = model_of(Normed(), Covariance("middle", relate="both"))
    assert list(model.objectives(batch_of(model.tasks.values())).penalties) == ["head_covariance"]


def test_a_head_that_reads_more_than_others_is_in_no_group_with_them(encoder):
    model = model_of(encoder, Covariance(), relations=[Cascade(task="c", reads="a")])
    values = model.learned()["task correlations of heads"].values
    assert values[2].tolist() == [0, 0, 1]
    assert values[0, 1] != 0


def test_balancers_do_not_weigh_the_penalty(encoder):
    model = model_of(encoder, Covariance(strength=2.0))
    batch = batch_of(model.tasks.values())
    found = model.objectives(batch)
    total = sum(found.losses.values()) + found.penalties["head_covariance"]
    expected = torch.autograd.grad(total, list(model.parameters()))
    step = BalancedStep(model, Equal(), dict.fromkeys(NAMES, 1.0))
    step.backward([batch], model.shared_parameters(), None)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], list(expected))


def test_omega_is_part_of_the_state(encoder):
    model = model_of(encoder, Covariance())
    with torch.no_grad():
        model.heads["a"].weight.copy_(model.heads["b"].weight)
    model.objectives(batch_of(model.tasks.values()))
    again = model_of(encoder, Covariance())
    again.load_state_dict(model.state_dict())
    table = again.learned()["task correlations of heads"].values
    assert torch.equal(table, model.learned()["task correlations of heads"].values)
    assert table[0, 1].item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda encoder: Covariance(relate="all"), "'relate' must be one of 'heads', 'stages', 'both', but 'all' was"),
        (lambda encoder: Covariance(strength=-1.0), "'strength' must be a number, 0 or more, but -1.0 was given"),
        (lambda encoder: Covariance(strength=float("nan")), "'strength' must be a number, 0 or more, but nan"),
        (lambda encoder: Covariance(ridge=0.0), "'ridge' must be a number above 0, but 0.0 was given"),
        (lambda encoder: model_of(encoder, Covariance("midle")), "no stage 'midle'. Did you mean 'middle'"),
        (
            lambda encoder: model_of(encoder, Covariance(relate="stages")),
            "covariance: 'relate: stages' needs stages .* of Layers's stages 'bottom', 'middle', 'top' there are none ",
        ),
        (
            lambda encoder: model_of(Normed(), Covariance(-1, relate="stages")),
            "of Normed's stages 'bottom', 'middle', 'top' there are only 'top' after 'share_until'. Share fewer stages",
        ),
        (
            lambda encoder: model_of(encoder, Covariance(), [Regression("a"), Classification("b", classes=2)]),
            r"same shape, but no two of them do \(a: 1 x 3, b: 2 x 3\). Relate stages of the tasks' own instead",
        ),
    ],
)
def test_what_cannot_be_is_the_users_error(encoder, build, problem):
    with pytest.raises(UserError, match=problem):
        build(encoder)


# -- learning -----------------------------------------------------------------------------------------------------

TASKS = ("often", "other", "same", "opposite")


class Wide(Encoder):
    modality = "tabular"

    def __init__(self):
        sizes = {"bottom": (8, 24), "top": (24, 24)}
        super().__init__(
            {
                name: Stage(nn.Sequential(nn.Linear(*size), nn.Tanh()), FeatureShape("vector", size[1]))
                for name, size in sizes.items()
            }
        )


def rows_of(few, many, seed, noise):
    """Two unrelated tasks with many rows, and two with few: the first one again, and its negative."""
    world = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 10, generator=world)
    one, two = torch.randn(10, generator=world), torch.randn(10, generator=world)
    draw = torch.Generator().manual_seed(seed)
    counts = torch.tensor([many, many, few, few])
    inputs = torch.randn(int(counts.sum()), 8, generator=draw)
    hidden = torch.tanh(0.7 * inputs @ mix)
    scale = (hidden @ one).std()
    values = {"often": hidden @ one, "other": hidden @ two, "same": hidden @ one, "opposite": -(hidden @ one)}
    errors = noise * torch.randn(len(inputs), generator=draw)
    owner = torch.repeat_interleave(torch.arange(4), counts)
    targets = {task: (value / scale + errors).unsqueeze(1) for task, value in values.items()}
    masks = {task: (owner == number).unsqueeze(1) for number, task in enumerate(TASKS)}
    return Batch.of({"row": inputs}, targets, masks, torch.arange(len(inputs)))


def trained(scheme, length=0.0):
    """The mean error on the two tasks with few rows, and the model.

    Args:
        scheme: The sharing scheme.
        length: Strength of a plain penalty on the heads' weights, as if no task were related to another.
    """
    train, test = rows_of(8, 200, 1, noise=0.3), rows_of(300, 300, 100, noise=0.0)
    torch.manual_seed(0)
    model = MultiTaskModel({"row": Wide()}, [Regression(task) for task in TASKS], scheme)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    for _ in range(250):
        optimizer.zero_grad()
        found = model.objectives(train)
        total = sum(found.losses.values()) + sum(found.penalties.values())
        for head in model.heads.values():
            total = total + len(TASKS) * length * head.weight.square().sum()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        losses = model.eval().losses(test)
    return (losses["same"].item() + losses["opposite"].item()) / 2, model


def test_tasks_with_few_rows_learn_from_their_relatives_and_the_matrix_says_from_whom():
    error, model = trained(Covariance(strength=0.1))
    plain, _ = trained(Hard())
    assert error < 0.4 * plain
    for length in (0.03, 0.1, 0.3):
        shrunk, _ = trained(Hard(), length)
        assert error < 0.75 * shrunk, length
    found = {
        (one, other): value
        for one, row in zip(TASKS, model.learned()["task correlations of heads"].values.tolist(), strict=True)
        for other, value in zip(TASKS, row, strict=True)
    }
    assert found["often", "same"] > 0.8
    assert found["often", "opposite"] < -0.8
    assert found["same", "opposite"] < -0.8
    assert all(abs(found["other", task]) < 0.3 for task in TASKS if task != "other")
