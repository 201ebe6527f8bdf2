import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.labels import TargetSummary
from polytask.sequences import BLANK, Sequences
from polytask.tasks import Tagging

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def target(*rows):
    values = torch.full((len(rows), max(map(len, rows))), BLANK)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row)
    return Sequences(values, torch.tensor([len(row) for row in rows]))


def certain(*rows, classes=5):
    """Outputs that predict tags."""
    tags = target(*rows)
    return Sequences(10 * torch.nn.functional.one_hot(tags.values.clamp(min=0), classes).float(), tags.lengths)


def scores(task, output, labels):
    metrics = task.metrics()
    task.update_metrics(metrics, task.condensed(output), labels, torch.ones(len(labels), dtype=torch.bool))
    return {name: value.item() for name, value in metrics.compute().items()}


def test_the_loss_is_the_mean_over_labelled_words():
    task = Tagging("pos", classes=["a", "b"])
    output = Sequences(torch.randn(2, 3, 2), torch.tensor([3, 1]))
    labels = target([0, BLANK, 1], [1])
    expected = -output.values.log_softmax(2)
    words = [expected[0, 0, 0], expected[0, 2, 1], expected[1, 0, 1]]
    torch.testing.assert_close(task.loss(output, labels, None), torch.stack(words).mean())


def test_class_weights_and_row_weights_count():
    task = Tagging("pos", classes=["a", "b"], class_weights={"b": 3.0})
    output = Sequences(torch.randn(2, 2, 2), torch.tensor([2, 1]))
    labels, rows = target([0, 1], [1]), torch.tensor([1.0, 0.5])
    loss = -output.values.log_softmax(2)
    weighted = loss[0, 0, 0] + 3 * loss[0, 1, 1] + 0.5 * 3 * loss[1, 0, 1]
    torch.testing.assert_close(task.loss(output, labels, None, rows), weighted / (1 + 3 + 1.5))
    torch.testing.assert_close(task.total(labels, None, rows), torch.tensor(5.5))


@settings(max_examples=30, deadline=None)
@given(extra=st.integers(0, 4), order=st.permutations(range(3)))
def test_padding_and_the_order_of_rows_change_nothing(extra, order):
    task = Tagging("ner", classes=BIO)
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    output, labels = Sequences(values, torch.tensor([4, 2, 3])), target([1, 2, 0, 3], [0, 1], [3, 4, BLANK])
    rows = torch.tensor(order)
    wider = Sequences(torch.cat([values, torch.randn(3, extra, 5)], dim=1), output.lengths)
    torch.testing.assert_close(
        task.loss(wider.select(rows), labels.select(rows), None), task.loss(output, labels, None)
    )
    assert scores(task, wider.select(rows), labels.select(rows)) == scores(task, output, labels)


def test_metrics_equal_a_table_made_by_hand():
    task = Tagging("ner", classes=BIO)
    labels = target([1, 2, 0, 3], [1, 0, 3, 4], [0, BLANK])
    output = certain([1, 2, 0, 4], [1, 2, 3, 4], [0, 1])
    found = scores(task, output, labels)
    # Words: 7 of 9 are right. Spans that are wanted: PER 0-1, LOC 3; PER 0, LOC 2-3. Those that are predicted: PER 0-1,
    # LOC 3; PER 0-1, LOC 2-3.
    assert found["accuracy"] == pytest.approx(7 / 9)
    assert found["span_f1"] == pytest.approx(3 / 4)
    # O: 2 of 3 wanted; B-PER 2/2; I-PER 1 of 2 predicted; B-LOC 1 of 2; I-LOC 1 of 2 predicted.
    assert found["f1_macro"] == pytest.approx((4 / 5 + 1 + 2 / 3 + 2 / 3 + 2 / 3) / 5)


def test_without_a_scheme_every_word_is_a_span():
    task = Tagging("pos", classes=["a", "b", "c"])
    found = scores(task, certain([0, 1, 2], classes=3), target([0, 1, 1]))
    assert found["span_f1"] == found["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_metrics_of_no_words_are_not_defined():
    metrics = Tagging("ner", classes=BIO).metrics()
    assert all(math.isnan(value) for value in metrics.compute().values())


def test_the_baseline_is_the_most_frequent_tag():
    task = Tagging("pos", classes=["a", "b"], counts=[1, 3])
    labels = target([0, 1, 1], [1])
    output = task.baseline(2)
    assert scores(task, output, labels)["accuracy"] == 0.75
    entropy = -(math.log(1 / 4) + 3 * math.log(3 / 4)) / 4
    assert task.loss(output, labels, None).item() == pytest.approx(entropy)


def test_a_list_of_tags_for_the_words_that_were_read():
    task = Tagging("ner", classes=BIO)
    assert task.decode(certain([1, 2], [0], [])) == {"": [["B-PER", "I-PER"], ["O"], []]}


def test_the_head_and_the_target_come_from_parameters():
    parameters = {"name": "pos", "target": "upos", "words": "text", "unseen": "unknown"}
    spec = Tagging.target_spec(parameters)
    assert (spec.kind, spec.columns, spec.words, spec.unseen) == ("tags", ("upos",), "text", "unknown")
    completed = Tagging.complete(parameters, TargetSummary(2, classes=("a", "b"), counts=(1, 2)))
    task = Tagging(**completed)
    head = task.make_head(FeatureShape("tokens", 3))
    assert head(Features(torch.randn(1, 2, 3), words=torch.tensor([[0, 1]]))).values.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "classes has to be given"),
        ({"classes": ["a"]}, "only one tag"),
        ({"classes": ["a", "b"], "label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"classes": ["a", "b"], "pool": "last"}, "pool is 'last'. Allowed: 'first' and 'mean'|pool is 'last'"),
        ({"classes": ["a", "b"], "counts": [1]}, "2 classes, but 1 counts"),
        ({"classes": ["a", "b"], "class_weights": {"a": 0, "b": 0}}, "all 0"),
        ({"classes": ["a", "b"], "metric": "f1"}, "no metric 'f1'"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        Tagging("pos", **parameters)


def test_no_baseline_without_counts():
    with pytest.raises(UserError, match="no baseline without counts"):
        Tagging("pos", classes=["a", "b"]).baseline(1)
