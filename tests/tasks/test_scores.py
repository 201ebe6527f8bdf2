import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from polytask.tasks.scores import NO_LABEL, class_metrics, number_metrics

pytestmark = pytest.mark.filterwarnings("error")


def reference_of_classes(probabilities, target):
    predicted = probabilities.argmax(1)
    hot = np.eye(probabilities.shape[1], dtype=int)[target]
    areas = [reference.roc_auc_score(h, p) for h, p in zip(hot.T, probabilities.T, strict=True) if 0 < h.sum() < len(h)]
    precisions = [
        reference.average_precision_score(h, p) for h, p in zip(hot.T, probabilities.T, strict=True) if h.sum()
    ]
    macro = {"average": "macro", "zero_division": 0}
    recalls = reference.recall_score(target, predicted, labels=np.unique(target), average=None)
    return {
        "accuracy": reference.accuracy_score(target, predicted),
        "balanced_accuracy": recalls.mean(),
        "precision": reference.precision_score(target, predicted, **macro),
        "recall": reference.recall_score(target, predicted, **macro),
        "f1_macro": reference.f1_score(target, predicted, **macro),
        "f1_micro": reference.f1_score(target, predicted, average="micro"),
        # scikit-learn warns of a single class.
        "mcc": reference.matthews_corrcoef(target, predicted) if len({*target, *predicted}) > 1 else 0.0,
        "auroc": np.mean(areas) if areas else np.nan,
        "average_precision": np.mean(precisions),
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    classes=st.integers(2, 6),
    coarse=st.booleans(),
    data=st.data(),
)
def test_class_metrics_equal_those_of_scikit_learn_with_absent_classes_and_ties(seed, rows, classes, coarse, data):
    present = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True))
    generator = np.random.default_rng(seed)
    target = generator.choice(present, rows)
    probabilities = generator.dirichlet(np.ones(classes), rows).astype(np.float32)
    if coarse:
        probabilities = probabilities.round(1)
    metrics = class_metrics(classes, labels=False)
    for part in np.array_split(np.arange(rows), 3):
        metrics.update(torch.from_numpy(probabilities[part]), torch.from_numpy(target[part]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(reference_of_classes(probabilities, target), abs=1e-6, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 50), labels=st.integers(1, 5), masked=st.booleans())
def test_label_metrics_equal_those_of_scikit_learn_label_by_label(seed, rows, labels, masked):
    generator = np.random.default_rng(seed)
    target = (generator.random((rows, labels)) < generator.random(labels)).astype(int)
    logits = generator.normal(size=(rows, labels)).astype(np.float32) * 30
    known = generator.random((rows, labels)) < 0.7 if masked else np.ones((rows, labels), bool)
    metrics = class_metrics(labels, labels=True)
    metrics.update(torch.from_numpy(logits), torch.from_numpy(np.where(known, target, NO_LABEL)))
    found = {name: float(value) for name, value in metrics.compute().items()}

    columns = [(target[k, i], logits[k, i], logits[k, i] > 0) for i, k in enumerate(known.T)]
    seen = [c for c in columns if c[0].any() or c[2].any()]
    both = [c for c in columns if 0 < c[0].sum() < len(c[0])]
    everything = tuple(np.concatenate(part) for part in zip(*columns, strict=True))

    def mean(values):
        values = list(values)
        return np.mean(values) if values else np.nan

    expected = {
        "accuracy": mean(everything[0] == everything[2]),
        "balanced_accuracy": mean(reference.balanced_accuracy_score(t, p) for t, _, p in both),
        "precision": mean(reference.precision_score(t, p, zero_division=0) for t, _, p in seen),
        "recall": mean(reference.recall_score(t, p, zero_division=0) for t, _, p in seen),
        "f1_macro": mean(reference.f1_score(t, p, zero_division=0) for t, _, p in seen),
        "f1_micro": mean(
            [reference.f1_score(everything[0], everything[2], zero_division=np.nan)] if known.any() else []
        ),
        "mcc": mean(reference.matthews_corrcoef(t, p) for t, _, p in both),
        "auroc": mean(reference.roc_auc_score(t, s) for t, s, _ in both),
        "average_precision": mean(reference.average_precision_score(t, s) for t, s, _ in columns if t.any()),
    }
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 60), outputs=st.integers(1, 4))
def test_number_metrics_equal_those_of_scikit_learn_output_by_output(seed, rows, outputs):
    generator = np.random.default_rng(seed)
    std = 10 ** generator.uniform(-3, 3, outputs)
    target = generator.normal(size=(rows, outputs)).astype(np.float32)
    prediction = target + generator.normal(size=(rows, outputs)).astype(np.float32)
    known = generator.random((rows, outputs)) < 0.8
    known[:2] = True
    metrics = number_metrics(torch.from_numpy(std))
    for part in np.array_split(np.arange(rows), 2):
        metrics.update(*(torch.from_numpy(values[part]) for values in (prediction, target, known)))
    found = {name: float(value) for name, value in metrics.compute().items()}
    pairs = [
        (target[k, i].astype(float) * s, prediction[k, i].astype(float) * s)
        for i, (k, s) in enumerate(zip(known.T, std, strict=True))
    ]
    expected = {
        "mae": np.mean([reference.mean_absolute_error(*pair) for pair in pairs]),
        "rmse": np.mean([reference.root_mean_squared_error(*pair) for pair in pairs]),
        "r2": np.mean([reference.r2_score(*pair) for pair in pairs]),
        "pearson": np.mean([stats.pearsonr(*pair).statistic for pair in pairs]),
        "spearman": np.mean([stats.spearmanr(*pair).statistic for pair in pairs]),
    }
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_what_is_not_defined_is_nan_and_nothing_warns():
    metrics = class_metrics(3, labels=False)
    metrics.update(torch.eye(3)[:1], torch.tensor([0]))
    assert math.isnan(metrics.compute()["auroc"])
    assert metrics.compute()["average_precision"] == 1

    one_row = number_metrics(torch.ones(1))
    one_row.update(torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[True]]))
    assert math.isnan(one_row.compute()["r2"])
    assert one_row.compute()["mae"] == 1

    constant = number_metrics(torch.ones(1))
    constant.update(torch.randn(5, 1), torch.full((5, 1), 0.3), torch.ones(5, 1, dtype=torch.bool))
    assert all(math.isnan(constant.compute()[name]) for name in ("r2", "pearson", "spearman"))

    empty = class_metrics(2, labels=False)
    empty.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert all(math.isnan(value) for value in empty.compute().values())


def test_metrics_that_were_never_fed_are_nan():
    for metrics in (class_metrics(2, labels=True), number_metrics(torch.ones(2))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert all(math.isnan(value) for value in metrics.compute().values())


def test_an_output_without_labels_is_left_out_of_the_mean_and_one_with_nan_predictions_is_not():
    metrics = number_metrics(torch.ones(2))
    mask = torch.tensor([[True, False], [True, False]])
    metrics.update(torch.tensor([[1.0, 9.0], [4.0, 9.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]]), mask)
    assert metrics.compute()["mae"] == 1.5
    metrics.update(torch.tensor([[1.0, torch.nan]]), torch.tensor([[1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert math.isnan(metrics.compute()["mae"])


def test_saturated_logits_do_not_become_ties():
    metrics = class_metrics(1, labels=True)
    logits = torch.arange(20.0, 60.0)[:, None]
    metrics.update(logits, (logits > 40).long())
    assert metrics.compute()["auroc"] == 1


def test_one_update_serves_all_metrics_of_a_kind():
    metrics = class_metrics(3, labels=False)
    assert sorted(map(len, metrics.compute_groups.values())) == [2, 7]
