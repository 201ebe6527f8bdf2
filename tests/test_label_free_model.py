"""Tasks that need no labels beside others in one network."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from polytask import balancing, encoders, sharing
from polytask.data.batch import Batch
from polytask.data.inputs import TabularInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.partial import PartialInput
from polytask.shapes import ImageShape, TabularShape, TextShape
from polytask.sharing.relations import Cascade
from polytask.tasks import Classification, Contrastive, MaskedTokens, Reconstruction, Regression, Rotation
from polytask.training.balanced_step import BalancedStep, _samples

ROWS = 6


def table_batch(seed: int = 0) -> Batch:
    """Two tasks with labels in some rows each, one to restore the row, one with two versions of some rows."""
    draw = torch.Generator().manual_seed(seed)

    def row(rows: int) -> dict[str, torch.Tensor]:
        numbers = torch.randn(rows, 3, generator=draw, dtype=torch.float64)
        return {"numeric": numbers, "categorical": torch.zeros(rows, 0, dtype=torch.int64)}

    there = torch.tensor([0, 2, 3, 5])
    masks = {
        "a": torch.tensor([1, 1, 0, 1, 0, 0]).bool(),
        "b": torch.tensor([0, 0, 1, 0, 1, 1]).bool().unsqueeze(1),
        "whole": torch.ones(ROWS, 3, dtype=torch.bool),
        "pair": torch.zeros(ROWS, dtype=torch.bool).index_fill(0, there, True),
    }
    targets = {
        "a": torch.randint(3, (ROWS,), generator=draw),
        "b": torch.randn(ROWS, 1, generator=draw, dtype=torch.float64),
        "whole": torch.randn(ROWS, 3, generator=draw, dtype=torch.float64),
        "pair": torch.zeros(ROWS),
    }
    views = {
        "whole": ({"row": row(ROWS)},),
        "pair": tuple({"row": PartialInput(row(len(there)), there, ROWS)} for _ in range(2)),
    }
    return Batch.of({"row": row(ROWS)}, targets, masks, torch.arange(ROWS), views=views)


def table_model(scheme=None, relations=()) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [
        Classification("a", classes=3),
        Regression("b"),
        Reconstruction(name="whole", mean=[0.0] * 3),
        Contrastive(name="pair", projection=4),
    ]
    encoder = encoders.MLP(width=5, depth=2, shape=TabularShape(numeric=3))
    return MultiTaskModel({"row": encoder}, tasks, scheme, relations).double()


def test_each_reads_its_own_versions_of_its_own_rows():
    model, batch = table_model(), table_batch()
    losses = model.losses(batch)
    assert list(losses) == ["a", "b", "whole", "pair"]
    whole = model(batch.views["whole"][0], ["whole"])["whole"]
    torch.testing.assert_close(losses["whole"], ((whole - batch.targets["whole"]) ** 2).mean())
    versions = [model({"row": each["row"].values}, ["pair"])["pair"] for each in batch.views["pair"]]
    expected = model.tasks["pair"].loss(torch.stack(versions, dim=1), torch.zeros(4), None)
    torch.testing.assert_close(losses["pair"], expected)
    without = model.losses(batch.without(["whole", "pair"]))
    torch.testing.assert_close({task: losses[task] for task in without}, without)
    answers = model.answers(batch)
    torch.testing.assert_close(answers["whole"], whole)
    assert answers["pair"].shape == (4, 2, 4) and len(answers["a"]) == 3


def test_forward_leaves_them_out_unless_they_are_asked_for():
    model, batch = table_model(), table_batch()
    assert model.predicted == ("a", "b")
    assert list(model(batch.inputs)) == ["a", "b"]
    assert list(model(batch.inputs, ["pair"])) == ["pair"]


@pytest.mark.parametrize("together", [False, True])
def test_parts_of_a_batch_add_up_where_rows_are_independent(together):
    model, batch = table_model(), table_batch().without(["pair"])
    totals = model.totals(batch)
    parts = [batch.part(torch.tensor(rows)) for rows in ([0, 1, 4], [2, 3, 5])]
    found = [model.objectives(part, totals, together=together).losses for part in parts]
    for task, loss in model.losses(batch).items():
        torch.testing.assert_close(sum(each[task] for each in found if task in each), loss)


def test_batches_of_one_part_and_of_fewer_rows_keep_the_versions():
    model, batch = table_model(), table_batch()
    fewer = batch.only(["pair"])
    assert len(fewer) == 4
    torch.testing.assert_close(model.losses(fewer)["pair"], model.losses(batch)["pair"])
    moved = batch.to("cpu").pin_memory() if torch.cuda.is_available() else batch.to("cpu")
    torch.testing.assert_close(model.losses(moved), model.losses(batch))


@pytest.mark.parametrize("method", ["upgrad", "pcgrad"])
@pytest.mark.parametrize("scheme", ["hard", "mmoe", "cross_stitch"])
def test_balanced_gradients_are_those_of_separate_backward_passes(method, scheme):
    batch = table_batch()
    model = table_model(sharing.create(scheme))
    shared = model.shared_parameters()
    losses = model.losses(batch)
    rows = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in losses.values()]
    jacobian = torch.stack(
        [
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(row, shared, strict=True)])
            for row in rows
        ]
    )
    reference = balancing.create(method)
    weights = reference.weights(jacobian @ jacobian.T)
    expected = weights.to(jacobian) @ jacobian
    step = BalancedStep(model, balancing.create(method), dict.fromkeys(losses, 1.0))
    step.backward([batch], shared, None)
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in shared])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_relations_and_adversaries_are_refused():
    with pytest.raises(UserError, match="take 'whole' out of the relations"):
        table_model(relations=[Cascade(task="a", reads=["whole"])])
    table_model(relations=[Cascade(task="a", reads=["b"])]).losses(table_batch())
    with pytest.raises(UserError, match="'whole', 'pair' need no labels"):
        table_model(sharing.create("adversarial"))


def test_a_step_of_them_alone_is_a_step():
    model, batch = table_model(), table_batch().without(["a", "b"])
    objectives = model.objectives(batch, together=True)
    assert list(objectives.losses) == ["whole", "pair"]
    sum(objectives.losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.trunk.parameters())


@pytest.mark.parametrize("name", ["transformer", "bigru"])
def test_tokens_are_told_by_encoders_that_keep_them(name):
    torch.manual_seed(0)
    shape = TextShape(20, 8)
    parameters = {"dim": 8, "depth": 1, "heads": 2} if name == "transformer" else {}
    encoder = encoders.create(name, **parameters, shape=shape)
    tasks = [Classification("a", classes=2), MaskedTokens(name="own", counts=[1] * 20)]
    model = MultiTaskModel({"text": encoder}, tasks)
    text = {"ids": torch.randint(2, 20, (3, 5)), "mask": torch.ones(3, 5, dtype=torch.bool)}
    target = torch.tensor([[[0, 4]], [[3, 5]], [[0, 0]]])
    mask = torch.tensor([[True], [True], [False]])
    batch = Batch.of(
        {"text": text},
        {"a": torch.tensor([0, 1, 1]), "own": target},
        {"a": torch.ones(3, dtype=torch.bool), "own": mask},
        torch.arange(3),
        views={"own": ({"text": text},)},
    )
    losses = model.losses(batch)
    assert losses["own"].isfinite()
    assert len(model.answers(batch)["own"].logits) == 2
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_network_learns_how_images_were_turned():
    torch.manual_seed(0)
    images = torch.randn(256, 1, 8, 8)
    images[:, :, :3] += 1.5
    turns = torch.randint(4, (256,))
    shown = torch.stack([torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)])
    encoder = encoders.CNN(width=8, depth=1, shape=ImageShape(1, 8, 8))
    model = MultiTaskModel({"image": encoder}, [Rotation(name="turned")])
    batch = Batch.of(
        {"image": images},
        {"turned": turns},
        {"turned": torch.ones(256, dtype=torch.bool)},
        torch.arange(256),
        views={"turned": ({"image": shown},)},
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        model.losses(batch)["turned"].backward()
        optimizer.step()
    assert (model.eval().answers(batch)["turned"].argmax(1) == turns).float().mean() > 0.9


def test_a_network_learns_to_find_rows_again():
    draw = np.random.default_rng(0)
    center = draw.normal(size=(200, 3))
    columns = {f"c{number}": center[:, number % 3] + 0.05 * draw.normal(size=200) for number in range(15)}
    table = Table.of(pd.DataFrame(columns), "table")
    spec = Contrastive.target_spec({"share": 0.2, "name": "pair"})
    fitted = Preparation.fit(table, np.arange(200), {"row": TabularInput()}, {"pair": spec})
    torch.manual_seed(0)
    encoder = encoders.MLP(width=32, depth=2, shape=fitted.shapes["row"])
    model = MultiTaskModel({"row": encoder}, [Contrastive(name="pair", temperature=0.2)])
    loader = fitted.loader(table, batch_size=50, training=True)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def accuracy() -> float:
        with torch.no_grad():
            outputs = [model.answers(batch)["pair"] for batch in fitted.loader(table, batch_size=50)]
        return float(torch.cat([model.tasks["pair"].condensed(output) for output in outputs]).mean())

    before = accuracy()
    for _ in range(15):
        for batch in loader:
            optimizer.zero_grad()
            model.losses(batch)["pair"].backward()
            optimizer.step()
    assert accuracy() > before + 0.1


def test_the_head_is_the_tasks_own():
    model = table_model()
    assert isinstance(model.heads["pair"], nn.Sequential)
    assert model.shared_parameters() == list(model.trunk.parameters())


def test_no_rows_of_their_own_are_promised_where_a_task_reads_versions():
    batch = table_batch()
    losses = table_model().losses(batch)
    method = balancing.create("upgrad")
    assert _samples(method, batch, losses) is None
    assert _samples(method, batch, {task: losses[task] for task in ("a", "pair")}) is None
    assert set(_samples(method, batch, {task: losses[task] for task in ("a", "b")})) == {"a", "b"}
