"""One encoder for several inputs: each row has one of them."""

import pytest
import torch

from polytask import MultiTaskModel
from polytask.balancing import UPGrad
from polytask.data.batch import Batch
from polytask.encoders import CNN
from polytask.errors import UserError
from polytask.fusion import OneEncoder
from polytask.partial import PartialInput
from polytask.shapes import ImageShape
from polytask.sharing import Hard, TaskNorm
from polytask.tasks import Classification
from polytask.training.costs import count_costs

from ..tasks.detecting import detection, squares
from .cases import partial

SIZES = {"large": 32, "small": 16}


def images(name, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, SIZES[name], SIZES[name], generator=generator)


def inputs():
    """Rows 0, 3 and 4 have a large image, the others a small one."""
    return {"large": partial(images("large", 5), (0, 3, 4)), "small": partial(images("small", 5), (1, 2))}


def model_of(tasks, scheme=None, normalization="none"):
    torch.manual_seed(0)
    encoder = CNN(4, 2, grid=1, normalization=normalization, shape=ImageShape(3, 16, 16))
    return MultiTaskModel({"large": encoder}, tasks, scheme, fusion=OneEncoder())


def classes(*names):
    return [Classification(name, classes=3) for name in names]


@pytest.mark.parametrize("scheme", [None, Hard(share_until=1), TaskNorm()])
def test_each_row_has_the_output_of_its_own_input(scheme):
    model = model_of(classes("a", "b"), scheme, "batch").eval()
    given = inputs()
    found = model(given)
    for name, rows in {"large": [0, 3, 4], "small": [1, 2]}.items():
        alone = model({name: given[name].values})
        for task in ("a", "b"):
            torch.testing.assert_close(found[task][rows], alone[task])


def test_tasks_have_their_own_rows():
    model = model_of(classes("a", "b")).eval()
    whole = model(inputs())
    rows = {"a": torch.tensor([0, 1, 4]), "b": torch.tensor([2])}
    found = model(inputs(), rows=rows)
    for task, own in rows.items():
        torch.testing.assert_close(found[task], whole[task][own])


def test_losses_and_gradients_are_those_of_the_inputs_one_by_one():
    tasks, target = classes("a", "b"), {"a": torch.tensor([0, 1, 2, 0, 1]), "b": torch.tensor([0, 0, 2, 0, 0])}
    masks = {"a": torch.ones(5, dtype=torch.bool), "b": torch.tensor([False, True, True, False, False])}
    model = model_of(tasks).train()
    given = inputs()
    batch = Batch.of(given, target, masks, torch.arange(5))
    shared = model.shared_parameters()
    UPGrad().backward(model.losses(batch), shared)
    found = [p.grad.clone() for p in shared]
    model.zero_grad()
    totals = model.totals(batch)
    losses = {}
    for name in given:
        part = Batch.of({name: given[name].values}, *_part(target, masks, given[name].rows))
        for task, loss in model.objectives(part, totals).losses.items():
            losses[task] = losses.get(task, 0) + loss
    UPGrad().backward(losses, shared)
    for one, other in zip(found, shared, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-6)


def _part(target, masks, rows):
    return {k: v[rows] for k, v in target.items()}, {k: v[rows] for k, v in masks.items()}, rows


def test_a_detection_shares_it_with_a_classification_of_smaller_images():
    model = model_of([detection(), *classes("a")]).train()
    pictures, boxes = squares((2, 1))
    given = {
        "large": PartialInput(pictures, torch.tensor([0, 1]), 4),
        "small": PartialInput(images("small", 2), torch.tensor([2, 3]), 4),
    }
    first = torch.tensor([True, True, False, False])
    batch = Batch.of(
        given,
        {"what": boxes.spread(0, 4), "a": torch.tensor([0, 0, 1, 2])},
        {"what": first, "a": ~first},
        torch.arange(4),
    )
    losses = model.losses(batch)
    assert set(losses) == {"what", "a"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with pytest.raises(UserError, match="The task 'what' has an answer at each position, and is asked for rows of sev"):
        model(given)
    assert len(model(given, ["what"], {"what": torch.tensor([0, 1])})["what"]) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"large": images("large", 5), "small": images("small", 5)},
        {"large": partial(images("large", 5), (0, 1)), "small": partial(images("small", 5), (1, 2, 3, 4))},
        {"large": partial(images("large", 5), (0, 1)), "small": partial(images("small", 5), (2, 3))},
    ],
)
def test_rows_with_several_inputs_or_none_are_refused(given):
    with pytest.raises(UserError, match="each row needs exactly one of them"):
        model_of(classes("a"))(given)


def test_it_has_one_encoder_alone():
    with pytest.raises(UserError, match="over one encoder, but 2 were given"):
        MultiTaskModel({"a": CNN(), "b": CNN()}, classes("a"), fusion=OneEncoder())


def test_all_tasks_together_cost_what_each_costs_on_its_own_rows():
    one = {name: images(name, 1) for name in SIZES}
    model = model_of(classes("a", "b"))
    costs = count_costs(model, model_of(classes("a", "b")), one, {"a": ["large"], "b": ["small"]})
    assert costs.together.multiply_adds == sum(each.multiply_adds for each in costs.tasks.values())
    assert costs.together.multiply_adds == costs.separate.multiply_adds
    assert costs.tasks["a"].multiply_adds > 3 * costs.tasks["b"].multiply_adds
