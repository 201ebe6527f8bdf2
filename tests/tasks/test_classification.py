import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks import Classification


def all_rows(number):
    return torch.ones(number, dtype=torch.bool)


def test_it_works_in_python_without_data():
    task = Classification("label", classes=10)
    assert (task.name, task.columns, task.outputs, task.classes[9]) == ("label", ("label",), 10, "9")
    assert task.make_head(FeatureShape("vector", 7))(torch.zeros(3, 7)).shape == (3, 10)


def test_classes_may_be_written_as_numbers_or_truth_values():
    task = Classification("y", classes=[False, True], class_weights={True: 2.0})
    assert task.classes == ("false", "true")
    assert task.class_weights.tolist() == [1, 2]
    assert Classification("y", classes=[1, 2.0, 2.5]).classes == ("1", "2", "2.5")


def test_the_name_is_the_column_where_there_is_no_target_and_else_its_own():
    assert Classification(name="kind", classes=2).columns == ("kind",)
    task = Classification("kind of thing", name="kind", classes=["a", "b"])
    assert (task.name, task.columns) == ("kind", ("kind of thing",))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"a": 2.0, "c": 0.5}])
def test_the_loss_is_that_of_pytorch_on_the_labelled_rows(weights, smoothing):
    task = Classification("y", classes=["a", "b", "c"], class_weights=weights, label_smoothing=smoothing)
    output, target = torch.randn(8, 3), torch.randint(3, (8,))
    mask = torch.tensor([True, True, False, True, True, False, True, True])
    vector = None if weights is None else torch.tensor([2.0, 1.0, 0.5])
    expected = F.cross_entropy(output[mask], target[mask], weight=vector, label_smoothing=smoothing)
    torch.testing.assert_close(task.loss(output, target, mask), expected)


def test_a_batch_of_classes_without_weight_has_loss_zero():
    task = Classification("y", classes=["a", "b"], class_weights={"a": 0}, label_smoothing=0.1)
    output = torch.randn(4, 2, requires_grad=True)
    loss = task.loss(output, torch.zeros(4, dtype=torch.long), all_rows(4))
    loss.backward()
    assert loss.isfinite()
    assert output.grad.isfinite().all()


def test_masked_rows_have_no_gradient():
    task = Classification("y", classes=3)
    output = torch.randn(4, 3, requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    task.loss(output, torch.zeros(4, dtype=torch.long), mask).backward()
    assert output.grad[mask].abs().sum(1).all()
    assert not output.grad[~mask].any()


def test_the_loss_is_in_float32_where_the_output_is_half_and_in_float64_where_it_is_double():
    task = Classification("y", classes=3)
    target, mask = torch.randint(3, (4,)), all_rows(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = torch.nn.Linear(5, 3)(torch.randn(4, 5))
        assert output.dtype == torch.bfloat16
        assert task.loss(output, target, mask).dtype == torch.float32
    assert task.loss(torch.randn(4, 3, dtype=torch.float64), target, mask).dtype == torch.float64


def test_balanced_weights_are_those_of_scikit_learn():
    counts = [30, 10, 20]
    task = Classification("y", classes=3, class_weights="balanced", counts=counts)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), counts))
    np.testing.assert_allclose(task.class_weights, expected, rtol=1e-6)


def test_balanced_weights_are_finite_for_a_class_that_does_not_occur():
    task = Classification("y", classes=3, class_weights="balanced", counts=[30, 0, 10])
    np.testing.assert_allclose(task.class_weights, [40 / 60, 1, 40 / 20])


def test_class_weights_follow_the_device_and_the_state():
    task = Classification("y", classes=2, class_weights={"0": 3.0})
    assert task.state_dict()["class_weights"].tolist() == [3, 1]
    assert task.to("meta").class_weights.device.type == "meta"
    assert not list(task.parameters())


def test_the_data_complete_the_parameters_as_plain_values():
    given = {"target": "y", "class_weights": "balanced", "weight": 0.5}
    summary = TargetSummary(labelled=9, classes=("a", "b"), counts=np.array([3, 6]))
    parameters = Classification.complete(given, summary)
    assert json.loads(json.dumps(parameters)) == {**given, "classes": ["a", "b"], "counts": [3, 6]}
    task = Classification(**parameters)
    assert task.classes == ("a", "b")
    assert task.class_weights.tolist() == pytest.approx([1.5, 0.75])


def test_the_target_is_described_from_the_parameters():
    spec = Classification.target_spec({"name": "kind", "classes": ["b", "a"], "unseen": "unknown"})
    assert (spec.kind, spec.columns, spec.classes, spec.unseen) == ("category", ("kind",), ("b", "a"), "unknown")
    spec = Classification.target_spec({"target": "y", "name": "kind"})
    assert (spec.columns, spec.classes, spec.unseen) == (("y",), None, "error")


def test_the_baseline_predicts_the_class_frequencies():
    task = Classification("y", classes=3, counts=[1, 6, 3])
    output = task.baseline(2)
    torch.testing.assert_close(output.softmax(1), torch.tensor([[0.1, 0.6, 0.3]] * 2))
    assert list(task.decode(output)[""]) == ["1", "1"]


def test_the_baseline_is_finite_for_a_class_that_does_not_occur():
    task = Classification("y", classes=3, counts=[4, 0, 4])
    assert task.loss(task.baseline(1), torch.tensor([1]), all_rows(1)).isfinite()


def test_predictions_are_class_names_with_probabilities():
    task = Classification("y", classes=["cat", "dog"])
    columns = task.decode(torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True))
    assert list(columns) == ["", "p_cat", "p_dog"]
    assert list(columns[""]) == ["cat", "dog"]
    np.testing.assert_allclose(columns["p_cat"] + columns["p_dog"], 1, rtol=1e-6)
    assert columns["p_cat"][0] == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())


def test_metrics_see_the_labelled_rows_alone():
    task = Classification("y", classes=2)
    metrics = task.metrics()
    mask = torch.tensor([True, True, False])
    task.update_metrics(metrics, torch.tensor([[1.0, 0], [0, 1], [0, 1]]), torch.tensor([0, 0, 0]), mask)
    assert metrics.compute()["accuracy"] == 0.5
    assert set(metrics) == set(task.metric_names)


def test_a_head_with_hidden_layers_has_the_expected_layers_and_parameters():
    head = Classification("y", classes=3, hidden=[16, 8], dropout=0.1).make_head(FeatureShape("vector", 5))
    assert [type(layer).__name__ for layer in head] == ["Dropout", "Linear", "ReLU"] * 2 + ["Dropout", "Linear"]
    assert sum(p.numel() for p in head.parameters()) == (5 + 1) * 16 + (16 + 1) * 8 + (8 + 1) * 3
    plain = Classification("y", classes=3).make_head(FeatureShape("vector", 5))
    assert isinstance(plain, torch.nn.Linear)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target": "y"}, "classes has to be given"),
        ({"classes": 3}, "needs a target"),
        ({"target": [], "classes": 3}, "empty list"),
        ({"target": ["a", "b"], "classes": 3}, "'a', 'b'.*multi_label"),
        ({"target": "y", "classes": 1}, "only one class, '0'"),
        ({"target": "y", "classes": []}, "there are no classes"),
        ({"target": "y", "classes": ["a", "b", "a"]}, "'a' more than once"),
        ({"target": "y", "classes": 3, "label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"target": "y", "classes": 3, "counts": [1, 2]}, "3 classes, but 2 counts"),
        ({"target": "y", "classes": 3, "class_weights": "balanced"}, "need counts"),
        ({"target": "y", "classes": 3, "class_weights": "even"}, "is 'even'. Allowed: 'balanced'"),
        ({"target": "y", "classes": ["cat", "dog"], "class_weights": {"dgo": 2}}, "'dgo'.*Did you mean 'dog'"),
        ({"target": "y", "classes": 2, "class_weights": {"0": -1.0}}, "of '0' is -1.0"),
        ({"target": "y", "classes": 2, "class_weights": {"0": 0, "1": 0}}, "all 0"),
        ({"target": "y", "classes": 2, "metric": "mae"}, "no metric 'mae'"),
        ({"target": "y", "classes": 2, "weight": -1.0}, "weight is -1.0"),
        ({"target": "a.b", "classes": 2}, "'a.b' cannot name a task"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Classification(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"), [({"hidden": [8, 0]}, r"hidden is \[8, 0\]"), ({"dropout": 1.0}, "dropout is 1.0")]
)
def test_bad_heads_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Classification("y", classes=2, **parameters).make_head(FeatureShape("vector", 4))


def test_training_data_without_labels_or_with_one_class_are_refused():
    with pytest.raises(UserError, match="No training row has a label for the target y"):
        Classification.complete({"target": "y"}, TargetSummary(labelled=0))
    with pytest.raises(UserError, match="only one class"):
        Classification(**Classification.complete({"target": "y"}, TargetSummary(3, classes=["a"], counts=[3])))


def test_without_counts_there_is_no_baseline():
    with pytest.raises(UserError, match="no baseline without counts"):
        Classification("y", classes=2).baseline(1)
