import copy
import pickle

import pytest
import torch
from torch import nn

from polytask import MultiTaskModel, UserError, balancing
from polytask.balancing import gramian
from polytask.balancing.graph import Graph
from polytask.components import Family
from polytask.data.batch import Batch
from polytask.encoders import FeatureShape
from polytask.encoders.encoder import Encoder, Stage
from polytask.sharing import Hard, relations
from polytask.sharing.relations import Cascade, CrossTaskAttention, Relation, RelationLayer
from polytask.sharing.rows import union_of, within
from polytask.tasks import Classification, MultiLabel, Regression

ROWS = 8


class Layers(Encoder):
    """Two linear stages, 4 -> 6 -> 5."""

    modality = "tabular"

    def __init__(self, width=5):
        super().__init__(
            {
                "bottom": Stage(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), FeatureShape("vector", 6)),
                "top": Stage(nn.Sequential(nn.Linear(6, width), nn.Tanh()), FeatureShape("vector", width)),
            }
        )


def tasks():
    return [
        Classification("kind", classes=3),
        Regression(["x", "y"], name="place", mean=[1.0, 2.0], std=[3.0, 4.0]),
        MultiLabel("tags", classes=4),
        Regression("cost"),
    ]


OUTPUTS = {"kind": 3, "place": 2, "tags": 4, "cost": 1}


def model_of(*used, share_until=None):
    torch.manual_seed(0)
    return MultiTaskModel({"row": Layers()}, tasks(), Hard(share_until), used).double()


def batch_of(masks=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = {
        "kind": torch.randint(3, (ROWS,), generator=draw),
        "place": torch.randn(ROWS, 2, dtype=torch.float64, generator=draw),
        "tags": torch.randint(2, (ROWS, 4), generator=draw).double(),
        "cost": torch.randn(ROWS, 1, dtype=torch.float64, generator=draw),
    }
    full = {task: torch.ones_like(target, dtype=torch.bool) for task, target in targets.items()}
    inputs = {"row": torch.randn(ROWS, 4, dtype=torch.float64, generator=draw)}
    return Batch.of(inputs, targets, {**full, **(masks or {})}, torch.arange(ROWS))


def labelled(task, rows):
    mask = torch.zeros(ROWS, dtype=torch.bool)
    mask[rows] = True
    return {task: mask if task == "kind" else mask[:, None].expand(ROWS, OUTPUTS[task])}


def cut(batch, rows):
    """A batch of some rows alone."""
    return Batch.of(
        {"row": batch.inputs["row"][rows]},
        {task: target[rows] for task, target in batch.targets.items()},
        {task: mask[rows] for task, mask in batch.masks.items()},
        batch.rows[rows],
    )


def gradients(model, loss):
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def perturb(model):
    """Take parameters away from where they start: a layer that starts at 0 hides what is before it."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# -- the formulas -------------------------------------------------------------------------------------------------


def test_a_cascade_reads_predictions_beside_its_own_features():
    model, inputs = model_of(Cascade(task="cost", reads=["kind", "place", "tags"])), batch_of().inputs
    trunk = model.trunk(inputs, ["cost"], {}).features["cost"].values
    heads = model.heads
    predictions = [heads["kind"](trunk).softmax(1), heads["place"](trunk), heads["tags"](trunk).sigmoid()]
    assert heads["cost"].in_features == 5 + 3 + 2 + 4
    torch.testing.assert_close(model(inputs)["cost"], heads["cost"](torch.cat([trunk, *predictions], 1)))
    torch.testing.assert_close(model(inputs)["kind"], heads["kind"](trunk))


@pytest.mark.parametrize(("use", "width"), [("features", 5 + 5), ("both", 5 + 5 + 3)])
def test_a_cascade_reads_features(use, width):
    model = model_of(Cascade(use=use, task="cost", reads="kind"), share_until=0)
    inputs = batch_of().inputs
    own, other = (model.trunk(inputs, [task], {}).features[task].values for task in ("cost", "kind"))
    probabilities = model.heads["kind"](other).softmax(1)
    read = [own, other] if use == "features" else [own, other, probabilities]
    assert model.heads["cost"].in_features == width
    torch.testing.assert_close(model(inputs)["cost"], model.heads["cost"](torch.cat(read, 1)))


def test_a_chain_reads_what_was_read_before():
    model = model_of(Cascade(task="cost", reads="place", use="features"), Cascade(task="place", reads="kind"))
    inputs = batch_of().inputs
    trunk = model.trunk(inputs, ["cost"], {}).features["cost"].values
    place = torch.cat([trunk, model.heads["kind"](trunk).softmax(1)], 1)
    torch.testing.assert_close(model(inputs)["place"], model.heads["place"](place))
    torch.testing.assert_close(model(inputs)["cost"], model.heads["cost"](torch.cat([trunk, place], 1)))
    assert model.relations.order.index("kind") < model.relations.order.index("place")
    assert model.relations.order.index("place") < model.relations.order.index("cost")


@pytest.mark.parametrize(("dim", "heads"), [(None, 1), (6, 1), (6, 3)])
@pytest.mark.parametrize("reads", [["kind"], ["kind", "place"]])
def test_attention_follows_its_formula(dim, heads, reads):
    model = perturb(model_of(CrossTaskAttention(dim, heads, task="cost", reads=reads), share_until=0))
    inputs = batch_of().inputs
    features = {task: model.trunk(inputs, [task], {}).features[task].values for task in ("cost", *reads)}
    (layer,) = model.relations.layers.values()
    size = (dim or 5) // heads
    rows = []
    for row in range(ROWS):
        taken = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query = layer.query(features["cost"][row])[part]
            scores = [query @ layer.keys[task](features[task][row])[part] / size**0.5 for task in reads]
            weights = torch.stack([*scores, torch.zeros((), dtype=torch.float64)]).softmax(0)
            values = [layer.values[task](features[task][row])[part] for task in reads]
            taken.append(sum(weight * value for weight, value in zip(weights, values, strict=False)))
        rows.append(features["cost"][row] + layer.out(torch.cat(taken)))
    torch.testing.assert_close(model(inputs)["cost"], model.heads["cost"](torch.stack(rows)))


def test_attention_starts_as_without_it():
    plain, related = model_of(), model_of(CrossTaskAttention(task="cost", reads=["kind", "tags"], heads=5))
    related.load_state_dict(plain.state_dict(), strict=False)
    inputs = batch_of().inputs
    for task, output in plain(inputs).items():
        assert torch.equal(related(inputs)[task], output)


@pytest.mark.parametrize(("dim", "reads"), [(None, 1), (8, 1), (8, 3)])
def test_the_number_of_parameters_of_attention(dim, reads):
    relation = CrossTaskAttention(dim, task="cost", reads=["kind", "place", "tags"][:reads])
    own, inner = 5, dim or 5
    expected = (own * inner + inner) + reads * 2 * (own * inner + inner) + (inner * own + own)
    assert sum(p.numel() for p in model_of(relation).relations.parameters()) == expected
    assert not list(model_of(Cascade(task="cost", reads="kind")).relations.parameters())


def test_attention_reports_its_mean_weights():
    model, batch = model_of(CrossTaskAttention(task="cost", reads=["kind", "tags"])), batch_of()
    assert list(model.learned()) == ["attention of cost"]
    torch.testing.assert_close(model.learned()["attention of cost"].values, torch.full((1, 3), 1 / 3).double())
    perturb(model).losses(batch)
    values, rows, columns = model.learned()["attention of cost"]
    assert (rows, columns) == (("cost",), ("kind", "tags", "(no task)"))
    assert values.sum().item() == pytest.approx(1)
    assert values[0, 0].item() != pytest.approx(1 / 3, abs=1e-3)
    before = values.clone()
    model.eval()(batch_of(seed=3).inputs)
    torch.testing.assert_close(model.learned()["attention of cost"].values, before)
    assert not values.requires_grad


# -- what a loss reaches ------------------------------------------------------------------------------------------

USES = [
    [Cascade(task="cost", reads="kind")],
    [Cascade(task="cost", reads="kind", detach=True)],
    [Cascade(task="cost", reads="kind", use="features")],
    [Cascade(task="cost", reads="kind", use="both")],
    [Cascade(task="kind", reads="cost")],
    [CrossTaskAttention(task="cost", reads=["kind", "tags"])],
    [CrossTaskAttention(task="cost", reads=["kind", "tags"], detach=True)],
    [Cascade(task="place", reads="kind"), Cascade(task="cost", reads="place")],
    [Cascade(task="place", reads="kind"), Cascade(task="cost", reads="place", detach=True)],
    [Cascade(task="place", reads="kind", detach=True), Cascade(task="cost", reads="place", use="features")],
    [CrossTaskAttention(task="place", reads="kind"), CrossTaskAttention(task="cost", reads=["place", "tags"])],
    [CrossTaskAttention(task="place", reads="kind", detach=True), Cascade(task="tags", reads=["place", "kind"])],
    [Cascade(task="cost", reads="kind"), Cascade(task="cost", reads=["kind", "tags"], use="features", detach=True)],
]  # fmt: skip
every_use = pytest.mark.parametrize(
    "used", USES, ids=lambda used: "-".join(f"{r.task}<{'+'.join(r.reads)}" for r in used)
)
every_cut = pytest.mark.parametrize("share_until", [None, "bottom", 0])


@every_use
@every_cut
def test_what_is_shared_is_what_several_losses_reach(used, share_until):
    model = model_of(*used, share_until=share_until)
    graph = Graph(list(model.losses(batch_of()).values()))
    assert set(graph.shared()) == set(model.shared_parameters())
    assert len(model.shared_parameters()) == len(set(model.shared_parameters()))
    parts = model.parts()
    assert sorted(map(id, (p for part in parts for p in part.module.parameters()))) == sorted(
        map(id, model.parameters())
    )
    for index, task in enumerate(model.task_names):
        reached = {p for part in parts if part.tasks == (task,) for p in part.module.parameters()}
        assert set(graph.own(index)) == reached
    for index, task in enumerate(model.task_names):
        reached = {p for part in parts if task in part.tasks for p in part.module.parameters()}
        alone = Graph([list(model.losses(batch_of()).values())[index]])
        assert set(alone.own(0)) == reached


@every_cut
def test_a_detached_relation_leaves_what_is_read_alone(share_until):
    detached = perturb(model_of(Cascade(task="cost", reads="kind", detach=True), share_until=share_until))
    plain = model_of(share_until=share_until)
    state = {key: value for key, value in detached.state_dict().items() if key in plain.state_dict()}
    plain.load_state_dict({**state, **{k: v for k, v in plain.state_dict().items() if k.startswith("heads.cost")}})
    losses = detached.losses(batch_of())
    assert not any(
        g.any()
        for g in torch.autograd.grad(
            losses["cost"], detached.heads["kind"].parameters(), retain_graph=True, allow_unused=True
        )
        if g is not None
    )
    torch.testing.assert_close(
        torch.autograd.grad(losses["kind"], detached.heads["kind"].parameters()),
        torch.autograd.grad(plain.losses(batch_of())["kind"], plain.heads["kind"].parameters()),
    )


def test_a_relation_that_is_not_detached_trains_what_is_read():
    model = perturb(model_of(Cascade(task="cost", reads="kind"), share_until=0))
    loss = model.losses(batch_of())["cost"]
    loss.backward()
    assert model.heads["kind"].weight.grad.any()
    (first,) = [part.module for part in model.trunk.parts() if part.tasks == ("kind",) and part.depth == 0]
    assert all(parameter.grad.any() for parameter in first.parameters())


# -- rows ---------------------------------------------------------------------------------------------------------


@every_use
@every_cut
def test_a_loss_is_that_of_its_labelled_rows_alone(used, share_until):
    model = perturb(model_of(*used, share_until=share_until))
    rows = {"kind": [0, 2, 3], "place": [1, 2, 6], "tags": [0, 1, 2, 3, 4, 5, 6, 7], "cost": [3, 6, 7]}
    masks = {}
    for task, chosen in rows.items():
        masks |= labelled(task, chosen)
    batch = batch_of(masks)
    losses = model.losses(batch)
    for task, chosen in rows.items():
        expected = model.losses(cut(batch, torch.tensor(chosen)))[task]
        torch.testing.assert_close(losses[task], expected)
        torch.testing.assert_close(gradients(model, losses[task]), gradients(model, expected))


@every_use
@every_cut
def test_a_row_without_a_label_changes_no_gradient(used, share_until):
    model = perturb(model_of(*used, share_until=share_until))
    others = [0, 1, 2, 4, 5, 6, 7]
    masks = {}
    for task in OUTPUTS:
        masks |= labelled(task, others)
    batch, changed = batch_of(masks), batch_of(masks)
    changed.inputs["row"][3] = 1000
    for target in changed.targets.values():
        target[3] = 1
    expected = gradients(model, sum(model.losses(batch).values()))
    assert all(map(torch.equal, gradients(model, sum(model.losses(changed).values())), expected))


def test_a_row_that_is_labelled_for_the_reader_alone_changes_what_is_read_through_the_relation_only():
    for detach in (True, False):
        model = perturb(model_of(Cascade(task="cost", reads="kind", detach=detach), share_until=0))
        masks = {
            **labelled("kind", [0, 1, 2]),
            **labelled("cost", [2, 3]),
            **labelled("place", []),
            **labelled("tags", []),
        }
        losses = model.losses(batch_of(masks))
        changed = batch_of(masks)
        changed.inputs["row"][3] = 1
        others = model.losses(changed)
        torch.testing.assert_close(losses["kind"], others["kind"])
        torch.testing.assert_close(gradients(model, losses["kind"]), gradients(model, others["kind"]))
        head = list(model.heads["kind"].parameters())
        reached = torch.autograd.grad(losses["cost"], head, allow_unused=True)
        assert all((gradient is None) == detach for gradient in reached)


def test_a_task_that_is_read_needs_no_label():
    model = perturb(model_of(Cascade(task="cost", reads="kind"), share_until=0))
    losses = model.losses(batch_of({**labelled("kind", []), **labelled("cost", [1, 4])}))
    assert list(losses) == ["place", "tags", "cost"]
    losses["cost"].backward()
    assert model.heads["kind"].weight.grad.any()


@every_use
@every_cut
def test_a_task_by_itself_and_rows_by_themselves_give_the_same(used, share_until):
    model, inputs = perturb(model_of(*used, share_until=share_until)).eval(), batch_of().inputs
    expected = model(inputs)
    for task in OUTPUTS:
        alone = model(inputs, [task])
        assert list(alone) == [task]
        torch.testing.assert_close(alone[task], expected[task])
    rows = {"kind": torch.tensor([5, 2]), "cost": torch.tensor([7, 0, 2]), "place": torch.tensor([1])}
    part = model(inputs, ["cost", "kind", "place", "tags"], rows)
    assert list(part) == ["cost", "kind", "place", "tags"]
    for task, output in part.items():
        torch.testing.assert_close(output, expected[task][rows.get(task, torch.arange(ROWS))])


def test_rows_of_a_task_that_is_not_wanted_do_not_matter():
    model, inputs = model_of(Cascade(task="cost", reads="kind")), batch_of().inputs
    found = model(inputs, ["cost"], {"cost": torch.tensor([1]), "kind": torch.tensor([7, 3])})
    torch.testing.assert_close(found["cost"], model(inputs)["cost"][[1]])


def test_only_what_is_needed_is_computed():
    model, inputs = model_of(Cascade(task="cost", reads="kind"), Cascade(task="place", reads="tags")), batch_of().inputs
    called = []
    for task, head in model.heads.items():
        head.register_forward_hook(lambda *_, task=task: called.append(task))
    model(inputs, ["cost"])
    assert called == ["kind", "cost"]
    called.clear()
    model(inputs, ["kind"])
    assert called == ["kind"]
    model = model_of(Cascade(task="cost", reads="kind", use="features"), share_until=0)
    model.heads["kind"].register_forward_hook(lambda *_: pytest.fail("the prediction is not read"))
    model(inputs, ["cost"])


def test_sets_of_rows():
    one, other = torch.tensor([3, 1]), torch.tensor([1, 5])
    assert union_of([one, None]) is None
    assert union_of([one]) is one
    assert union_of([one, one]) is one
    assert union_of([one, other]).tolist() == [1, 3, 5]
    assert within(None, one) is None
    assert within(one, one) is None
    assert within(one, None) is one
    assert within(one, torch.tensor([1, 3, 5])).tolist() == [1, 0]


# -- with the rest ------------------------------------------------------------------------------------------------


@every_use
@pytest.mark.parametrize("share_until", [None, 0])
@pytest.mark.parametrize("apart", [False, True])
def test_the_gramian_is_that_of_the_tasks_gradients(used, share_until, apart):
    model = perturb(model_of(*used, share_until=share_until))
    rows = {"kind": [0, 1], "place": [2, 3], "tags": [4, 5], "cost": [6, 7]}
    masks = {}
    for task, chosen in rows.items() if apart else ():
        masks |= labelled(task, chosen)
    batch = batch_of(masks)
    shared = model.shared_parameters()
    if not shared:
        return
    jacobian = []
    for loss in model.losses(batch).values():
        found = torch.autograd.grad(loss, shared, allow_unused=True, retain_graph=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, found, strict=True)]
        jacobian.append(torch.cat([part.flatten() for part in parts]))
    jacobian = torch.stack(jacobian)
    torch.testing.assert_close(gramian(model.losses(batch), shared), jacobian @ jacobian.T)
    samples = {task: torch.tensor(chosen) for task, chosen in rows.items()} if apart else None
    balancer = balancing.create("upgrad")
    balancer.backward(model.losses(batch), shared, samples=samples)
    weights = balancing.create("upgrad").weights(jacobian @ jacobian.T)
    update = torch.cat([parameter.grad.flatten() for parameter in shared])
    torch.testing.assert_close(update, weights.to(jacobian) @ jacobian, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["graddrop", "mgda", "famo", "gradnorm"])
def test_balancers_work(method):
    model = model_of(CrossTaskAttention(task="place", reads="kind"), Cascade(task="cost", reads=["place", "tags"]))
    balancer = balancing.create(method)
    balancer.prepare(model.task_names)
    balancer.backward(model.losses(batch_of()), model.shared_parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_state_and_copies_are_complete():
    used = [CrossTaskAttention(task="place", reads="kind"), Cascade(task="cost", reads="place", use="both")]
    model, batch = perturb(model_of(*used)), batch_of()
    model.losses(batch)
    again = model_of(*used)
    again.load_state_dict(model.state_dict())
    expected = model.eval()(batch.inputs)
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.eval()(batch.inputs), expected)
        ((_, table),) = other.learned().items()
        torch.testing.assert_close(table.values, model.learned()["attention of place"].values)


def test_half_precision():
    model = model_of(Cascade(task="cost", reads="kind", use="both"), CrossTaskAttention(task="place", reads="tags"))
    batch = batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.float()({"row": batch.inputs["row"].float()})
    assert all(output.isfinite().all() for output in outputs.values())


def test_several_attentions_have_tables_of_their_own():
    model = model_of(CrossTaskAttention(task="cost", reads="kind"), CrossTaskAttention(task="cost", reads="tags"))
    assert list(model.learned()) == ["attention of cost", "attention of cost (relation 2)"]


def test_a_model_without_relations_has_no_more_than_before():
    model = model_of()
    assert not model.relations
    assert not any("relations" in name for name in model.state_dict())
    assert model.learned() == {}


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: Cascade(task="a", reads=[]), "'a' is to read others, but 'reads' is an empty list"),
        (lambda: Cascade(task="a", reads=["b", "b"]), "'a' reads a task twice: 'b', 'b'"),
        (lambda: Cascade(task="a", reads=["b", "a"]), "'a' reads itself"),
        (
            lambda: Cascade("logits", task="a", reads="b"),
            "cannot use 'logits'. Allowed: 'prediction', 'features', 'both'",
        ),
        (lambda: CrossTaskAttention(0, task="a", reads="b"), "dim is 0, but must be at least 1"),
        (lambda: CrossTaskAttention(heads=0, task="a", reads="b"), "heads is 0, but must be at least 1"),
        (lambda: CrossTaskAttention(6, 4, task="a", reads="b"), "dim is 6, but must be a multiple of heads, 4"),
        (
            lambda: model_of(CrossTaskAttention(heads=3, task="cost", reads="kind")),
            r"the task 'cost' has 5 features, which is no multiple of heads \(3\). Give dim",
        ),
        (
            lambda: model_of(Cascade(task="costs", reads="kind")),
            r"relations\[0\]\.task: there is no task 'costs'. Did you mean 'cost'\? The tasks: 'kind', 'place', ",
        ),
        (
            lambda: model_of(Cascade(task="tags", reads="kind"), Cascade(task="cost", reads=["kind", "palce"])),
            r"relations\[1\]\.reads: there is no task 'palce'. Did you mean 'place'\?",
        ),
        (
            lambda: model_of(Cascade(task="tags", reads="kind"), Cascade(task="kind", reads="tags")),
            r"relations\[1\]: the tasks read each other in a circle: 'tags' reads 'kind', 'kind' reads 'tags'. Each",
        ),
        (
            lambda: model_of(
                CrossTaskAttention(task="kind", reads=["cost", "tags"]),
                Cascade(task="place", reads="kind"),
                Cascade(task="cost", reads="place", detach=True),
            ),
            r"in a circle: 'place' reads 'kind', 'cost' reads 'place', 'kind' reads 'cost'\.",
        ),
    ],
)
def test_what_cannot_be_is_the_users_error(build, problem):
    with pytest.raises(UserError, match=problem):
        build()


def test_the_family_has_its_members():
    assert isinstance(relations.family, Family)
    assert relations.names() == ("cascade", "cross_task_attention")
    assert relations.create("cascade", task="a", reads="b").reads == ("b",)


class Sum(Relation):
    """A user's own: adds what is read up."""

    def build(self, own, read):
        class Layer(RelationLayer):
            def forward(self, own, read):
                return own._replace(values=own.values + sum(given.features.values for given in read.values()))

        return Layer(own)


def test_a_relation_of_the_users_own():
    model, inputs = model_of(Sum("cost", ["kind", "tags"]), share_until=0), batch_of().inputs
    features = {task: given.values for task, given in model.trunk(inputs, tuple(OUTPUTS), {}).features.items()}
    expected = model.heads["cost"](features["cost"] + features["kind"] + features["tags"])
    torch.testing.assert_close(model(inputs)["cost"], expected)


# -- learning -----------------------------------------------------------------------------------------------------


def rare(rows, labels, seed):
    """`rare = often + 0.5 x5`, with a few labels; `often` is a hard function of the inputs, but always labelled."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 6, generator=draw)
    often = inputs[:, :1] * inputs[:, 1:2] + inputs[:, 2:3] * inputs[:, 3:4]
    targets = {"often": often, "rare": often + 0.5 * inputs[:, 4:5]}
    masks = {"often": torch.ones(rows, 1, dtype=torch.bool), "rare": (torch.arange(rows) < labels).unsqueeze(1)}
    return Batch.of({"row": inputs}, targets, masks, torch.arange(rows))


class Wide(Encoder):
    modality = "tabular"

    def __init__(self):
        sizes = {"bottom": (6, 24), "top": (24, 24)}
        super().__init__(
            {
                name: Stage(nn.Sequential(nn.Linear(*size), nn.ReLU()), FeatureShape("vector", size[1]))
                for name, size in sizes.items()
            }
        )


def error_of(relation):
    train, test = rare(400, 40, seed=10), rare(1000, 1000, seed=1000)
    torch.manual_seed(0)
    pair = [Regression("often", std=[1.4], mean=[0.0]), Regression("rare", std=[1.5], mean=[0.0])]
    model = MultiTaskModel({"row": Wide()}, pair, Hard(0), [] if relation is None else [relation])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        sum(model.losses(train).values()).backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval().losses(test)["rare"].item()


def test_a_task_with_few_labels_learns_from_what_it_reads():
    alone = error_of(None)
    assert alone > 0.2
    for relation in (
        Cascade(task="rare", reads="often", detach=True),
        Cascade(task="rare", reads="often", use="features"),
        CrossTaskAttention(task="rare", reads="often"),
    ):
        assert error_of(relation) < 0.7 * alone, relation
