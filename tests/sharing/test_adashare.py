"""AdaShare: tasks that execute or skip stages."""

import itertools

import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.encoders import Features
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.sharing.adashare import skippable

from ..encoders.cases import CASES
from .choosing import gumbel, share_of_variance, trained
from .fitting import Data, Dense

TASKS = ("age", "type", "mood")
INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
SCORES = torch.tensor([[[0.1, -0.1], [-0.2, 0.1], [0.0, 0.3]], [[0.2, 0.1], [0.3, 0.0], [-0.1, 0.2]]])
SCORES = torch.cat([SCORES, -SCORES[:1]])  # [task, stage, execute or skip]


def trunk_of(tasks=TASKS, sizes=(4, 4, 4, 4), progress=1.0, **parameters):
    """Three layers that can be skipped, after a stage that cannot, with choices that differ."""
    torch.manual_seed(2)
    trunk = sharing.create("adashare", **parameters).build({"row": Dense(*sizes)}, tasks)
    with torch.no_grad():
        for choices, scores in zip(trunk.choices.values(), SCORES, strict=False):
            choices.scores.copy_(scores)
    trunk.set_progress(progress)
    return trunk


def output_of(trunk, tasks=TASKS, rows=None):
    return trunk({"row": INPUTS}, tasks, rows or {})


def values_of(trunk, tasks=TASKS, rows=None):
    return {task: features.values for task, features in output_of(trunk, tasks, rows).features.items()}


def by_hand(trunk, executed):
    """Each task's features, given how far it executes each of the three layers."""
    layers = [stage.module for stage in trunk.body.values()][1:]
    found = {}
    for task, shares in zip(TASKS, executed, strict=True):
        values = INPUTS
        for layer, u in zip(layers, shares, strict=True):
            values = u * layer(values) + (1 - u) * values
        found[task] = values
    return found


def count_calls(trunk):
    calls = dict.fromkeys(trunk.stage_names, 0)

    def called(stage):
        calls[stage] += 1

    for name, stage in trunk.body.items():
        stage.register_forward_hook(lambda *_, name=name: called(name))
    return calls


def test_it_has_one_network_and_two_numbers_for_each_task_and_stage():
    trunk = trunk_of()
    assert sum(p.numel() for p in trunk.parameters()) == 3 * (4 * 4 + 4) + 3 * 3 * 2
    trunk = trunk_of(sizes=(4, 4, 5, 5, 5, 3))
    assert trunk.learned()["executes"].columns == ("layer1", "layer3", "layer4")


@pytest.mark.parametrize("straight_through", [True, False])
def test_tasks_execute_stages_as_far_as_is_drawn(straight_through):
    trunk = trunk_of(
        progress=0.6, temperature=8.0, final_temperature=0.5, warm_up=0.2, straight_through=straight_through
    )
    torch.manual_seed(4)
    found = values_of(trunk)
    torch.manual_seed(4)
    drawn = [((10 * scores + gumbel(3, 2)) / 2.0).softmax(1)[:, 0] for scores in SCORES]
    if straight_through:
        drawn = [(u > 0.5).float() for u in drawn]
    torch.testing.assert_close(found, by_hand(trunk, drawn))


@pytest.mark.parametrize("training", [True, False])
def test_in_the_warm_up_every_task_executes_everything(training):
    trunk = trunk_of(progress=0.05).train(training)
    calls = count_calls(trunk)
    output = output_of(trunk)
    torch.testing.assert_close(
        {task: features.values for task, features in output.features.items()}, by_hand(trunk, torch.ones(3, 3))
    )
    assert output.penalties == {}
    assert set(calls.values()) == {1}


def test_in_evaluation_the_likelier_holds_and_tasks_are_computed_together_as_far_as_they_agree():
    trunk = trunk_of().eval()
    state = torch.get_rng_state()
    calls = count_calls(trunk)
    found = values_of(trunk)
    # age: layer1; type: layer1 and layer2; mood: layer2 and layer3.
    assert calls == {"embed": 1, "layer1": 1, "layer2": 2, "layer3": 1}
    torch.testing.assert_close(found, by_hand(trunk, torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1]])))
    assert torch.equal(torch.get_rng_state(), state), "evaluation draws nothing"


def test_a_task_by_itself_and_rows_by_themselves_give_the_same_when_the_choices_are_made():
    trunk = trunk_of().eval()
    expected = values_of(trunk)
    rows = {"age": torch.tensor([0, 2]), "type": torch.tensor([1, 2, 5]), "mood": torch.tensor([2, 4])}
    torch.testing.assert_close(values_of(trunk, rows=rows), {task: expected[task][rows[task]] for task in TASKS})
    torch.testing.assert_close(values_of(trunk, ["type"], rows)["type"], expected["type"][rows["type"]])


def test_in_training_a_task_sees_its_own_rows_from_the_first_decision_on():
    trunk = trunk_of(straight_through=True)
    seen = {name: [] for name in trunk.stage_names}
    for name, stage in trunk.body.items():
        stage.register_forward_hook(lambda _, __, output, name=name: seen[name].append(len(output.values)))
    rows = {"age": torch.tensor([0, 2]), "type": torch.tensor([1, 2, 5]), "mood": torch.tensor([4])}
    assert {task: len(values) for task, values in values_of(trunk, rows=rows).items()} == {
        task: len(of_task) for task, of_task in rows.items()
    }
    # What the tasks read is still the same at the first decision, so that its stage runs once, on all rows.
    assert seen == {"embed": [6], "layer1": [6], "layer2": [2, 3, 1], "layer3": [2, 3, 1]}


def decided(trunk, progress):
    """The stages that not all tasks execute: by the scores, some task skips each as soon as it may."""
    trunk.set_progress(progress)
    return [part.name for part in trunk.parts() if part.depth is not None and len(part.tasks) < 3]


def test_stages_come_under_decision_from_the_top_down():
    trunk = trunk_of(warm_up=0.1, curriculum=0.6).eval()
    stages = ["layer1", "layer2", "layer3"]
    for progress, count in {0.05: 0, 0.11: 1, 0.29: 1, 0.31: 2, 0.49: 2, 0.51: 3, 0.9: 3}.items():
        assert decided(trunk, progress) == stages[3 - count :], progress
    assert decided(trunk_of(warm_up=0.0, curriculum=0.0).eval(), 0.0) == stages


@pytest.mark.parametrize(
    ("shared_end", "weights"), [("bottom", [1, 2 / 3, 1 / 3]), ("top", [1 / 3, 2 / 3, 1]), ("none", [1, 1, 1])]
)
@pytest.mark.parametrize("under_decision", [3, 2])
def test_penalties_are_those_of_the_formula(shared_end, weights, under_decision):
    progress = {3: 1.0, 2: 0.35}[under_decision]
    trunk = trunk_of(shared_end=shared_end, sparsity=0.3, sharing=0.7, warm_up=0.1, curriculum=0.6, progress=progress)
    executes = (10 * SCORES).softmax(2)[:, :, 0].tolist()
    stages = range(3 - under_decision, 3)
    sparsity = sum(torch.tensor(executes[k][stage]).log() for k in range(3) for stage in stages)
    differences = sum(
        weights[stage] * abs(executes[k][stage] - executes[j][stage])
        for k, j in itertools.combinations(range(3), 2)
        for stage in stages
    )
    penalties = output_of(trunk).penalties
    assert list(penalties) == ["sparsity", "sharing"]
    torch.testing.assert_close(penalties["sparsity"], 0.3 * sparsity)
    assert penalties["sharing"].item() == pytest.approx(0.7 * differences)


def test_penalties_of_no_strength_and_differences_of_one_task_are_not_there():
    assert output_of(trunk_of(sparsity=0, sharing=0)).penalties == {}
    assert list(output_of(trunk_of(("age",)), ("age",)).penalties) == ["sparsity"]


def test_parts_say_who_executes_a_stage():
    trunk = trunk_of().eval()
    reached = {p: set() for p in trunk.parameters()}
    for task, values in values_of(trunk).items():
        gradients = torch.autograd.grad(values.sum(), list(reached), allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(reached, gradients, strict=True):
            if gradient is not None:
                reached[parameter].add(task)
    assert {p: set(part.tasks) for part in trunk.parts() for p in part.module.parameters()} == reached
    assert [part.tasks for part in trunk.parts()][:4] == [TASKS, ("age", "type"), ("type", "mood"), ("mood",)]
    trunk.train()
    assert [part.tasks for part in trunk.parts()] == [TASKS] * 4 + [(task,) for task in TASKS]


def test_what_is_learned_are_the_probabilities_of_executing():
    table = trunk_of().learned()["executes"]
    assert (table.rows, table.columns) == (TASKS, ("layer1", "layer2", "layer3"))
    torch.testing.assert_close(table.values, (10 * SCORES).softmax(2)[:, :, 0])


def test_a_loaded_trunk_evaluates_as_the_saved_one():
    trunk = trunk_of(progress=0.5)
    again = sharing.create("adashare").build({"row": Dense(4, 4, 4, 4)}, TASKS)
    again.load_state_dict(trunk.state_dict())
    torch.testing.assert_close(values_of(again.eval()), values_of(trunk.eval()))


class Maps(Encoder):
    """Convolutions that keep the number of channels, some of which change the map's size, or its borders."""

    def __init__(self, *layers):
        stages = [nn.Conv2d(1, 4, 3, padding=1), *layers]
        super().__init__({f"conv{i}": Stage(layer, FeatureShape("map", 4)) for i, layer in enumerate(stages)})


def test_maps_must_keep_their_size():
    kept, halved, cropped = (nn.Conv2d(4, 4, 3, **how) for how in ({"padding": 1}, {"padding": 1, "stride": 2}, {}))
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, 4 * 49), nn.Unflatten(1, (4, 7, 7)))
    assert skippable(Maps(halved, kept, cropped, nn.MaxPool2d(2), kept, nn.ReLU(), fixed)) == (2, 5, 6)


@pytest.mark.parametrize(
    ("encoder", "stages"),
    [
        ("mlp", ["layer2"]),
        ("tabular_resnet", ["block1", "block2", "pool"]),
        ("ft_transformer", ["block1", "block2"]),
        ("transformer", ["block1", "block2"]),
        ("bigru", ["layer2"]),
        ("cnn", ["conv3"]),
        ("bag-hidden", []),
        ("text_cnn", []),
    ],
)
def test_stages_whose_shape_changes_are_always_executed(encoder, stages):
    built = CASES[encoder].build()
    assert [built.stage_names[depth] for depth in skippable(built)] == stages


def test_asking_what_can_be_skipped_leaves_the_encoder_as_it_was():
    encoder = Maps(nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert skippable(encoder) == (1,)
    assert all(module.training for module in encoder.modules())
    torch.testing.assert_close(encoder.state_dict(), before)


class Cut(Stage):
    def forward(self, features):
        return Features(features.values[:, :24])


class Halved(Stage):
    def forward(self, features):
        return Features(features.values[:, ::2])


def tokens_cut_by(cut):
    tokens = FeatureShape("tokens", 4)
    encoder = Maps()
    encoder.stages = type(encoder.stages)({"in": Stage(nn.Identity(), tokens), "merge": cut(nn.Identity(), tokens)})
    return encoder


def test_stages_that_halve_the_tokens_are_always_executed():
    assert skippable(tokens_cut_by(Cut)) == (1,)
    assert skippable(tokens_cut_by(Halved)) == ()


def test_tokens_that_turn_out_fewer_are_told():
    trunk = sharing.create("adashare", warm_up=0.0).build({"row": tokens_cut_by(Cut)}, TASKS)
    message = r"adashare: stage 'merge' turns \[2, 30, 4\] into \[2, 24, 4\], so it cannot be"
    with pytest.raises(UserError, match=message):
        trunk({"row": torch.randn(2, 30, 4)}, TASKS, {})


def linear_and_bent(rows, seed):
    """Three tasks that want the inputs as they are, three that want them bent: more than four features."""
    same = torch.Generator().manual_seed(3)
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    directions = torch.linalg.qr(torch.randn(4, 4, generator=same)).Q
    bent = (inputs @ torch.randn(4, 4, generator=same) / 2).abs()
    bent = bent - bent.mean(0)
    targets = {f"plain{i}": inputs @ directions[i] for i in range(3)}
    for i in range(3):
        weights = torch.randn(4, generator=same)
        targets[f"bent{i}"] = bent @ weights / weights.norm()
    return Data(inputs, targets)


def test_tasks_that_execute_different_stages_do_not_crowd_one_another_out():
    train, test = linear_and_bent(1000, 1), linear_and_bent(2000, 2)
    found = {}
    for name, parameters in (("hard", {}), ("adashare", {"sharing": 0})):
        torch.manual_seed(0)
        scheme = sharing.create(name, **parameters)
        trunk, heads = trained(scheme, Dense(4, 4, 4, 4), train, steps=300)
        found[name] = share_of_variance(trunk, heads, test)
    assert found["adashare"] < 0.7 * found["hard"], found
    executed = trunk.learned()["executes"].values > 0.5
    assert len(executed.unique(dim=0)) > 1


def test_a_strong_penalty_makes_tasks_skip_everything():
    torch.manual_seed(0)
    trunk, _ = trained(sharing.create("adashare", sparsity=10.0), Dense(4, 4, 4), linear_and_bent(200, 1), steps=60)
    assert float(trunk.learned()["executes"].values.max()) < 0.5


def test_a_strong_penalty_makes_tasks_choose_the_same():
    spread = {}
    for strength in (0.0, 10.0):
        torch.manual_seed(0)
        scheme = sharing.create("adashare", sharing=strength, warm_up=0.0, shared_end="none")
        trunk, _ = trained(scheme, Dense(4, 4, 4), linear_and_bent(200, 1), steps=100)
        spread[strength] = float(trunk.learned()["executes"].values.std(0).max())
    assert spread[10.0] < 0.1 < spread[0.0], spread


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sparsity": -1.0}, "adashare: sparsity is -1.0, but must be at least 0"),
        ({"sharing": float("nan")}, "adashare: sharing is nan, but must be at least 0"),
        ({"shared_end": "middle"}, "adashare: shared_end is 'middle', but must be one of 'bottom', 'top', 'none'"),
        ({"curriculum": -0.1}, "adashare: curriculum is -0.1, but must be at least 0"),
        ({"curriculum": 0.6, "warm_up": 0.5}, "curriculum is 0.6, but .* with warm_up, which is 0.5, at most 1"),
    ],
)
def test_values_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.create("adashare", **parameters)


def test_an_encoder_without_a_stage_to_skip_is_refused():
    message = "adashare needs stages whose output has the shape of their input.*Bag has none among 'embed'"
    with pytest.raises(UserError, match=message):
        sharing.create("adashare").build({"text": CASES["bag"].build()}, TASKS)
