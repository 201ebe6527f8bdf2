import pytest
import torch

from polytask import sharing
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.sharing.mixture_plan import Mixture, plan

from .one_unit import error
from .test_mmoe import SHARED_SIZE, TASKS, features_of, gate_of, softmax
from .two_tasks import STARVED, errors

HIDDEN = 5


def trunk_of(encoder, name="ple", tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create(name, **parameters).build({"row": encoder}, tasks)


def gated(gate, x, outputs):
    """`sum_e softmax(W x + b)_e E_e`."""
    weights = softmax(x @ gate.map.weight.T + gate.map.bias)
    return sum(weights[:, place : place + 1] * output for place, output in enumerate(outputs))


def perceptrons(experts, x):
    """The outputs of some experts of one layer, one by one."""
    weights, biases = experts.first.weight.split(HIDDEN), experts.first.bias.split(HIDDEN)
    return [torch.relu(x @ weight.T + bias) for weight, bias in zip(weights, biases, strict=True)]


def test_cgc_mixes_a_tasks_own_experts_and_the_shared_ones(encoder):
    trunk = trunk_of(encoder, "cgc", shared_experts=3, task_experts=2, hidden=[HIDDEN])
    inputs = torch.randn(4, 4)
    x = encoder(inputs).values
    *own, shared = trunk.levels[0].experts
    for place, (task, found) in enumerate(features_of(trunk, inputs).items()):
        outputs = [*perceptrons(own[place], x), *perceptrons(shared, x)]
        assert len(outputs) == 5
        torch.testing.assert_close(found, gated(gate_of(trunk, task), x, outputs))


@pytest.mark.parametrize("levels", [2, 3])
def test_ple_is_levels_of_cgc_with_a_shared_gate_that_sees_all(encoder, levels):
    trunk = trunk_of(encoder, levels=levels, shared_experts=2, task_experts=1, hidden=[HIDDEN])
    inputs = torch.randn(4, 4)
    flowing = [encoder(inputs).values] * 4
    for number, level in enumerate(trunk.levels):
        if number == 0:
            # All read the same, and all tasks reach all: one group.
            (together,) = level.experts
            *own, third, fourth = perceptrons(together, flowing[0])
            own, shared = [[output] for output in own], [third, fourth]
        else:
            *groups, last = level.experts
            own = [perceptrons(group, x) for group, x in zip(groups, flowing, strict=False)]
            shared = perceptrons(last, flowing[3])
        made = [
            gated(gate_of(trunk, task, number), flowing[place], [*own[place], *shared])
            for place, task in enumerate(TASKS)
        ]
        if number < levels - 1:
            everything = [output for outputs in own for output in outputs] + shared
            made.append(gated(level.shared.gate, flowing[3], everything))
        else:
            assert level.shared is None
        flowing = made
    for found, expected in zip(features_of(trunk, inputs).values(), flowing, strict=True):
        torch.testing.assert_close(found, expected)


def test_ple_of_stages_mixes_copies_level_by_level(encoder):
    trunk = trunk_of(encoder, share_until=1, shared_experts=1, task_experts=1)
    inputs = torch.randn(4, 4)
    x = encoder.stages["bottom"].module(inputs)
    outputs = [stages["middle"].module(x) for stages in trunk.levels[0].experts[0].experts]
    made = [gated(gate_of(trunk, task), x, [outputs[place], outputs[3]]) for place, task in enumerate(TASKS)]
    made.append(gated(trunk.levels[0].shared.gate, x, outputs))
    tops = [group.experts[0]["top"].module for group in trunk.levels[1].experts]
    for place, (task, found) in enumerate(features_of(trunk, inputs).items()):
        mine = [tops[place](made[place]), tops[3](made[3])]
        torch.testing.assert_close(found, gated(gate_of(trunk, task, 1), made[place], mine))


def test_one_level_of_ple_is_cgc(encoder):
    one, other = trunk_of(encoder, levels=1), trunk_of(encoder, "cgc")
    one.load_state_dict(other.state_dict())
    inputs = torch.randn(4, 4)
    torch.testing.assert_close(features_of(one, inputs), features_of(other, inputs))


def test_cgc_has_this_many_parameters(encoder):
    trunk = trunk_of(encoder, "cgc", shared_experts=3, task_experts=2, hidden=[7, HIDDEN])
    expert = 3 * 7 + 7 + 7 * HIDDEN + HIDDEN
    own = len(TASKS) * (2 * expert + 3 * 5 + 5)
    assert sum(p.numel() for p in trunk.parameters()) == SHARED_SIZE + 3 * expert + own
    assert sum(p.numel() for p in trunk.shared_parameters()) == SHARED_SIZE + 3 * expert


def test_ple_has_this_many_parameters(encoder):
    trunk = trunk_of(encoder, shared_experts=3, task_experts=2, hidden=[HIDDEN])
    count = 2 * len(TASKS) + 3
    first, second = 3 * HIDDEN + HIDDEN, HIDDEN * HIDDEN + HIDDEN
    gates = [len(TASKS) * (width * 5 + 5) for width in (3, HIDDEN)]
    shared_gate = 3 * count + count
    total = SHARED_SIZE + count * (first + second) + sum(gates) + shared_gate
    assert sum(p.numel() for p in trunk.parameters()) == total
    # In the last level the tasks' experts are their own; the first level's gates serve theirs.
    own = sum(gates) + 2 * len(TASKS) * second
    assert sum(p.numel() for p in trunk.shared_parameters()) == total - own


def reach(levels):
    """Which of two tasks what serves, level by level: the groups of experts, and the gates."""
    found = plan(Mixture(None, task_experts=1, shared_experts=1), 2, levels)
    return [([set(group.reach) for group in each.groups], [set(mix.reach) for mix in each.mixes]) for each in found]


def test_all_but_the_last_levels_experts_serve_all_tasks():
    both, last = {0, 1}, ([{0}, {1}, {0, 1}], [{0}, {1}])
    assert reach(1) == [last]
    assert reach(2) == [([both], [{0}, {1}, both]), last]
    # A gate two levels before the last one feeds experts that the next shared gate sees.
    assert reach(3) == [([both], [both] * 3), ([both] * 3, [{0}, {1}, both]), last]


def test_parts_say_who_owns_what(encoder):
    parts = trunk_of(encoder, "cgc", ["a", "b"], task_experts=2, shared_experts=1).parts()
    assert [(part.name, part.tasks) for part in parts[3:]] == [
        ("a expert 1 to a expert 2", ("a",)),
        ("b expert 1 to b expert 2", ("b",)),
        ("shared expert 1", ("a", "b")),
        ("gate of a", ("a",)),
        ("gate of b", ("b",)),
    ]
    parts = trunk_of(encoder, "ple", ["a", "b"], share_until=1, task_experts=1, shared_experts=1).parts()
    assert [(part.name, part.tasks, part.depth) for part in parts[1:]] == [
        ("a expert 1 of middle in level 1", ("a", "b"), 1),
        ("b expert 1 of middle in level 1", ("a", "b"), 1),
        ("shared expert 1 of middle in level 1", ("a", "b"), 1),
        ("gate of a in level 1", ("a",), None),
        ("gate of b in level 1", ("b",), None),
        ("gate of shared in level 1", ("a", "b"), None),
        ("a expert 1 of top in level 2", ("a",), 2),
        ("b expert 1 of top in level 2", ("b",), 2),
        ("shared expert 1 of top in level 2", ("a", "b"), 2),
        ("gate of a in level 2", ("a",), None),
        ("gate of b in level 2", ("b",), None),
    ]


def test_a_tasks_experts_see_its_rows_alone_and_nothing_runs_for_the_others(encoder):
    trunk = trunk_of(encoder, "cgc")
    sizes = {}
    for number, group in enumerate(trunk.levels[0].experts):
        group.register_forward_hook(lambda _, __, found, number=number: sizes.update({number: len(found.values)}))
    inputs, rows = torch.randn(5, 4), {"type": torch.tensor([1, 3])}
    found = features_of(trunk, inputs, ["type"], rows)
    assert sizes == {1: 2, 3: 5}
    torch.testing.assert_close(found["type"], features_of(trunk, inputs)["type"][[1, 3]])


def test_only_the_last_level_of_ple_runs_for_single_tasks(encoder):
    trunk = trunk_of(encoder)
    calls = []
    for level, each in enumerate(trunk.levels):
        for number, group in enumerate(each.experts):
            group.register_forward_hook(lambda *_, place=(level, number): calls.append(place))
        for task in TASKS:
            each.fusions[task].register_forward_hook(lambda *_, place=(level, task): calls.append(place))
    features_of(trunk, torch.randn(5, 4), ["type"])
    assert calls == [(0, 0), (0, "type"), (1, 1), (1, 3), (1, "type")]


def test_learned_are_the_gates_of_each_level(encoder):
    tables = trunk_of(encoder, tasks=["a", "b"], task_experts=1, shared_experts=2).learned()
    assert list(tables) == ["gates in level 1", "gates in level 2"]
    first, second = tables.values()
    assert (first.rows, second.rows) == (("a", "b", "shared"), ("a", "b"))
    assert first.columns == second.columns == ("a expert 1", "b expert 1", "shared expert 1", "shared expert 2")
    third = pytest.approx(1 / 3)
    assert second.values.tolist() == [[third, 0.0, third, third], [0.0, third, third, third]]
    assert first.values[2].tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("levels", "stages"),
    [
        (1, [{"block2", "block3", "block4", "pool"}]),
        (2, [{"block2", "block3"}, {"block4", "pool"}]),
        (3, [{"block2", "block3"}, {"block4"}, {"pool"}]),
        (4, [{"block2"}, {"block3"}, {"block4"}, {"pool"}]),
        (["block2"], [{"block2"}, {"block3", "block4", "pool"}]),
        (["block2", -2], [{"block2"}, {"block3"}, {"block4", "pool"}]),
    ],
)
def test_stages_are_divided_among_the_levels(levels, stages):
    from .two_tasks import Net

    encoder = Net(4, 5, 5, 5, 5, 3)
    names = ("block1", "block2", "block3", "block4", "pool")
    encoder.stages._modules = dict(zip(names, encoder.stages.values(), strict=True))
    trunk = trunk_of(encoder, share_until=1, levels=levels)
    assert [set(level.experts[0].experts[0]) for level in trunk.levels] == stages
    assert trunk.shape("age") == FeatureShape("vector", 3)
    assert features_of(trunk, torch.randn(2, 4))["age"].shape == (2, 3)


@pytest.mark.parametrize("name", ["cgc", "ple"])
def test_tasks_with_nothing_in_common_gain_over_hard_sharing(name):
    assert error(name, share_until=1, shared_experts=1, task_experts=1) < 0.65 * error("hard")


def test_a_task_with_few_labels_gains_over_separate_networks():
    separate = errors(STARVED, "hard", share_until=0)[0]
    assert errors(STARVED, "cgc", share_until=1, shared_experts=1, task_experts=1)[0] < 0.7 * separate


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("cgc", {"shared_experts": 0}, "'shared_experts' must be at least 1"),
        ("ple", {"task_experts": 0}, "'task_experts' must be at least 1"),
        ("ple", {"levels": 0}, "'levels' must be at least 1"),
        ("ple", {"levels": "middle"}, "ple: 'levels' is 'middle', but must be a number, or a list"),
        ("ple", {"levels": ["middle"]}, "ple: 'levels' lists stages of Layers, but all of them are shared"),
        ("ple", {"levels": 3, "share_until": 1}, r"ple: 3 levels.*'share_until' \(1\) Layers has 2 stages: 'middle'"),
        ("ple", {"levels": ["top"], "share_until": 1}, r"ple: 'levels' is \['top'\], but must name the last stage"),
        ("ple", {"levels": ["bottom"], "share_until": 1}, r"ple: 'levels' is \['bottom'\].*before the end"),
        ("ple", {"levels": ["midle"], "share_until": 1}, "no stage 'midle'"),
        ("cgc", {"share_until": 0}, "cgc: 'share_until' is 0, but the gates cannot read the raw input of Layers"),
    ],
)
def test_bad_parameters_are_refused(encoder, name, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, name, **parameters)
