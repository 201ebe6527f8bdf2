import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from tests.tasks.dense import SIZE, output_of, target_of

from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.tasks import Segmentation
from polytask.training.selection import gain


def test_the_loss_is_the_weighted_mean_of_cross_entropies():
    task = Segmentation("t", classes=["a", "b", "c"], class_weights={"a": 0.2, "c": 3.0})
    target, mask = target_of(task)
    output = output_of(task)
    expected = F.cross_entropy(output.permute(0, 2, 3, 1)[mask], target[mask], weight=torch.tensor([0.2, 1, 3]))
    torch.testing.assert_close(task.loss(output, target, mask), expected)


def test_dice_is_one_minus_the_overlap_of_each_image():
    task = Segmentation("t", classes=3, dice=2.0)
    target = torch.zeros(2, 2, 4, dtype=torch.long)
    target[0, :, 2:] = 1
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[1, :, 1:] = False
    sure = 50 * F.one_hot(target, 3).movedim(-1, 1).float()
    assert float(task.loss(sure, target, mask)) == pytest.approx(0, abs=1e-6), "all right"
    even = torch.zeros(2, 3, 2, 4)
    # Image 1: classes 0 and 1 have half each, so 2/3·4 / (8/3 + 4); image 2: class 0 alone has both labelled pixels.
    first, second = 1 - 2 * (4 / 3) / (8 / 3 + 4), 1 - 2 * (2 / 3) / (2 / 3 + 2)
    expected = math.log(3) + 2 * (8 * first + 2 * second) / 10
    assert float(task.loss(even, target, mask)) == pytest.approx(expected, rel=1e-5)


def test_metrics_are_those_of_the_confusion_matrix_of_all_pixels():
    task = Segmentation("t", classes=4)
    numbers = np.random.default_rng(0)
    target, predicted = numbers.integers(0, 3, (6, 5, 7)), numbers.integers(0, 3, (6, 5, 7))
    mask = numbers.random((6, 5, 7)) < 0.8
    counts = confusion_matrix(target[mask], predicted[mask], labels=range(3))
    right = counts.diagonal()
    expected = {
        "miou": (right / (counts.sum(0) + counts.sum(1) - right)).mean(),
        "pixel_accuracy": right.sum() / counts.sum(),
        "mean_accuracy": (right / counts.sum(1)).mean(),
    }
    metrics = task.metrics()
    for rows in (slice(0, 2), slice(2, 6)):
        tensors = [torch.from_numpy(each[rows]) for each in (predicted, target, mask)]
        task.update_metrics(metrics, *tensors)
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(expected)


def test_a_class_that_is_only_predicted_counts_in_the_mean_of_overlaps():
    task = Segmentation("t", classes=3)
    metrics = task.metrics()
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    predicted = torch.tensor([[[0, 0, 0, 2]]])
    task.update_metrics(metrics, predicted, target, torch.ones_like(target, dtype=torch.bool))
    assert float(metrics.compute()["miou"]) == pytest.approx((0.75 + 0) / 2)
    assert float(metrics.compute()["mean_accuracy"]) == pytest.approx(0.75)


def test_balanced_weights_and_the_baseline_come_from_the_pixels():
    summary = TargetSummary(labelled=3, classes=("a", "b"), counts=(900, 100), image_size=SIZE)
    found = Segmentation.complete({"target": "t", "classes": {"a": 3, "b": 8}, "class_weights": "balanced"}, summary)
    task = Segmentation(**found)
    torch.testing.assert_close(task.class_weights, torch.tensor([1000 / 1800, 1000 / 200]))
    assert task.ids == (3, 8) and task.image_size == SIZE
    torch.testing.assert_close(task.baseline(1)[0, :, 0, 0].exp(), torch.tensor([0.9, 0.1]))
    values = task.decode(torch.tensor([[[[1.0, 0]], [[0, 1.0]]]]))[""][0]
    assert values.values.tolist() == [[3, 8]] and values.classes == {3: "a", 8: "b"} and values.values.dtype == np.uint8


def test_what_is_found_in_the_data_is_named_by_its_numbers():
    summary = TargetSummary(labelled=3, classes=("2", "7"), counts=(9, 1), image_size=SIZE)
    task = Segmentation(**Segmentation.complete({"target": "t"}, summary))
    assert (task.classes, task.ids) == (("2", "7"), (2, 7))
    assert gain(task, {"t": {"miou": 0.75}}, {"t": {"miou": 0.5}}) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classes": ["a"]}, "has only one class"),
        ({"classes": {"a": 1, "b": 1}}, "no two the same"),
        ({"classes": {"a": 1, "b": -1}}, "of at least 0"),
        ({"classes": 3, "dice": -1}, "dice is -1"),
        ({"classes": 3, "metric": "iou"}, "no metric 'iou'.*miou"),
        ({"classes": 2, "class_weights": {"x": 1}}, "'x', which is no class"),
        ({}, "classes has to be given"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(UserError, match=message):
        Segmentation("t", **parameters)


def test_a_class_cannot_be_ignored_too():
    with pytest.raises(UserError, match="'2' is both a class and to be ignored"):
        Segmentation.target_spec({"target": "t", "classes": 3, "ignore": [2, 9]})
