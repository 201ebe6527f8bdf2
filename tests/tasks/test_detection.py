import json
import math

import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from polytask.balancing import MGDA, PCGrad, UPGrad
from polytask.encoders import CNN
from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.shapes import ImageShape
from polytask.tasks import Detection
from polytask.training.scoring import Scorer, baseline_outputs

from .detecting import HEADS, SIZE, batch_of, detection, model_of, other


@pytest.mark.parametrize(
    ("head", "steps", "lr", "least"), [("faster_rcnn", 80, 1e-2, 0.6), ("retinanet", 200, 3e-3, 0.4)]
)
def test_squares_are_learned(head, steps, lr, least):
    task = detection(head=head, metric="map")
    model = model_of(task, CNN(8, 3, normalization="group", shape=ImageShape(3, SIZE, SIZE))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        optimizer.zero_grad()
        model.losses(batch_of((2, 1, 2, 1, 1), seed=step))["what"].backward()
        optimizer.step()
        schedule.step()
    model.eval()
    batch, scorer = batch_of((2, 1, 0, 2, 1, 1) * 2, seed=1000), Scorer([task])
    with torch.no_grad():
        scorer.update(model(batch.inputs), batch)
    scores = scorer.compute()["what"]
    assert scores["map_50"] > least
    assert scores["map_50"] > scores["map"] > 0.1


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_the_weighted_sum_of_its_parts(head):
    weights = {"classification": 0.5, "box": 3.0}
    task = detection(head=head, loss_weights=weights)
    model, batch = model_of(task).train(), batch_of()
    output, boxes = model(batch.inputs)["what"], batch.targets["what"]
    torch.manual_seed(0)
    parts = task.loss_parts(output, boxes)
    torch.manual_seed(0)
    loss = task.loss(output, boxes, None)
    torch.testing.assert_close(loss, sum(weights.get(name, 1.0) * part.mean() for name, part in parts.items()))


@pytest.mark.parametrize("head", HEADS)
def test_unlabelled_images_change_nothing_and_images_without_objects_do(head):
    task = detection(head=head)
    model = model_of(task).train()
    images = batch_of((2, 1, 0))

    def loss(rows, labelled):
        batch = batch_of((2, 1, 0), labelled=labelled).part(torch.tensor(rows))
        torch.manual_seed(0)
        return model.losses(batch)["what"]

    assert torch.equal(loss([0, 1, 2], [True, True, False]), loss([0, 1], [True, True, True]))
    assert not torch.equal(loss([0, 1, 2], [True, True, True]), loss([0, 1], [True, True, True]))
    assert len(images) == 3


def test_rows_count_what_their_weights_say():
    task = detection(head="retinanet", sample_weight="sure")
    model, batch = model_of(task).train(), batch_of((2, 1))
    output, boxes = model(batch.inputs)["what"], batch.targets["what"]
    entries, weights = task.entries(output, boxes), torch.tensor([1.0, 3.0])
    torch.testing.assert_close(task.loss(output, boxes, None, weights), (entries * weights).sum() / 4)


def test_the_loss_of_an_evaluation_is_the_same_each_time_and_takes_no_random_numbers():
    task = detection()
    model, batch = model_of(task).eval(), batch_of()
    before = torch.get_rng_state()
    losses = [task.loss(model(batch.inputs)["what"], batch.targets["what"], None) for _ in range(2)]
    assert torch.equal(*losses)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("balancer", [PCGrad, UPGrad, MGDA])
def test_gradient_methods_balance_the_trunk_that_it_shares_with_a_classification(balancer):
    model, batch = model_of(detection(), others=[other()]).train(), batch_of(others=["other"])
    shared = model.shared_parameters()
    assert {id(p) for p in shared} == {id(p) for p in model.trunk.parameters()}
    losses = model.losses(batch)
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses.values()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in rows])
    own = torch.autograd.grad(losses["what"], list(model.heads["what"].parameters()), retain_graph=True)
    torch.manual_seed(0)
    expected = balancer().combine(jacobian)
    torch.manual_seed(0)
    balancer().backward(losses, shared)
    found = torch.cat([p.grad.flatten() for p in shared])
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-3, atol=1e-5)
    for gradient, parameter in zip(own, model.heads["what"].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad / own[0].abs().max(), gradient / own[0].abs().max(), atol=1, rtol=1)


def detections_near(boxes):
    return [
        {
            "boxes": row.boxes + torch.tensor([0.0, 1.0, 1.0, 0.0]),
            "scores": torch.linspace(0.9, 0.5, len(row.boxes)),
            "labels": row.classes,
        }
        for row in boxes.rows()
    ]


def test_metrics_are_those_of_torchmetrics_over_all_batches():
    task, reference = detection(), MeanAveragePrecision(backend="faster_coco_eval")
    metrics = task.metrics()
    for seed in range(3):
        boxes = batch_of((2, 0, 3, 1), seed=seed).targets["what"]
        found = detections_near(boxes)
        found[3]["labels"] = 1 - found[3]["labels"]
        mask = torch.tensor([True, True, True, seed != 1])
        task.update_metrics(metrics, found, boxes, mask)
        truth = [{"boxes": row.boxes, "labels": row.classes} for row in boxes.rows()]
        kept = [row for row in range(4) if mask[row]]
        reference.update([found[row] for row in kept], [truth[row] for row in kept])
    wanted = reference.compute()
    scores = metrics.compute()
    assert set(scores) == set(Detection.metric_names)
    for name, score in scores.items():
        assert float(score) == pytest.approx(float(wanted[name]), abs=1e-6)
    assert 0 < scores["map"] < scores["map_50"] < 1


def test_what_is_ignored_is_neither_missed_nor_wrong_to_find():
    task = detection()
    boxes = batch_of((2,)).targets["what"].select(torch.tensor([0, 0]))
    found = detections_near(boxes)
    ignored = type(boxes)(boxes.boxes, boxes.classes, torch.tensor([False, True, False, True]), boxes.counts)
    scores = []
    for kept in (2, 1):
        metrics = task.metrics()
        given = [{name: values[:kept] for name, values in row.items()} for row in found]
        task.update_metrics(metrics, given, ignored, torch.ones(2, dtype=torch.bool))
        scores.append(float(metrics.compute()["map_50"]))
    assert scores == [1.0, 1.0]


def test_without_any_object_there_is_no_score():
    task = detection()
    metrics, boxes = task.metrics(), batch_of((0, 0)).targets["what"]
    task.update_metrics(metrics, task.condensed(task.baseline(2)), boxes, torch.ones(2, dtype=torch.bool))
    assert math.isnan(metrics.compute()["map"])


def test_the_baseline_finds_nothing():
    task = detection()
    batch, scorer = batch_of(labelled=[True, False, True, True]), Scorer([task])
    scorer.update(baseline_outputs([task], batch), batch)
    scores = scorer.compute()["what"]
    assert (scores["map"], scores["map_50"]) == (0, 0) and math.isnan(scores["loss"])


def test_decoded_detections_have_their_class_and_place():
    task = detection(score=0.0, classes=["cat", "dog"])
    model, batch = model_of(task).eval(), batch_of((1, 2))
    output = model(batch.inputs)["what"]
    decoded = task.decode(output)[""]
    found = task.condensed(output)
    assert [len(each) for each in decoded] == [len(each["scores"]) for each in found]
    first = decoded[0][0]
    assert list(first) == ["class", "score", "xmin", "ymin", "xmax", "ymax"]
    assert first["class"] == task.classes[found[0]["labels"][0]]
    assert [first[side] for side in ("xmin", "ymin", "xmax", "ymax")] == found[0]["boxes"][0].tolist()
    json.dumps(decoded)


def test_it_is_completed_from_the_training_part():
    summary = TargetSummary(3, classes=("a", "b"), counts=(4, 5), sizes=(3.0, 9.0), image_size=(20, 30))
    parameters = json.loads(json.dumps(Detection.complete({"target": "boxes"}, summary)))
    task = Detection(**parameters)
    assert (task.classes, task.counts, task.settings.image_size) == (("a", "b"), (4, 5), (20, 30))
    spec = Detection.target_spec({"name": "cells", "target": "boxes", "image_column": "photo"})
    assert (spec.kind, spec.columns, spec.image) == ("boxes", ("boxes",), "photo")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classes": None}, "classes has to be given"),
        ({"head": "fcos"}, "there is no head 'fcos'.* Allowed: 'faster_rcnn', 'retinanet'"),
        ({"width": 0}, "width is 0, but must be at least 1"),
        ({"score": 1.0}, "score is 1.0, but must be at least 0 and below 1"),
        ({"overlap": 0.0}, "overlap is 0.0"),
        ({"ratios": []}, "ratios is"),
        ({"anchors": "car"}, "anchors is 'car'. Allowed: 'auto'"),
        ({"loss_weights": {"objectnes": 1}}, "loss_weights names 'objectnes'.*Did you mean 'objectness'"),
        ({"head": "retinanet", "loss_weights": {"rpn_box": 1}}, "no part of the loss of retinanet"),
        ({"loss_weights": {"box": -1}}, "loss_weights of 'box' is -1"),
        ({"metric": "accuracy"}, "no metric 'accuracy'"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        detection(**parameters)
