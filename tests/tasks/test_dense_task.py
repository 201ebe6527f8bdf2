import math

import pytest
import torch
from tests.tasks.dense import SIZE, TASKS, output_of, target_of

from polytask.data.batch import Batch
from polytask.encoders import CNN
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape
from polytask.training.scoring import Scorer, baseline_outputs


@pytest.mark.parametrize("name", TASKS)
def test_parts_of_a_step_have_the_loss_of_the_whole(name):
    task = TASKS[name]()
    target, mask = target_of(task)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0])
    for given in (None, weights):
        output = output_of(task).requires_grad_()
        whole = task.loss(output, target, mask, given)
        total = task.total(target, mask, given)
        parts = []
        for rows in torch.arange(5).split(2):
            own = None if given is None else given[rows]
            parts.append(task.loss(output[rows], target[rows], mask[rows], own, total))
        torch.testing.assert_close(sum(parts), whole)
        (one,) = torch.autograd.grad(whole, output, retain_graph=True)
        (other,) = torch.autograd.grad(sum(parts), output)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", TASKS)
def test_what_has_no_label_changes_neither_the_loss_nor_a_gradient(name):
    task = TASKS[name]()
    target, mask = target_of(task)
    output = output_of(task).requires_grad_()
    loss = task.loss(output, target, mask)
    (gradient,) = torch.autograd.grad(loss, output)
    blind = (~mask)[:, None].expand_as(gradient)
    assert (gradient[blind] == 0).all() and gradient.abs().sum() > 0
    changed = output.detach().clone()
    changed[blind] = 50.0
    pixels = mask if target.ndim == 3 else mask[:, None].expand_as(target)
    elsewhere = torch.where(pixels, target, torch.ones_like(target))
    torch.testing.assert_close(task.loss(changed, elsewhere, mask), loss.detach())
    torch.testing.assert_close(task.loss(output[1:], target[1:], mask[1:]), loss)


@pytest.mark.parametrize("name", TASKS)
def test_everything_labelled_needs_no_mask(name):
    task = TASKS[name]()
    target, mask = target_of(task)
    if target.ndim == 4 and target.shape[1] == 3:
        target = torch.nn.functional.normalize(target + 1, dim=1)
    target = target if target.ndim == 3 else target.clamp(min=0.5)
    output = output_of(task)
    everywhere = torch.ones_like(mask)
    torch.testing.assert_close(task.loss(output, target, None), task.loss(output, target, everywhere))
    assert task.entries(output, target).shape == mask.shape


@pytest.mark.parametrize("name", TASKS)
def test_the_best_constant_has_a_value_of_every_metric(name):
    task = TASKS[name](image_size=SIZE)
    output = task.baseline(4)
    assert output.shape == (4, task.outputs, *SIZE)
    target, mask = target_of(task)
    batch = Batch.of({"image": torch.zeros(5, 1)}, {"t": target}, {"t": mask}, torch.arange(5))
    scorer = Scorer([task])
    scorer.update(baseline_outputs([task], batch), batch)
    found = scorer.compute()["t"]
    assert set(found) == {"loss", *task.metric_names}
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", TASKS)
def test_scores_do_not_depend_on_how_rows_come(name):
    task = TASKS[name]()
    target, mask = target_of(task, rows=6)
    output = output_of(task, rows=6)
    scores = []
    for size in (6, 2):
        scorer = Scorer([task])
        for rows in torch.arange(6).split(size):
            batch = Batch.of({"image": torch.zeros(len(rows), 1)}, {"t": target[rows]}, {"t": mask[rows]}, rows)
            scorer.update({"t": output[rows]}, batch)
        scores.append(scorer.compute()["t"])
    for metric in task.metric_names:
        assert scores[0][metric] == pytest.approx(scores[1][metric], rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("decoder", ["fpn", "unet", "deeplab"])
def test_a_step_in_low_precision_with_every_head(name, decoder):
    torch.manual_seed(0)
    task = TASKS[name](head=decoder, width=8, image_size=SIZE)
    model = MultiTaskModel({"image": CNN(4, 2, shape=ImageShape(3, *SIZE))}, [task])
    target, mask = target_of(task)
    batch = Batch.of({"image": torch.randn(5, 3, *SIZE)}, {"t": target}, {"t": mask}, torch.arange(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.losses(batch)["t"]
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    answer = model.eval()(batch.inputs)["t"]
    assert answer.shape == (5, task.outputs, *SIZE)
    found = task.decode(answer)[""]
    assert len(found) == 5 and found[0].values.shape[:2] == SIZE


@pytest.mark.parametrize("name", ["segmentation", "depth-silog", "normals", "edges"])
def test_a_few_steps_learn(name):
    torch.manual_seed(0)
    task = TASKS[name](width=8, stride=2, image_size=SIZE)
    model = MultiTaskModel({"image": CNN(8, 2, normalization="none", shape=ImageShape(3, *SIZE))}, [task])
    target, mask = target_of(task)
    shown = (target if target.ndim == 4 else target[:, None]).float()
    batch = Batch.of({"image": shown[:, :1].expand(-1, 3, -1, -1)}, {"t": target}, {"t": mask}, torch.arange(5))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = model.losses(batch)["t"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
