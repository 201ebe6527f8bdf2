"""What holds for every sharing scheme, over every kind of encoder."""

import copy
import inspect
from typing import get_type_hints

import pytest
import torch

from polytask import balancing, sharing
from polytask.balancing.graph import Graph
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.tasks import Classification, Regression

from ..encoders.cases import CASES, ROWS
from .schemes import CHOOSING, ENCODERS, OF_EACH_KIND, REFUSED, SCHEMES, TASKS, case_of


def table_encoder(scheme):
    """An encoder for tables that goes with the scheme."""
    return "tabular_resnet" if (scheme, "mlp") in REFUSED else "mlp"


def trunk_of(scheme, encoder=None, tasks=TASKS):
    encoder = encoder or table_encoder(scheme)
    name, parameters = SCHEMES[scheme]
    case = case_of(encoder)
    built = case.build()
    torch.manual_seed(1)
    return sharing.create(name, **parameters).build({"input": built}, tasks), {"input": case.inputs()}


pairs = pytest.mark.parametrize(
    ("scheme", "encoder"),
    [
        (scheme, encoder)
        for scheme in SCHEMES
        for encoder in (ENCODERS if scheme in sharing.names() else OF_EACH_KIND)
        if (scheme, encoder) not in REFUSED
    ],
)
schemes = pytest.mark.parametrize("scheme", SCHEMES)


def in_reach(trunk, scheme):
    """The trunk in evaluation; in training where losses reach choices only while these are drawn."""
    if SCHEMES[scheme][0] not in CHOOSING:
        return trunk.eval()
    trunk.set_progress(1.0)
    return trunk.train()


def features_of(trunk, inputs, tasks=TASKS, rows=None):
    return {task: features.values for task, features in trunk(inputs, tasks, rows or {}).features.items()}


@pairs
def test_every_task_gets_a_vector_of_the_shape_that_is_announced(scheme, encoder):
    trunk, inputs = trunk_of(scheme, encoder)
    found = features_of(trunk.eval(), inputs)
    assert list(found) == list(TASKS)
    for task, values in found.items():
        assert trunk.shape(task).kind == "vector"
        assert values.shape == (ROWS, trunk.shape(task).width)
        assert values.isfinite().all()


@pairs
def test_each_parameter_belongs_to_one_part_and_is_reached_by_the_tasks_of_this_part(scheme, encoder):
    trunk, inputs = trunk_of(scheme, encoder)
    named = {parameter: name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    expected = {}
    for part in trunk.parts():
        assert set(part.tasks) <= set(TASKS)
        for parameter in part.module.parameters():
            if parameter.requires_grad:
                assert parameter not in expected, f"{named[parameter]} is in two parts"
                expected[parameter] = set(part.tasks)
    assert set(expected) == set(named), "parameters in no part"
    reached = {parameter: set() for parameter in named}
    for task, values in features_of(in_reach(trunk, scheme), inputs).items():
        gradients = torch.autograd.grad(values.sum(), list(named), allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                reached[parameter].add(task)
    wrong = {named[p]: (sorted(reached[p]), sorted(expected[p])) for p in named if reached[p] != expected[p]}
    assert not wrong
    of_no_task = [parameter for parameter, tasks in expected.items() if not tasks]
    if of_no_task:
        # Rows of their own for each task: where all have the same, there is nothing to tell tasks apart by.
        rows = {task: torch.arange(first, ROWS, len(TASKS)) for first, task in enumerate(TASKS)}
        penalty = sum(trunk.train()(inputs, TASKS, rows).penalties.values())
        gradients = torch.autograd.grad(penalty, of_no_task, allow_unused=True)
        assert not [named[p] for p, gradient in zip(of_no_task, gradients, strict=True) if gradient is None]
    shared = {parameter for parameter, tasks in expected.items() if len(tasks) > 1}
    assert {parameter for parameter in trunk.shared_parameters() if parameter.requires_grad} == shared


@pairs
def test_a_task_by_itself_and_rows_by_themselves_give_the_same(scheme, encoder):
    trunk, inputs = trunk_of(scheme, encoder)
    trunk.eval()
    rows = torch.tensor([0, 2, 3])
    with torch.no_grad():
        expected = features_of(trunk, inputs)
        for task in TASKS:
            alone = features_of(trunk, inputs, [task])
            assert list(alone) == [task]
            torch.testing.assert_close(alone[task], expected[task], rtol=1e-4, atol=1e-5)
        part = features_of(trunk, inputs, TASKS, {TASKS[0]: rows, TASKS[1]: rows[:2]})
    for task, chosen in zip(TASKS, (rows, rows[:2], torch.arange(ROWS)), strict=True):
        torch.testing.assert_close(part[task], expected[task][chosen], rtol=1e-3, atol=1e-4)


@pairs
def test_penalties_are_scalars_in_training_and_absent_in_evaluation(scheme, encoder):
    trunk, inputs = trunk_of(scheme, encoder)
    trunk.set_progress(0.5)
    for name, penalty in trunk.train()(inputs, TASKS, {}).penalties.items():
        assert name.isidentifier()
        assert penalty.shape == ()
        assert penalty.isfinite()
    assert trunk.eval()(inputs, TASKS, {}).penalties == {}


@schemes
def test_stages_are_there_and_have_a_depth(scheme):
    trunk, _ = trunk_of(scheme)
    names = CASES[table_encoder(scheme)].build().stage_names
    assert trunk.stage_names == names
    depths = {depth for depth, total, _ in trunk.stages()}
    assert depths == set(range(len(names)))
    assert {total for _, total, _ in trunk.stages()} == {len(names)}
    assert trunk.depth_of(names[0]) == 1


@schemes
def test_one_task_alone_shares_nothing(scheme):
    try:
        trunk, inputs = trunk_of(scheme, tasks=TASKS[:1])
    except UserError as error:
        assert scheme.partition("-")[0] in str(error)
        return
    assert not trunk.shared_parameters()
    assert features_of(trunk.train(), inputs, TASKS[:1])[TASKS[0]].isfinite().all()


@schemes
def test_state_and_copies_are_complete(scheme):
    trunk, inputs = trunk_of(scheme)
    with torch.no_grad():
        for tensor in (*trunk.parameters(), *trunk.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    again, _ = trunk_of(scheme)
    again.load_state_dict(trunk.state_dict())
    expected = features_of(trunk.eval(), inputs)
    torch.testing.assert_close(features_of(again.eval(), inputs), expected)
    torch.testing.assert_close(features_of(copy.deepcopy(trunk), inputs), expected)


@schemes
def test_what_is_learned_has_names(scheme):
    trunk, inputs = trunk_of(scheme)
    trunk.train()(inputs, TASKS, {})
    for name, table in trunk.learned().items():
        assert name
        assert table.values.shape == (len(table.rows), len(table.columns))
        assert not table.values.requires_grad
        assert table.values.isfinite().all()


def model_of(scheme):
    name, parameters = SCHEMES[scheme]
    tasks = [Regression(TASKS[0]), Classification(TASKS[1], classes=3), Regression(TASKS[2])]
    built = case_of(table_encoder(scheme)).build()
    torch.manual_seed(1)
    return MultiTaskModel({"input": built}, tasks, sharing.create(name, **parameters))


@schemes
def test_what_is_shared_is_what_several_losses_reach(scheme):
    model, inputs = model_of(scheme), {"input": CASES["mlp"].inputs()}
    model.eval()
    losses = [values.square().sum() for values in model(inputs).values()]
    shared = {parameter for parameter in model.trunk.shared_parameters() if parameter.requires_grad}
    assert set(Graph(losses).shared()) == shared


@schemes
@pytest.mark.parametrize("method", ["upgrad", "graddrop", "mgda"])
def test_gradient_methods_work(scheme, method):
    model, inputs = model_of(scheme).double(), CASES["mlp"].inputs()
    model.eval()
    in_reach(model.trunk, scheme)
    outputs = model({"input": {**inputs, "numeric": inputs["numeric"].double()}})
    losses = {task: values.square().mean() for task, values in outputs.items()}
    balancing.create(method).backward(losses, model.trunk.shared_parameters())
    of_no_task = {p for part in model.trunk.parts() if not part.tasks for p in part.module.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in of_no_task:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", sharing.names())
def test_every_parameter_is_typed_and_documented(name):
    cls = sharing.family.get(name)
    hints = get_type_hints(cls.__init__)
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert parameter.name in hints
            documented = "".join(base.__doc__ or "" for base in cls.__mro__)
            assert f"        {parameter.name}: " in documented


@schemes
def test_several_inputs_are_refused(scheme):
    name, parameters = SCHEMES[scheme]
    encoder = CASES["mlp"].build()
    with pytest.raises(UserError, match="over one encoder, but 2 were given: 'a', 'b'"):
        sharing.create(name, **parameters).build({"a": encoder, "b": encoder}, TASKS)
