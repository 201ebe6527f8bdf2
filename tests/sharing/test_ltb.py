"""Learning to branch."""

import copy

import pytest
import torch

from polytask import sharing
from polytask.encoders import Features
from polytask.errors import UserError
from polytask.sharing.branching import Branching
from polytask.sharing.ltb import mixtures

from .choosing import gumbel, share_of_variance, trained
from .fitting import Data, Dense

TASKS = ("age", "type", "mood")
STAGE_SIZES = {"bottom": 4 * 6 + 6, "middle": 6 * 5 + 5, "top": 5 * 3 + 3}
INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(2)
    return sharing.create("ltb", **parameters).build({"row": encoder}, tasks)


def with_scores(trunk):
    """The same with choices that differ."""
    torch.manual_seed(3)
    for name, parameter in trunk.named_parameters():
        if name.endswith("scores"):
            torch.nn.init.normal_(parameter, std=0.1)
    return trunk


def values_of(trunk, tasks=TASKS, rows=None):
    found = trunk({"row": INPUTS}, tasks, rows or {}).features
    return {task: features.values for task, features in found.items()}


def by_hand(trunk, weights):
    """Each task's features, given the weights of the parents for two depths and of the last nodes for each task."""
    nodes = [[node.module for node in level.values()] for level in trunk.levels.values()]
    outputs = [node(INPUTS) for node in nodes[0]]
    for level, row_weights in zip(nodes[1:], weights, strict=False):
        outputs = [
            node(sum(w * o for w, o in zip(row, outputs, strict=True)))
            for node, row in zip(level, row_weights, strict=True)
        ]
    last = torch.stack(outputs)
    return {task: torch.einsum("n,nbd->bd", w[0], last) for task, w in zip(trunk.tasks, weights[2:], strict=True)}


def all_choices(trunk):
    return [*trunk.parents.values(), *trunk.ends.values()]


def test_it_has_n_copies_of_each_stage_and_the_scores(encoder):
    for count, nodes in ((3, None), (2, 2)):
        trunk = trunk_of(encoder, nodes=nodes)
        stages = count * sum(STAGE_SIZES.values())
        assert sum(p.numel() for p in trunk.parameters()) == stages + 2 * count * count + 3 * count


def test_each_stage_may_have_its_own_number_of_nodes(encoder):
    trunk = trunk_of(encoder, nodes=[1, 2, 4])
    bottom, middle, top = STAGE_SIZES.values()
    # The nodes of the second depth have one parent, so there is nothing to choose.
    assert sum(p.numel() for p in trunk.parameters()) == bottom + 2 * middle + 4 * top + 4 * 2 + 3 * 4
    assert [len(table.columns) for table in trunk.learned().values()] == [2, 4, 3]


def test_one_node_is_hard_sharing(encoder):
    expected = encoder(INPUTS).values
    trunk = trunk_of(encoder, nodes=1)
    assert sum(p.numel() for p in trunk.parameters()) == sum(STAGE_SIZES.values())
    for progress in (0.0, 1.0):
        trunk.set_progress(progress)
        for training in (True, False):
            for values in values_of(trunk.train(training)).values():
                torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("training", [True, False])
def test_in_the_warm_up_all_nodes_are_mixed_by_their_probabilities(encoder, training):
    trunk = with_scores(trunk_of(encoder)).train(training)
    trunk.set_progress(0.09)
    expected = by_hand(trunk, [(10 * choices.scores).softmax(1) for choices in all_choices(trunk)])
    torch.testing.assert_close(values_of(trunk), expected)


@pytest.mark.parametrize("straight_through", [True, False])
def test_after_the_warm_up_parents_are_drawn(encoder, straight_through):
    trunk = with_scores(trunk_of(encoder, straight_through=straight_through, temperature=2.0, final_temperature=0.5))
    trunk.set_progress(0.55)
    torch.manual_seed(4)
    found = values_of(trunk)
    torch.manual_seed(4)
    weights = [(10 * choices.scores + gumbel(*choices.scores.shape)).softmax(1) for choices in all_choices(trunk)]
    if straight_through:
        weights = [torch.eye(3)[weight.argmax(1)] for weight in weights]
    torch.testing.assert_close(found, by_hand(trunk, weights))
    assert not torch.allclose(found["age"], values_of(trunk)["age"])


def decided(encoder, paths, tasks=TASKS):
    """A trunk whose choices lead the tasks along these paths: the nodes by depth, counted from 0."""
    trunk = trunk_of(encoder, tasks)
    with torch.no_grad():
        for task, (first, second, third) in zip(tasks, paths, strict=True):
            trunk.parents["middle"].scores[second, first] = 1
            trunk.parents["top"].scores[third, second] = 1
            trunk.ends[task].scores[0, third] = 1
    trunk.set_progress(1.0)
    return trunk.eval()


PATHS = [(2, 0, 1), (2, 1, 2), (2, 0, 1)]


def test_in_evaluation_the_likeliest_parents_make_a_tree_that_branching_can_take(encoder):
    trunk = decided(copy.deepcopy(encoder), PATHS)
    tree = {"bottom": [["age", "type", "mood"]], "middle": [["age", "mood"], ["type"]]}
    assert trunk.tree() == {**tree, "top": tree["middle"]}
    assert trunk.paths() == {"age": (3, 1, 2), "type": (3, 2, 3), "mood": (3, 1, 2)}
    fixed = Branching(tree=trunk.tree()).build({"row": encoder}, TASKS)
    for stage in STAGE_SIZES:
        for group in trunk.tree()[stage]:
            node = trunk.paths()[group[0]][trunk.stage_names.index(stage)]
            fixed.levels[stage][group[0]].load_state_dict(trunk.levels[stage][str(node)].state_dict())
    state = torch.get_rng_state()
    torch.testing.assert_close(values_of(trunk), values_of(fixed.eval()))
    assert torch.equal(torch.get_rng_state(), state), "evaluation draws nothing"


def test_a_task_by_itself_and_rows_by_themselves_give_the_same_when_the_choices_are_made(encoder):
    trunk = decided(encoder, PATHS)
    expected = values_of(trunk)
    rows = {"age": torch.tensor([0, 2]), "type": torch.tensor([1, 2, 5]), "mood": torch.tensor([2, 4])}
    torch.testing.assert_close(values_of(trunk, rows=rows), {task: expected[task][rows[task]] for task in TASKS})
    torch.testing.assert_close(values_of(trunk, ["type"], rows)["type"], expected["type"][rows["type"]])
    torch.testing.assert_close(values_of(trunk, ["mood", "type"])["mood"], expected["mood"])


def test_only_nodes_that_are_needed_are_computed_and_once(encoder):
    trunk = decided(encoder, PATHS)
    seen = []
    for stage, level in trunk.levels.items():
        for number, node in level.items():
            node.register_forward_hook(
                lambda _, __, output, name=f"{stage} {number}": seen.append((name, len(output.values)))
            )
    values_of(trunk, rows={"age": torch.tensor([0, 2]), "type": torch.tensor([1, 2, 5]), "mood": torch.tensor([2, 4])})
    assert sorted(seen) == [("bottom 3", 5), ("middle 1", 3), ("middle 2", 3), ("top 2", 3), ("top 3", 3)]
    seen.clear()
    values_of(trunk, ["type"])
    assert [name for name, _ in seen] == ["bottom 3", "middle 2", "top 3"]


def test_parts_say_what_is_reached_in_training_and_on_the_paths(encoder):
    trunk = decided(encoder, PATHS)
    reached = {p: set() for p in trunk.parameters()}
    for task, values in values_of(trunk).items():
        gradients = torch.autograd.grad(values.sum(), list(reached), allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(reached, gradients, strict=True):
            if gradient is not None:
                reached[parameter].add(task)
    told = {p: set(part.tasks) for part in trunk.parts() for p in part.module.parameters()}
    assert told == reached
    names = {part.name: part.tasks for part in trunk.parts()}
    assert names["node 3 of bottom"] == TASKS
    assert names["node 1 of middle"] == ("age", "mood")
    assert names["node 1 of bottom"] == names["parents of top"] == names["node of age"] == ()
    trunk.train()
    assert {part.tasks for part in trunk.parts() if part.depth is not None} == {TASKS}
    assert {part.name: part.tasks for part in trunk.parts()}["node of age"] == ("age",)


def test_what_is_learned_are_the_probabilities_and_the_tree(encoder):
    tables = decided(encoder, PATHS).learned()
    assert list(tables) == ["parents of middle", "parents of top", "nodes of the tasks", "tree"]
    parents = tables["parents of top"]
    assert parents.rows == ("top 1", "top 2", "top 3")
    assert parents.columns == ("middle 1", "middle 2", "middle 3")
    torch.testing.assert_close(parents.values[1], torch.tensor([10.0, 0, 0]).softmax(0))
    assert tables["nodes of the tasks"].rows == TASKS
    assert tables["tree"].values.tolist() == [[3, 1, 2], [3, 2, 3], [3, 1, 2]]
    assert tables["tree"].columns == ("bottom", "middle", "top")


def test_nodes_start_from_other_weights_unless_these_are_pretrained(encoder):
    first, second, _ = trunk_of(encoder).levels["top"].values()
    assert not torch.equal(first.module[0].weight, second.module[0].weight)
    encoder.pretrained = True
    first, second, _ = trunk_of(encoder).levels["top"].values()
    assert torch.equal(first.module[0].weight, second.module[0].weight)


def test_a_loaded_trunk_evaluates_as_the_saved_one(encoder):
    trunk = with_scores(trunk_of(encoder))
    trunk.set_progress(0.5)
    again = trunk_of(encoder)
    again.load_state_dict(trunk.state_dict())
    torch.testing.assert_close(values_of(again.eval()), values_of(trunk.eval()))


def test_features_of_every_kind_are_mixed():
    weights = torch.tensor([[0.2, 0.8], [1.0, 0.0], [-1.0, 3.0]])
    mask = torch.ones(2, 5, dtype=torch.bool)
    for shape in ((2, 4), (2, 5, 4), (2, 4, 3, 5)):
        one, other = torch.randn(shape), torch.randn(shape)
        found = mixtures([Features(one, mask), Features(other, mask)], weights)
        for features, (a, b) in zip(found, weights, strict=True):
            torch.testing.assert_close(features.values, a * one + b * other)
            assert features.mask is mask


def groups_of_tasks(rows, seed):
    """Two families of tasks, each with functions of its own, too many for one narrow network."""
    same = torch.Generator().manual_seed(99)
    inputs = torch.randn(rows, 10, generator=torch.Generator().manual_seed(seed))
    targets = {}
    for family in "ab":
        hidden = (inputs @ torch.randn(10, 4, generator=same) / 10**0.5).relu()
        for number in "12":
            direction = torch.randn(4, generator=same)
            targets[family + number] = hidden @ direction / direction.norm()
    return Data(inputs, targets)


def test_it_gives_tasks_room_that_one_network_cannot_serve():
    train, test = groups_of_tasks(2000, 1), groups_of_tasks(2000, 2)
    found = {}
    for name in ("hard", "ltb"):
        torch.manual_seed(2)
        found[name] = share_of_variance(*trained(sharing.create(name), Dense(10, 5, 5), train, steps=200), test)
    assert found["ltb"] < 0.5 * found["hard"], found


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (0, "ltb: nodes is 0, but a depth has at least 1"),
        ([2, -1, 2], "ltb: nodes is -1, but a depth has at least 1"),
        ([], "ltb: nodes is an empty list, but must have a number for each stage"),
    ],
)
def test_numbers_of_nodes_that_make_no_sense_are_refused(nodes, message):
    with pytest.raises(UserError, match=message):
        sharing.create("ltb", nodes=nodes)


def test_a_list_of_another_length_than_the_encoder_is_refused(encoder):
    message = "ltb: nodes has 2 numbers, but Layers has 3 stages: bottom, middle, top. Give one number for each"
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, nodes=[1, 2])
