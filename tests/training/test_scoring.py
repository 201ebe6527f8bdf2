import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error

from polytask.data.batch import Batch
from polytask.tasks import Classification, Regression, Segmentation
from polytask.training.scoring import Scorer, baseline_outputs


def batch(targets: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> Batch:
    return Batch.of({}, targets, masks, torch.arange(len(next(iter(targets.values())))))


def tasks() -> list:
    return [
        Classification("kind", classes=["a", "b", "c"], counts=[5, 3, 2]),
        Regression("age", mean=[40.0], std=[10.0]),
    ]


def random_batches(number: int) -> list[tuple[dict[str, torch.Tensor], Batch]]:
    made = []
    for _ in range(number):
        targets = {"kind": torch.randint(3, (37,)), "age": 40 + 10 * torch.randn(37, 1)}
        masks = {"kind": torch.rand(37) < 0.7, "age": torch.rand(37, 1) < 0.5}
        made.append(({"kind": torch.randn(37, 3), "age": torch.randn(37, 1)}, batch(targets, masks)))
    return made


def test_scores_of_many_batches_equal_those_of_all_labelled_rows_at_once():
    scorer, seen = Scorer(tasks()), random_batches(5)
    for outputs, rows in seen:
        scorer.update(outputs, rows)
    scores = scorer.compute()
    kinds = torch.cat([rows.masks["kind"] for _, rows in seen]).numpy()
    truth = torch.cat([rows.targets["kind"] for _, rows in seen]).numpy()[kinds]
    guess = torch.cat([outputs["kind"].argmax(1) for outputs, _ in seen]).numpy()[kinds]
    assert scores["kind"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-6)
    ages = torch.cat([rows.masks["age"] for _, rows in seen]).numpy()
    truth = torch.cat([rows.targets["age"] for _, rows in seen]).numpy()[ages]
    guess = torch.cat([40 + 10 * outputs["age"] for outputs, _ in seen]).numpy()[ages]
    assert scores["age"]["mae"] == pytest.approx(mean_absolute_error(truth, guess), rel=1e-5)


def test_outputs_may_be_given_for_the_labelled_rows_only():
    whole, part = Scorer(tasks()), Scorer(tasks())
    for outputs, rows in random_batches(2):
        whole.update(outputs, rows)
        part.update({name: value[rows.labelled[name]] for name, value in outputs.items()}, rows)
    assert whole.compute() == part.compute()


def test_a_task_without_a_label_has_no_scores():
    targets = {"kind": torch.zeros(4, dtype=torch.long), "age": torch.zeros(4, 1)}
    rows = batch(targets, {"kind": torch.ones(4, dtype=torch.bool), "age": torch.zeros(4, 1, dtype=torch.bool)})
    scorer = Scorer(tasks())
    scorer.update({"kind": torch.randn(4, 3)}, rows)
    assert set(scorer.compute()) == {"kind"}


def test_the_baseline_knows_only_the_training_part():
    scorer = Scorer(tasks())
    rows = batch(
        {"kind": torch.tensor([0, 1, 0, 2]), "age": torch.tensor([[30.0], [50.0], [40.0], [44.0]])},
        {"kind": torch.ones(4, dtype=torch.bool), "age": torch.ones(4, 1, dtype=torch.bool)},
    )
    scorer.update(baseline_outputs(tasks(), rows), rows)
    scores = scorer.compute()
    assert scores["kind"]["accuracy"] == pytest.approx(0.5), "always the class that is most frequent in training"
    assert scores["age"]["mae"] == pytest.approx((10 + 10 + 0 + 4) / 4), "always the training mean"
    assert math.isfinite(scores["kind"]["loss"])


def test_the_loss_of_answers_at_positions_does_not_depend_on_the_size_of_batches():
    torch.manual_seed(0)
    task = Segmentation("y", classes=3, image_size=[4, 4])
    outputs, target = torch.randn(6, 3, 4, 4), torch.randint(3, (6, 4, 4))
    mask = torch.rand(6, 4, 4) < torch.linspace(0.1, 1, 6)[:, None, None]
    found = []
    for size in (6, 2, 1):
        scorer = Scorer([task])
        for rows in torch.arange(6).split(size):
            scorer.update({"y": outputs[rows]}, Batch.of({}, {"y": target[rows]}, {"y": mask[rows]}, rows))
        found.append(scorer.compute()["y"]["loss"])
    assert found == pytest.approx([float(task.loss(outputs, target, mask))] * 3)
