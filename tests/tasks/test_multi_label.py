import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polytask.errors import UserError
from polytask.labels import TargetSummary
from polytask.tasks import MultiLabel


def test_several_columns_are_their_own_labels():
    task = MultiLabel(["smiling", "young"])
    assert (task.name, task.columns, task.classes) == ("smiling_young", ("smiling", "young"), ("smiling", "young"))
    assert MultiLabel(["x1", "x2"], classes=["smiling", "young"]).classes == ("smiling", "young")
    spec = MultiLabel.target_spec({"target": ["smiling", "young"], "name": "face"})
    assert (spec.kind, spec.columns, spec.classes) == ("labels", ("smiling", "young"), ("smiling", "young"))


def test_a_column_of_lists_has_the_labels_that_are_given_or_found():
    assert MultiLabel("tags", classes=3).classes == ("0", "1", "2")
    spec = MultiLabel.target_spec({"name": "tags", "separator": ";", "unseen": "unknown"})
    assert (spec.columns, spec.classes, spec.separator, spec.unseen) == (("tags",), None, ";", "unknown")


@pytest.mark.parametrize("pos_weight", [None, {"b": 3.0}])
def test_the_loss_is_that_of_pytorch_on_the_labelled_entries(pos_weight):
    task = MultiLabel("tags", classes=["a", "b"], pos_weight=pos_weight)
    output, target = torch.randn(6, 2), torch.randint(2, (6, 2)).float()
    mask = torch.rand(6, 2) < 0.6
    mask[0] = True
    entries = F.binary_cross_entropy_with_logits(
        output, target, pos_weight=None if pos_weight is None else torch.tensor([1.0, 3.0]), reduction="none"
    )
    torch.testing.assert_close(task.loss(output, target, mask), entries[mask].mean())


def test_a_label_without_any_entry_has_no_gradient_and_no_nan():
    task = MultiLabel("tags", classes=2)
    output = torch.randn(3, 2, requires_grad=True)
    mask = torch.tensor([[True, False]] * 3)
    task.loss(output, torch.ones(3, 2), mask).backward()
    assert output.grad[:, 0].all()
    assert not output.grad[:, 1].any()


def test_the_loss_is_in_float32_where_the_output_is_half():
    output = torch.randn(3, 2, dtype=torch.float16)
    assert MultiLabel("tags", classes=2).loss(output, torch.ones(3, 2), torch.ones(3, 2).bool()).dtype == torch.float32


def test_the_data_complete_the_parameters_as_plain_values():
    given = {"target": "tags", "pos_weight": "balanced"}
    parameters = MultiLabel.complete(given, TargetSummary(labelled=10, classes=("a", "b"), counts=np.array([2, 10])))
    assert json.loads(json.dumps(parameters)) == {**given, "classes": ["a", "b"], "counts": [2, 10], "known": [10, 10]}
    assert MultiLabel(**parameters).pos_weight.tolist() == [4, 1]


def test_labels_that_are_known_for_some_rows_only_are_weighted_by_these():
    summary = TargetSummary(labelled=10, classes=("a", "b"), counts=[2, 1], known=[10, 4])
    task = MultiLabel(**MultiLabel.complete({"target": ["a", "b"], "pos_weight": "balanced"}, summary))
    assert task.pos_weight.tolist() == [4, 3]
    torch.testing.assert_close(task.baseline(2).sigmoid(), torch.tensor([[0.2, 0.25]] * 2))


def test_the_baseline_is_finite_for_a_label_that_never_or_always_occurs():
    task = MultiLabel("tags", classes=2, counts=[0, 8], known=[8, 8], pos_weight="balanced")
    assert task.baseline(1).isfinite().all()
    assert task.baseline(1)[0, 0] < 0 < task.baseline(1)[0, 1]
    assert task.pos_weight.tolist() == [1, 1]


def test_predictions_are_joined_labels_with_probabilities():
    task = MultiLabel("tags", classes=["sea", "sun", "sky"], separator=";")
    columns = task.decode(torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0]]))
    assert list(columns) == ["", "p_sea", "p_sun", "p_sky"]
    assert columns[""] == ["sea;sky", ""]
    np.testing.assert_allclose(columns["p_sky"], torch.sigmoid(torch.tensor([2.0, -1.0])))


def test_metrics_see_the_labelled_entries_alone():
    task = MultiLabel("tags", classes=2)
    metrics = task.metrics()
    mask = torch.tensor([[True, True], [True, False]])
    task.update_metrics(metrics, torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0], [0, 0]]), mask)
    assert float(metrics.compute()["accuracy"]) == pytest.approx(2 / 3)
    assert set(metrics) == set(task.metric_names)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target": "tags"}, "classes has to be given"),
        ({"target": ["a", "a"]}, "names a column twice"),
        ({"target": ["a", "b"], "classes": ["c"]}, "its 2 columns, 'a', 'b', are its labels, but 1 classes"),
        ({"target": "tags", "classes": 2, "counts": [1]}, "2 labels, but 1 counts"),
        ({"target": "tags", "classes": 2, "pos_weight": "balanced"}, "balanced pos_weight needs counts"),
        ({"target": "tags", "classes": 2, "pos_weight": "even"}, "is 'even'. Allowed"),
        ({"target": "tags", "classes": 2, "pos_weight": {"7": 1}}, "pos_weight names '7'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        MultiLabel(**parameters)


def test_without_counts_there_is_no_baseline():
    with pytest.raises(UserError, match="no baseline without counts"):
        MultiLabel("tags", classes=2).baseline(1)
