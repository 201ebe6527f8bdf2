import pytest
import torch
from torch import nn

from polytask import sharing
from polytask.config import Kind
from polytask.config.component import make_component
from polytask.encoders import Encoder, FeatureShape, Stage
from polytask.errors import UserError

SIZES = {"bottom": 4 * 6 + 6, "middle": 6 * 5 + 5, "top": 5 * 3 + 3}
TASKS = ["a", "b", "c"]
TREE = {"middle": [["a", "b"], ["c"]], "top": [["a"], ["b"], ["c"]]}
AFFINITY = {"a": {"b": 0.9, "c": 0.1}, "b": {"c": 0.2}}


def partitions(tasks=TASKS, **parameters):
    return sharing.Branching(**parameters).partitions(tuple(SIZES), tasks)


def sets(levels):
    return [{frozenset(group) for group in level} for level in levels]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (TREE, ["abc", "ab c", "a b c"]),
        ({"middle": [["b", "a"], ["c"]], "top": "apart"}, ["abc", "ab c", "a b c"]),
        ({2: [["a", "b"], ["c"]], -1: "apart"}, ["abc", "ab c", "a b c"]),
        ({"top": "apart", "middle": [["a", "b"], ["c"]]}, ["abc", "ab c", "a b c"]),
        ({"middle": [["a", "b"], ["c"]]}, ["abc", "ab c", "ab c"]),
        ({"bottom": "apart"}, ["a b c", "a b c", "a b c"]),
        ({"top": [["a", "b", "c"]]}, ["abc", "abc", "abc"]),
    ],
)
def test_a_level_holds_from_its_stage_on(tree, expected):
    assert sets(partitions(tree=tree)) == sets([level.split() for level in expected])


def test_it_is_written_in_yaml_and_survives_json():
    spec = make_component(Kind.SHARING, {"type": "branching", "tree": {2: [["a", "b"], ["c"]], "top": "apart"}})
    again = sharing.create(spec.type, **spec.parameters)
    assert sets(again.partitions(tuple(SIZES), TASKS)) == sets(partitions(tree=TREE))
    affinity = {"type": "branching", "affinity": AFFINITY, "strategy": "agglomerative", "groups": {"top": 2}}
    assert make_component(Kind.SHARING, affinity).create().partitions(tuple(SIZES), TASKS)[-1] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("share_until", "tree"), [(None, {"top": [TASKS]}), ("bottom", {"middle": "apart"}), (0, {1: "apart"})]
)
def test_hard_sharing_is_a_tree(encoder, share_until, tree):
    trunk = sharing.Branching(tree).build({"row": encoder}, TASKS)
    hard = sharing.Hard(share_until).build({"row": encoder}, TASKS)
    assert [(part.name, part.tasks, part.depth) for part in trunk.parts()] == [
        (part.name, part.tasks, part.depth) for part in hard.parts()
    ]
    inputs = {"row": torch.randn(3, 4)}
    found, expected = (each(inputs, TASKS, {}).features for each in (trunk, hard))
    for task in TASKS:
        torch.testing.assert_close(found[task].values, expected[task].values)


def test_parameters_and_reach(encoder):
    trunk = sharing.Branching(TREE).build({"row": encoder}, TASKS)
    assert sum(p.numel() for p in trunk.parameters()) == SIZES["bottom"] + 2 * SIZES["middle"] + 3 * SIZES["top"]
    with_b = {part.name for part in trunk.parts() if set(part.tasks) == {"a", "b"}}
    assert with_b == {"middle"}
    features = trunk({"row": torch.randn(2, 4)}, TASKS, {}).features
    features["c"].values.sum().backward()
    assert {part.tasks for part in trunk.parts() if next(part.module.parameters()).grad is not None} == {
        ("a", "b", "c"),
        ("c",),
    }


def test_affinities_make_the_tree():
    # The last stage: together costs 1 - (0.1 + 0.2 + 0.1) / 3, two groups 0.1 + 0.05, apart 0.2. Below, two groups
    # cost 0.2 + 0.05 and then 0.4 + 0.05, one 1 - 0.1 - 0.05 / 2 each time.
    assert sets(partitions(affinity=AFFINITY, branch_cost=0.1)) == sets([["ab", "c"]] * 3)
    assert sets(partitions(affinity=AFFINITY, branch_cost=0.3)) == sets([["abc"], ["ab", "c"], ["ab", "c"]])
    counts = {"middle": 2, "top": 3}
    found = partitions(affinity=AFFINITY, strategy="agglomerative", groups=counts)
    assert sets(found) == sets([["abc"], ["ab", "c"], ["a", "b", "c"]])


def test_tasks_beside_the_models_are_left_out_of_affinities():
    assert sets(partitions(["b", "c"], affinity=AFFINITY, branch_cost=0.1)) == sets([["b", "c"]] * 3)
    assert partitions(["b"], affinity=AFFINITY) == [[["b"]]] * 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "either a 'tree'.*or the tasks' 'affinity'"),
        ({"tree": TREE, "affinity": AFFINITY}, "not both"),
        ({"tree": {}}, "'tree' is empty"),
        ({"tree": {"top": "alone"}}, "'tree: top' must be one of 'apart', but 'alone' was given"),
        ({"tree": {"top": [["a"], []]}}, r"at 'top' the 'tree' has \[\] for a group"),
        ({"tree": {"top": ["a", "b"]}}, "at 'top' the 'tree' has 'a' for a group"),
        ({"tree": {"top": [["a", "b"], ["b", "c"]]}}, "at 'top' the 'tree' has the task 'b' twice"),
        ({"affinity": AFFINITY, "strategy": "best"}, "'strategy' must be one of 'fafs', 'agglomerative'"),
        ({"affinity": AFFINITY, "linkage": "ward"}, "'linkage' must be one of 'average', 'complete', 'single'"),
        ({"affinity": AFFINITY, "branch_cost": -1}, "'branch_cost' must be a number of at least 0"),
        ({"affinity": AFFINITY, "cost_growth": 0.5}, "'cost_growth' must be a number of at least 1"),
        ({"affinity": AFFINITY, "groups": {"top": 2}}, "'groups'.*goes with the strategy 'agglomerative'"),
        ({"affinity": AFFINITY, "strategy": "agglomerative"}, "'groups'.*which need it"),
        ({"affinity": AFFINITY, "strategy": "agglomerative", "groups": {"top": 0}}, "'groups: top' must be at least 1"),
    ],
)
def test_bad_parameters_are_refused_at_once(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.Branching(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tree": {"midle": "apart"}}, r"branching: The encoder has no stage 'midle'.*Did you mean 'middle'\?"),
        ({"tree": {4: "apart"}}, "branching: There is no stage number 4"),
        ({"tree": {"top": "apart", 3: "apart"}}, "the stage 'top' is named twice"),
        ({"tree": {"top": [["a", "b"], ["cc"]]}}, r"at 'top' the tree names 'cc'.*The tasks: 'a', 'b', 'c'"),
        ({"tree": {"top": [["a"], ["c"]]}}, "at 'top' the tree has no group with 'b'"),
        (
            {"tree": {"middle": [["a", "b"], ["c"]], "top": [["a"], ["b", "c"]]}},
            "puts 'b' and 'c' together from 'top' on, but they are apart at 'middle'",
        ),
        ({"affinity": {"a": {"b": 0.1}}}, "branching: 'affinity' has no task 'c'"),
        ({"affinity": {"a": {"b": 2.0, "c": 0}, "b": {"c": -1}}}, "needs them from 0 to 1, but they are from -1 to 2"),
        (
            {"affinity": AFFINITY, "strategy": "agglomerative", "groups": {"middle": 3, "top": 2}},
            "'groups' gives 2 after 3, but the number of groups can only grow",
        ),
        (
            {"affinity": AFFINITY, "strategy": "agglomerative", "groups": {"top": 4}},
            "at most to the number of tasks, 3",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_when_it_is_built(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.Branching(**parameters).build({"row": encoder}, TASKS)


class Linear(Encoder):
    """One linear map to two features."""

    modality = "tabular"

    def __init__(self):
        super().__init__({"map": Stage(nn.Linear(20, 2, bias=False), FeatureShape("vector", 2))})


def test_the_right_tree_beats_others_and_separate_networks():
    """In each of two families targets depend on the same two directions, and there are few noisy rows."""
    draw = torch.Generator().manual_seed(0)
    a, b = [f"a{number}" for number in range(6)], [f"b{number}" for number in range(6)]
    directions = {family: torch.randn(20, 2, generator=draw) / 20**0.5 for family in "ab"}
    truth = {task: directions[task[0]] @ torch.randn(2, 1, generator=draw) for task in a + b}
    x = torch.randn(30, 20, generator=draw)
    y = {task: x @ weights + 0.5 * torch.randn(30, 1, generator=draw) for task, weights in truth.items()}

    def error(scheme):
        torch.manual_seed(0)
        trunk = scheme.build({"row": Linear()}, a + b)
        heads = nn.ModuleDict({task: nn.Linear(2, 1, bias=False) for task in a + b})
        optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.03)

        def outputs(rows):
            return {task: heads[task](found.values) for task, found in trunk({"row": rows}, a + b, {}).features.items()}

        for _ in range(200):
            optimizer.zero_grad()
            sum((output - y[task]).square().mean() for task, output in outputs(x).items()).backward()
            optimizer.step()
        with torch.no_grad():
            weights = outputs(torch.eye(20))
        return sum(float((weights[task] - truth[task]).square().sum()) for task in truth)

    right = error(sharing.Branching({"map": [a, b]}))
    assert right < 0.5 * error(sharing.Branching({"map": [a[:3] + b[:3], a[3:] + b[3:]]}))
    assert right < 0.5 * error(sharing.Hard())
    assert right < 0.5 * error(sharing.Hard(0))
