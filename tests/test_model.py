import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask import MultiTaskModel, UserError, sharing
from polytask.balancing import Equal
from polytask.balancing.graph import Graph
from polytask.data.batch import Batch
from polytask.encoders import MLP, TabularResNet
from polytask.encoders.encoder import Encoder, Stage
from polytask.features import FeatureShape
from polytask.shapes import TabularShape
from polytask.sharing import Hard, relations
from polytask.sharing.relations import Cascade
from polytask.tasks import Classification, MultiLabel, Regression


class Layers(Encoder):
    """Two linear stages, 4 -> 6 -> 5."""

    modality = "tabular"

    def __init__(self):
        super().__init__(
            {
                "bottom": Stage(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), FeatureShape("vector", 6)),
                "top": Stage(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), FeatureShape("vector", 5)),
            }
        )


TRUNK = (4 * 6 + 6, 6 * 5 + 5)
HEADS = {"type": 5 * 3 + 3, "values": 5 * 2 + 2, "tags": 5 * 4 + 4}


def model_of(share_until=None):
    torch.manual_seed(0)
    tasks = [
        Classification("type", classes=3),
        Regression(["height", "width"], name="values", mean=[1.0, 2.0], std=[3.0, 4.0]),
        MultiLabel("tags", classes=4),
    ]
    return MultiTaskModel({"row": Layers()}, tasks, Hard(share_until)).double()


def batch_of(rows=8, masks=None, seed=0):
    torch.manual_seed(seed)
    targets = {
        "type": torch.randint(3, (rows,)),
        "values": torch.randn(rows, 2, dtype=torch.float64),
        "tags": torch.randint(2, (rows, 4)).double(),
    }
    full = {task: torch.ones_like(target, dtype=torch.bool) for task, target in targets.items()}
    masks = {**full, **(masks or {})}
    return Batch.of({"row": torch.randn(rows, 4, dtype=torch.float64)}, targets, masks, torch.arange(rows))


def gradients(model, loss):
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_every_task_has_an_output_of_its_own_width():
    model = model_of()
    outputs = model(batch_of(8).inputs)
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        "type": (8, 3),
        "values": (8, 2),
        "tags": (8, 4),
    }
    assert model.task_names == ("type", "values", "tags")


def test_only_the_wanted_tasks_and_rows_are_computed():
    model, inputs = model_of(), batch_of(8).inputs
    outputs = model(inputs, ["values"], {"values": torch.tensor([5, 2])})
    assert list(outputs) == ["values"]
    torch.testing.assert_close(outputs["values"], model(inputs)["values"][[5, 2]])


@pytest.mark.parametrize(("share_until", "depth"), [(None, 2), ("bottom", 1), (-1, 1), (0, 0)])
def test_the_number_of_parameters_follows_from_what_is_shared(share_until, depth):
    model = model_of(share_until)
    expected = sum(TRUNK[:depth]) + 3 * sum(TRUNK[depth:]) + sum(HEADS.values())
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("share_until", [None, "bottom", 0])
def test_a_loss_reaches_the_shared_parameters_its_own_stages_and_its_head(share_until):
    model = model_of(share_until)
    losses = model.losses(batch_of())
    found = Graph(list(losses.values()))
    assert set(found.shared()) == set(model.trunk.shared_parameters())
    for index, task in enumerate(losses):
        own = [part.module for part in model.trunk.parts() if part.tasks == (task,)]
        expected = {p for module in (*own, model.heads[task]) for p in module.parameters()}
        assert set(found.own(index)) == expected


@pytest.mark.parametrize("share_until", [None, "bottom", 0])
@pytest.mark.parametrize("detach", [None, True, False])
def test_the_parts_are_all_there_is_with_the_tasks_whose_losses_reach_them(share_until, detach):
    model = model_of(share_until)
    if detach is not None:
        relation = Cascade(task="values", reads="tags", detach=detach)
        tasks = list(model.tasks.values())
        model = MultiTaskModel({"row": Layers()}, tasks, Hard(share_until), [relation]).double()
    found = Graph(list(model.losses(batch_of()).values()))
    parts = model.parts()
    listed = [parameter for part in parts for parameter in part.module.parameters()]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))
    assert set(found.shared()) == set(model.shared_parameters())
    assert set(found.shared()) == {p for part in parts if len(part.tasks) > 1 for p in part.module.parameters()}
    tasks_of = {part.name: part.tasks for part in parts}
    assert tasks_of["head of values"] == ("values",)
    assert tasks_of["head of tags"] == (("values", "tags") if detach is False else ("tags",))
    if detach is not False:
        assert model.shared_parameters() == model.trunk.shared_parameters()


def test_losses_are_those_of_the_tasks():
    model, batch = model_of(), batch_of()
    outputs = model(batch.inputs)
    for task, loss in model.losses(batch).items():
        expected = model.tasks[task].loss(outputs[task], batch.targets[task], batch.masks[task])
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("share_until", [None, "bottom", 0])
def test_a_loss_is_that_of_its_labelled_rows_alone(share_until):
    model = model_of(share_until)
    labelled = torch.tensor([True, False, True, True, False, False, True, False])
    batch = batch_of(masks={"type": labelled, "values": labelled[:, None].expand(8, 2)})
    keep = labelled.nonzero().squeeze(1)
    part = Batch.of(
        {"row": batch.inputs["row"][keep]},
        {task: target[keep] for task, target in batch.targets.items()},
        {task: mask[keep] for task, mask in batch.masks.items()},
        batch.rows[keep],
    )
    losses, expected = model.losses(batch), model.losses(part)
    for task in ("type", "values"):
        torch.testing.assert_close(losses[task], expected[task])
        torch.testing.assert_close(gradients(model, losses[task]), gradients(model, expected[task]))


@pytest.mark.parametrize("share_until", [None, "bottom", 0])
def test_an_unlabelled_row_changes_no_gradient(share_until):
    model = model_of(share_until)
    masks = {
        "type": torch.arange(8) != 3,
        "values": torch.ones(8, 2, dtype=torch.bool).index_fill(0, torch.tensor([3]), False),
        "tags": torch.ones(8, 4, dtype=torch.bool).index_fill(0, torch.tensor([3]), False),
    }
    batch, changed = batch_of(masks=masks), batch_of(masks=masks)
    changed.inputs["row"][3] = 1000
    for target in changed.targets.values():
        target[3] = 1
    Equal().backward(model.losses(batch))
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    Equal().backward(model.losses(changed))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_single_entries_of_a_target_can_be_missing():
    model = model_of()
    mask = torch.ones(8, 2, dtype=torch.bool)
    mask[:, 1] = False
    batch = batch_of(masks={"values": mask})
    head = model.heads["values"]
    loss = model.losses(batch)["values"]
    loss.backward()
    assert loss.isfinite()
    assert head.weight.grad[0].all()
    assert not head.weight.grad[1].any()


def test_a_task_without_a_label_is_absent():
    model = model_of()
    losses = model.losses(batch_of(masks={"type": torch.zeros(8, dtype=torch.bool)}))
    assert list(losses) == ["values", "tags"]
    sum(losses.values()).backward()
    assert model.heads["type"].weight.grad is None


def test_a_loss_carries_no_task_weight():
    model = model_of()
    plain = model.losses(batch_of())
    for task in map(model.tasks.__getitem__, model.tasks):
        task.weight = 100.0
    assert model.losses(batch_of()) == plain


def test_a_model_can_be_saved_and_loaded(tmp_path):
    model, batch = model_of("bottom"), batch_of()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = model_of("bottom")
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for task, output in fresh(batch.inputs).items():
        assert torch.equal(output, model(batch.inputs)[task])
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(batch.inputs)["type"], model(batch.inputs)["type"])


def test_the_default_is_to_share_the_whole_encoder():
    model = MultiTaskModel({"row": Layers()}, [Regression("a"), Regression("b")])
    assert sum(p.numel() for p in model.trunk.shared_parameters()) == sum(TRUNK)


@pytest.mark.parametrize("name", ["type", "values", "float", "keys", "training", "class", "a b", "größe"])
def test_a_task_can_be_called_anything_without_a_dot(name):
    model = MultiTaskModel({"row": Layers()}, [Regression(name), Regression("other")], Hard("bottom"))
    inputs = {"row": torch.ones(2, 4)}
    assert set(model(inputs)) == {name, "other"}
    fresh = MultiTaskModel({"row": Layers()}, [Regression(name), Regression("other")], Hard("bottom"))
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(inputs)[name], model(inputs)[name])


def test_models_without_tasks_or_with_a_name_twice_are_refused():
    with pytest.raises(UserError, match="at least one task"):
        MultiTaskModel({"row": Layers()}, [])
    with pytest.raises(UserError, match="same name: 'a', 'a'"):
        MultiTaskModel({"row": Layers()}, [Regression("a"), Classification("a", classes=2)])
    with pytest.raises(UserError, match=r"'a\.b' cannot name a task"):
        Regression("a.b")


def test_relations_do_not_go_with_a_scheme_that_learns_from_whose_rows_are_whose():
    wanted = [Regression("a"), Regression("b")]
    chain = [relations.create("cascade", task="b", reads=["a"])]
    encoder = MLP(width=4, depth=1, shape=TabularShape(2))
    with pytest.raises(UserError, match="Adversarial learns from which rows are labelled.*Leave out the relations"):
        MultiTaskModel({"row": encoder}, wanted, sharing.Adversarial(), chain)
    MultiTaskModel({"row": encoder}, wanted, sharing.Hard(), chain)


@pytest.mark.parametrize("scheme", sharing.names())
def test_a_batch_without_any_label_has_no_loss(scheme):
    given = {"tree": {-1: "apart"}} if scheme == "branching" else {}
    for tasks in (["a"], ["a", "b"]):
        encoder = TabularResNet(width=4, depth=2, shape=TabularShape(2))
        model = MultiTaskModel({"row": encoder}, [Regression(t) for t in tasks], sharing.create(scheme, **given))
        nothing = {task: torch.zeros(3, 1) for task in tasks}
        inputs = {"row": {"numeric": torch.randn(3, 2), "categorical": torch.zeros(3, 0).long()}}
        batch = Batch.of(inputs, nothing, {t: v.bool() for t, v in nothing.items()}, torch.arange(3))
        for training in (True, False):
            assert model.train(training).objectives(batch) == ({}, {})


@st.composite
def holed_batches(draw):
    """Tasks of several kinds, some with kin, and labels with holes."""
    rows, seed = 7, draw(st.integers(0, 1000))
    torch.manual_seed(seed)
    made = [
        lambda name: Classification(name, classes=3),
        lambda name: Classification(name, classes=3, class_weights={"0": 2.0}),
        lambda name: Regression(["u", "v"], name=name, mean=[1.0, 2.0], std=[3.0, 4.0]),
        lambda name: MultiLabel(name, classes=2),
        lambda name: Regression(name, hidden=[3]),
    ]
    chosen = draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=6))
    tasks = [made[kind](f"t{number}") for number, kind in enumerate(chosen)]
    targets, masks, weights = {}, {}, {}
    for kind, task in zip(chosen, tasks, strict=True):
        shape = {0: (rows,), 1: (rows,), 2: (rows, 2), 3: (rows, 2), 4: (rows, 1)}[kind]
        target = torch.randint(2, shape)
        targets[task.name] = target if kind < 2 else target.double()
        share = draw(st.sampled_from([0.0, 0.5, 1.0]))
        masks[task.name] = torch.rand(shape) < share
        if draw(st.booleans()):
            weights[task.name] = torch.rand(rows, dtype=torch.float64)
    inputs = {"row": torch.randn(rows, 4, dtype=torch.float64)}
    return tasks, Batch.of(inputs, targets, masks, torch.arange(rows), weights)


@settings(max_examples=80, deadline=None)
@given(holed_batches(), st.sampled_from([None, "bottom"]), st.booleans())
def test_together_is_the_same_as_one_by_one(made, share_until, given_totals):
    tasks, batch = made
    torch.manual_seed(0)
    model = MultiTaskModel({"row": Layers()}, tasks, Hard(share_until)).double()
    totals = {name: total + 3 for name, total in model.totals(batch).items()} if given_totals else None
    plain = model.objectives(batch, totals).losses
    together = model.objectives(batch, totals, together=True).losses
    assert list(together) == list(plain)
    if not plain:
        return
    for name, loss in plain.items():
        torch.testing.assert_close(together[name], loss, rtol=1e-10, atol=1e-12)
    factors = torch.arange(1.0, 1.0 + len(plain), dtype=torch.float64)
    sums = [(torch.stack(list(losses.values())) * factors).sum() for losses in (plain, together)]
    for one, other in zip(gradients(model, sums[0]), gradients(model, sums[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_kin_are_computed_in_one_call_where_all_read_the_same_features(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "polytask.model.task_losses.losses_together",
        lambda tasks, *_, **__: calls.append(len(tasks)) or torch.zeros(len(tasks)),
    )
    tasks = [Classification(name, classes=3) for name in "abc"]
    full = torch.ones(4, dtype=torch.bool)
    batch = Batch.of(
        {"row": torch.randn(4, 4)},
        {name: torch.zeros(4, dtype=torch.long) for name in "abc"},
        {"a": full, "b": torch.tensor([True, False, False, True]), "c": full & False},
        torch.arange(4),
    )
    for share_until, expected in ((None, [2]), ("bottom", [])):
        calls.clear()
        model = MultiTaskModel({"row": Layers()}, tasks, Hard(share_until))
        assert list(model.objectives(batch, together=True).losses) == ["a", "b"]
        assert calls == expected
    calls.clear()
    wide = [Classification(name, classes=200_000) for name in "ab"]
    MultiTaskModel({"row": Layers()}, wide).objectives(batch, together=True)
    assert calls == []  # the head for the rows without a label would cost more than it saves
