import logging
import math
from itertools import groupby, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.labels import TargetSummary
from polytask.sequences import BLANK, Sequences
from polytask.tasks import CTC


def target(*rows):
    values = torch.full((len(rows), max(1, *map(len, rows))), BLANK)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Sequences(values, torch.tensor([len(row) for row in rows]))


def task(**parameters):
    return CTC("text", **{"classes": ["a", "b"], "counts": [3, 1], "longest": 3, **parameters})


def by_definition(row, symbols):
    """-log of the probability of all paths that spell some symbols."""
    probabilities = row.softmax(dim=1).tolist()
    total = 0.0
    for path in product(range(len(probabilities[0])), repeat=len(probabilities)):
        if [output - 1 for output, _ in groupby(path) if output] == symbols:
            total += math.prod(each[output] for each, output in zip(probabilities, path, strict=True))
    return -math.log(total)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), symbols=st.lists(st.integers(0, 1), max_size=2), length=st.integers(3, 5))
def test_the_loss_is_that_of_all_ways_to_spell_the_text(seed, symbols, length):
    values = torch.randn(1, length, 3, generator=torch.Generator().manual_seed(seed))
    padded = Sequences(torch.cat([values, torch.randn(1, 2, 3)], dim=1), torch.tensor([length]))
    expected = by_definition(values[0], symbols) / max(len(symbols), 1)
    assert task().loss(padded, target(symbols), None).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_mean_is_over_rows():
    output = Sequences(torch.randn(2, 5, 3), torch.tensor([5, 4]))
    labels = target([0, 1, 0], [1])
    each = [task().loss(output.select(torch.tensor([row])), labels.select(torch.tensor([row])), None) for row in (0, 1)]
    torch.testing.assert_close(task().loss(output, labels, None), torch.stack(each).mean())


def test_rows_that_are_too_short_are_said_once(caplog):
    one, output = task(), Sequences(torch.randn(2, 4, 3, requires_grad=True), torch.tensor([2, 4]))
    with caplog.at_level(logging.WARNING, logger="polytask"):
        for _ in range(2):
            loss = one.entries(output, target([0, 0], [0, 1]))
    assert loss[0] == 0 < loss[1]
    loss.sum().backward()
    assert output.values.grad.isfinite().all()
    assert [record.getMessage() for record in caplog.records] == [
        "Task 'text': 1 of the 2 rows of a batch have fewer positions than their text needs, so they cannot be spelled "
        "and their loss is 0. An encoder with less stride gives more; see also `unit: words`."
    ]


def certain(*paths):
    """Outputs that are certain of a path of symbols each, BLANK for nothing."""
    values = target(*paths)
    return Sequences(20 * nn.functional.one_hot(values.values + 1, 3).float(), values.lengths)


@pytest.mark.parametrize("beam", [1, 4])
def test_texts_are_decoded_and_scored(beam):
    output = certain([0, 0, BLANK, 0, 1], [1, BLANK], [BLANK])
    letters, words = task(beam=beam), task(beam=beam, unit="words", classes=["yes", "no"])
    assert letters.decode(output) == {"": ["aab", "b", ""]}
    assert words.decode(output) == {"": ["yes yes no", "no", ""]}
    metrics = letters.metrics()
    mask = torch.tensor([True, True, False])
    letters.update_metrics(metrics, letters.condensed(output), target([0, 0, 1], [0], []), mask)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx({"wer": 1 / 2, "cer": 1 / 4, "accuracy": 1 / 2})


def test_the_baseline_says_nothing_and_its_loss_is_finite():
    output, labels = task().baseline(2), target([0, 1, 1], [0])
    assert task().decode(output) == {"": ["", ""]}
    assert 0 < task().loss(output, labels, None).item() < 100
    with pytest.raises(UserError, match="no baseline without counts"):
        CTC("text", classes=["a"]).baseline(1)


def test_an_unknown_letter_is_shown_as_such():
    one = CTC("text", classes=["a", "unknown"], unseen="unknown")
    assert one.texts(target([0, 1])) == ["a\N{REPLACEMENT CHARACTER}"]
    assert CTC("text", classes=["a", "unknown"], unseen="unknown", unit="words").texts(target([0, 1])) == ["a unknown"]


def test_it_learns_to_spell():
    torch.manual_seed(0)
    one = task()
    head = one.make_head(FeatureShape("tokens", 2))
    labels = target([0, 1], [1], [1, 0], [0])
    # What is to be said shows in two positions each, with nothing in between.
    values = torch.zeros(4, 8, 2)
    for row, symbols in enumerate([[0, 1], [1], [1, 0], [0]]):
        for place, symbol in enumerate(symbols):
            values[row, 4 * place : 4 * place + 2, symbol] = 1.0
    mask = torch.ones(4, 8, dtype=torch.bool)
    optimizer = torch.optim.Adam(head.parameters(), 0.2)
    for _ in range(60):
        optimizer.zero_grad()
        one.loss(head(Features(values, mask)), labels, None).backward()
        optimizer.step()
    assert one.decode(head(Features(values)))[""] == ["ab", "b", "ba", "a"]


def test_parameters_follow_from_the_data():
    parameters = {"name": "said", "unit": "words"}
    spec = CTC.target_spec(parameters)
    assert (spec.kind, spec.columns, spec.unit) == ("text", ("said",), "words")
    completed = CTC.complete(parameters, TargetSummary(3, classes=("no", "yes"), counts=(1, 2), longest=4))
    assert (CTC(**completed).outputs, CTC(**completed).longest) == (3, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classes": None}, "classes has to be given"),
        ({"unit": "syllables"}, "unit is 'syllables'"),
        ({"beam": 0}, "beam is 0"),
        ({"counts": [1]}, "2 classes, but 1 counts"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        task(**parameters)


def test_rows_count_in_the_mean_as_they_are_weighted():
    output, labels, rows = (
        Sequences(torch.randn(2, 5, 3), torch.tensor([5, 5])),
        target([0], [1]),
        torch.tensor([1, 3.0]),
    )
    losses = task().entries(output, labels)
    torch.testing.assert_close(task().loss(output, labels, None, rows), (losses[0] + 3 * losses[1]) / 4)
    assert task().total(labels, None).item() == 2
    assert task().total(labels, None, rows).item() == 4
