import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks import Ordinal
from polytask.tasks.ordinal import OrderedThresholds

GRADES = ["bad", "fair", "good", "best"]


def in_order(rows: int, thresholds: int) -> torch.Tensor:
    return torch.randn(rows, thresholds).sort(dim=1, descending=True).values


def test_it_works_in_python_without_data():
    task = Ordinal("grade", classes=GRADES)
    assert (task.name, task.columns, task.outputs) == ("grade", ("grade",), 3)
    assert task.make_head(FeatureShape("vector", 4))(torch.zeros(2, 4)).shape == (2, 3)
    assert Ordinal("two", classes=2).outputs == 1


def test_the_cumulative_loss_is_minus_the_log_of_a_difference_of_probabilities():
    task = Ordinal("grade", classes=GRADES)
    output, target = in_order(6, 3), torch.tensor([0, 1, 2, 3, 1, 3])
    above = torch.cat([torch.ones(6, 1), output.sigmoid(), torch.zeros(6, 1)], dim=1)
    probabilities = above[:, :-1] - above[:, 1:]
    expected = -probabilities[torch.arange(6), target].log()
    torch.testing.assert_close(task.entries(output, target), expected, rtol=1e-4, atol=1e-5)


def test_a_class_by_hand():
    # P(y > 0) = σ(1), P(y > 1) = σ(-1): the middle class has σ(1) - σ(-1) = 0.4621.
    task = Ordinal("grade", classes=3)
    loss = task.loss(torch.tensor([[1.0, -1.0]]), torch.tensor([1]), None)
    assert loss.item() == pytest.approx(-np.log(0.46211716), rel=1e-5)


def test_the_coral_loss_is_the_mean_binary_cross_entropy_of_above_or_not():
    task = Ordinal("grade", classes=GRADES, loss="coral")
    output, target = in_order(5, 3), torch.tensor([0, 1, 2, 3, 1])
    levels = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).float()
    torch.testing.assert_close(
        task.loss(output, target, None), F.binary_cross_entropy_with_logits(output, levels), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("loss", ["cumulative", "coral"])
def test_two_classes_are_logistic_regression(loss):
    task = Ordinal("grade", classes=2, loss=loss)
    output, target = torch.randn(7, 1), torch.randint(2, (7,))
    torch.testing.assert_close(
        task.loss(output, target, None), F.binary_cross_entropy_with_logits(output[:, 0], target.float())
    )


@settings(max_examples=50, deadline=None)
@given(classes=st.integers(2, 7), rows=st.integers(1, 5), spread=st.floats(0.1, 300), seed=st.integers(0, 100))
def test_the_heads_probabilities_are_in_order_and_sum_to_one_whatever_its_weights_are(classes, rows, spread, seed):
    torch.manual_seed(seed)
    task = Ordinal("grade", classes=classes)
    head = task.make_head(FeatureShape("vector", 3))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=spread)
    output = head(torch.randn(rows, 3)).requires_grad_()
    assert (output.diff(dim=1) <= 0).all()
    columns = task.decode(output)
    total = sum(columns[f"p_{name}"] for name in task.classes)
    np.testing.assert_allclose(total, 1, atol=1e-4)
    for target in range(classes):
        loss = task.loss(output, torch.full((rows,), target), None)
        (gradient,) = torch.autograd.grad(loss, output)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_thresholds_start_where_they_are_told_to():
    start = torch.tensor([-2.0, -1.9, 0.5, 4.0])
    found = OrderedThresholds(start)(torch.zeros(2, 1))
    torch.testing.assert_close(found, -start.expand(2, -1), rtol=1e-4, atol=1e-5)


def test_a_new_head_without_features_is_the_baseline():
    task = Ordinal("grade", classes=GRADES, counts=[5, 3, 0, 2])
    head = task.make_head(FeatureShape("vector", 2))
    torch.nn.init.zeros_(head[0].bias)
    torch.testing.assert_close(head(torch.zeros(1, 2)), task.baseline(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["cumulative", "coral"])
def test_the_baseline_is_the_best_constant(loss):
    counts = [7, 2, 5, 6]
    target = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    task = Ordinal("grade", classes=4, loss=loss, counts=counts)
    output = task.baseline(20).clone().requires_grad_()
    task.loss(output, target, None).backward()
    torch.testing.assert_close(output.grad.sum(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    metrics = task.metrics()
    task.update_metrics(metrics, task.baseline(20), target, torch.ones(20).bool())
    # The median class, 2, minimises the mean absolute error: (7 * 2 + 2 * 1 + 6 * 1) / 20.
    assert float(metrics.compute()["mae"]) == pytest.approx(1.1)
    assert task.decode(task.baseline(1))[""].tolist() == ["2"]


def test_labels_that_are_missing_change_nothing_and_rows_count_what_they_weigh():
    task = Ordinal("grade", classes=4)
    output, target = in_order(4, 3), torch.tensor([1, 0, 3, 2])
    mask, weights = torch.tensor([True, False, True, True]), torch.tensor([1.0, 9.0, 2.0, 0.5])
    entries = task.entries(output, target)
    expected = (entries[0] + 2 * entries[2] + 0.5 * entries[3]) / 3.5
    torch.testing.assert_close(task.loss(output, target, mask, weights), expected)
    torch.testing.assert_close(task.loss(output, target, mask), entries[mask].mean())
    halves = [task.loss(output[i::2], target[i::2], mask[i::2], weights[i::2], torch.tensor(3.5)) for i in (0, 1)]
    torch.testing.assert_close(sum(halves), expected)


def test_the_loss_is_in_float32_where_the_output_is_half():
    assert Ordinal("g", classes=3).loss(in_order(2, 2).half(), torch.tensor([0, 1]), None).dtype == torch.float32


def test_metrics_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    target = draw.integers(0, 4, 80)
    output = torch.tensor(target + draw.normal(0, 1, 80))[:, None] - torch.tensor([0.5, 1.5, 2.5])
    predicted = (output > 0).sum(dim=1).numpy()
    task = Ordinal("grade", classes=4)
    metrics = task.metrics()
    mask = torch.ones(80).bool()
    mask[70:] = False
    for rows in (slice(0, 30), slice(30, 80)):
        task.update_metrics(metrics, output[rows], torch.tensor(target[rows]), mask[rows])
    found = {name: float(value) for name, value in metrics.compute().items()}
    target, predicted = target[:70], predicted[:70]
    assert found == pytest.approx(
        {
            "mae": reference.mean_absolute_error(target, predicted),
            "quadratic_kappa": reference.cohen_kappa_score(target, predicted, weights="quadratic"),
            "accuracy": reference.accuracy_score(target, predicted),
        }
    )
    assert set(metrics) == set(task.metric_names)


def test_predictions_are_medians_with_probabilities():
    task = Ordinal("grade", classes=["low", "mid", "high"])
    columns = task.decode(torch.tensor([[2.0, -1.0], [-3.0, -4.0], [5.0, 0.1]], requires_grad=True))
    assert columns[""].tolist() == ["mid", "low", "high"]
    assert list(columns) == ["", "p_low", "p_mid", "p_high"]
    np.testing.assert_allclose(columns["p_high"], torch.tensor([-1.0, -4.0, 0.1]).sigmoid(), rtol=1e-5)


def test_it_is_sure_of_the_likeliest_class():
    task = Ordinal("grade", classes=3)
    labels, sure = task.confident(torch.tensor([[5.0, -5.0], [0.1, -0.1], [-6.0, -7.0]]), 0.9)
    assert labels[[0, 2]].tolist() == [1, 0]
    assert sure.tolist() == [True, False, True]


def test_two_predictions_differ_by_their_probabilities():
    task = Ordinal("grade", classes=4)
    one, other = in_order(5, 3), in_order(5, 3)
    squared = (one.sigmoid() - other.sigmoid()).square().mean(dim=1)
    torch.testing.assert_close(task.difference(one, other), squared)
    p, q = (torch.stack([torch.tensor(task.decode(o)[f"p_{c}"]) for c in task.classes], dim=1) for o in (one, other))
    torch.testing.assert_close(task.divergence(one, other), (q * (q / p).log()).sum(dim=1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(task.divergence(one, one), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", ["cumulative", "coral"])
def test_an_order_is_learned_with_one_score(loss):
    torch.manual_seed(0)
    features = torch.randn(600, 2)
    score = features @ torch.tensor([2.0, -1.0])
    target = torch.bucketize(score, torch.tensor([-2.0, 0.0, 1.0]))
    counts = torch.bincount(target).tolist()
    task = Ordinal("grade", classes=4, loss=loss, counts=counts)
    head = task.make_head(FeatureShape("vector", 2))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(head(features), target, None).backward()
        optimizer.step()
    metrics = task.metrics()
    task.update_metrics(metrics, head(features), target, torch.ones(600).bool())
    assert float(metrics.compute()["accuracy"]) > 0.97


def test_the_data_complete_the_parameters_as_plain_values():
    summary = TargetSummary(labelled=9, classes=("1", "2", "10"), counts=np.array([4, 3, 2]))
    parameters = Ordinal.complete({"target": "y"}, summary)
    assert json.loads(json.dumps(parameters)) == {"target": "y", "classes": ["1", "2", "10"], "counts": [4, 3, 2]}
    spec = Ordinal.target_spec({"target": "y", "classes": GRADES})
    assert (spec.kind, spec.classes, spec.ordered) == ("category", tuple(GRADES), True)


def test_names_without_an_order_have_to_be_put_in_one():
    summary = TargetSummary(labelled=9, classes=("bad", "good"), counts=(5, 4))
    with pytest.raises(UserError, match="'grade': its classes are not numbers.*from the lowest.*: 'bad', 'good'"):
        Ordinal.complete({"name": "grade"}, summary)
    assert Ordinal.complete({"name": "grade", "classes": ["bad", "good"]}, summary)["counts"] == [5, 4]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classes": 3}, "needs a target"),
        ({"target": "y"}, "classes has to be given, the lowest first"),
        ({"target": "y", "classes": 1}, "only one class"),
        ({"target": "y", "classes": 3, "loss": "corn"}, "no loss 'corn'. Allowed: 'cumulative', 'coral'"),
        ({"target": "y", "classes": 3, "counts": [1, 2]}, "3 classes, but 2 counts"),
        ({"target": "y", "classes": 3, "metric": "auroc"}, "no metric 'auroc'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Ordinal(**parameters)


def test_a_class_that_never_occurs_in_many_rows_can_still_be_learned():
    task = Ordinal("y", classes=["a", "b", "c"], counts=[90_000_000, 0, 10_000_000])
    head = task.make_head(FeatureShape("vector", 2))
    loss = task.loss(head(torch.zeros(4, 2)), torch.ones(4, dtype=torch.int64), None)
    loss.backward()
    grads = [p.grad for name, p in head.named_parameters() if name.endswith("gaps")]
    assert all(p.isfinite().all() for p in head.parameters())
    assert loss.isfinite() and all(grad.isfinite().all() and grad.abs().min() > 0 for grad in grads)
