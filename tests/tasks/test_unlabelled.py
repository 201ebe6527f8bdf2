"""What tasks learn from rows without labels, against the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.tasks import Classification, MultiLabel, Regression
from polytask.tasks.unlabelled import Consistency, PseudoLabels, create, names, require_probabilities

KIND = Classification("kind", classes=3)
TAGS = MultiLabel("tags", classes=2)
SIZE = Regression("size", mean=[50.0], std=[10.0])


def logits(*rows):
    """Outputs with these probabilities."""
    return torch.tensor(rows).log()


def test_every_use_is_built_by_name():
    assert names() == ("consistency", "pseudo_labels")
    assert create("pseudo_labels", threshold=0.7).threshold == 0.7
    assert create("consistency").needs_other_view and not create("pseudo_labels").needs_other_view


def test_pseudo_labels_of_classes_by_hand():
    reference = logits([0.96, 0.02, 0.02], [0.5, 0.3, 0.2], [0.01, 0.03, 0.96], [0.1, 0.89, 0.01])
    output = logits([0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2])
    found = PseudoLabels(threshold=0.95).loss(KIND, output, reference)
    # The sum over the two rows that are sure, over all four.
    assert found.loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 4)
    assert found.confident.item() == 0.5


@pytest.mark.parametrize(("threshold", "share"), [(1.0, 0.0), (0.5, 0.75), (0.0, 1.0)])
def test_the_threshold_says_which_rows_count(threshold, share):
    reference = logits([0.96, 0.02, 0.02], [0.4, 0.3, 0.3], [0.01, 0.49, 0.5], [0.1, 0.89, 0.01])
    output = torch.randn(4, 3)
    found = PseudoLabels(threshold=threshold).loss(KIND, output, reference)
    assert found.confident.item() == share
    rows = reference.exp().amax(dim=1) >= threshold
    by_hand = F.cross_entropy(output[rows], reference[rows].argmax(dim=1), reduction="sum") / 4
    torch.testing.assert_close(found.loss, by_hand)


def test_pseudo_labels_count_as_the_tasks_labels_do():
    task = Classification("kind", classes=3, class_weights={"2": 5.0}, label_smoothing=0.1)
    reference, output = 3 * torch.randn(6, 3), torch.randn(6, 3)
    found = PseudoLabels(threshold=0.0).loss(task, output, reference)
    torch.testing.assert_close(found.loss, task.entries(output, reference.argmax(dim=1)).mean())


def test_pseudo_labels_of_several_labels_count_one_by_one():
    reference = torch.tensor([[0.97, 0.02], [0.6, 0.96], [0.04, 0.5]]).logit()
    output = torch.tensor([[0.5, 0.25], [0.9, 0.75], [0.2, 0.9]]).logit()
    found = PseudoLabels(threshold=0.95).loss(TAGS, output, reference)
    # Yes, no; -, yes; no, -.
    by_hand = -(math.log(0.5) + math.log(0.75) + math.log(0.75) + math.log(0.8))
    assert found.loss.item() == pytest.approx(by_hand / 6, rel=1e-5)
    assert found.confident.item() == pytest.approx(4 / 6)
    missing = torch.tensor([[True, False], [True, True], [False, True]])
    found = PseudoLabels(threshold=0.95).loss(TAGS, output, reference, missing)
    assert found.loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 4, rel=1e-5)
    assert found.confident.item() == pytest.approx(2 / 4)


def test_consistency_is_the_mean_squared_difference():
    one, other = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), torch.tensor([[0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
    found = Consistency().loss(KIND, one.log(), other.log())
    assert found.loss.item() == pytest.approx((0.09 + 0.09 + 0.01 + 0.01) / 3 / 2)
    assert found.confident is None
    one, other = torch.tensor([[0.5, 0.3], [0.1, 0.8]]), torch.tensor([[0.2, 0.6], [0.1, 0.7]])
    found = Consistency().loss(TAGS, one.logit(), other.logit())
    assert found.loss.item() == pytest.approx((0.09 + 0.09 + 0.01) / 4)
    # Outputs for numbers are standardised as they are.
    found = Consistency().loss(SIZE, torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.0]]))
    assert found.loss.item() == pytest.approx((0.25 + 4) / 2)


def test_divergence_is_that_of_the_distributions():
    output, reference = torch.randn(5, 3), torch.randn(5, 3)
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=reference), torch.distributions.Categorical(logits=output)
    )
    found = Consistency(measure="kl").loss(KIND, output, reference)
    torch.testing.assert_close(found.loss, by_hand.mean())
    output, reference = torch.randn(5, 2), torch.randn(5, 2)
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=reference), torch.distributions.Bernoulli(logits=output)
    )
    missing = torch.rand(5, 2) < 0.6
    missing[0] = True
    found = Consistency(measure="kl").loss(TAGS, output, reference, missing)
    torch.testing.assert_close(found.loss, by_hand[missing].mean())


@given(
    st.sampled_from([PseudoLabels(threshold=0.6), Consistency(), Consistency(measure="kl")]),
    st.sampled_from([KIND, TAGS]),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_parts_with_a_common_total_add_up_to_the_whole(use, task, cut, seed):
    draw = torch.Generator().manual_seed(seed)
    output, reference = (3 * torch.randn(7, task.outputs, generator=draw) for _ in range(2))
    shape = (7,) if task is KIND else (7, 2)
    missing = torch.rand(shape, generator=draw) < 0.7
    missing[0] = missing[-1] = True
    whole = use.loss(task, output, reference, missing)
    total = int(missing.sum())
    rows = slice(0, cut), slice(cut, 7)
    parts = [use.loss(task, output[part], reference[part], missing[part], total) for part in rows]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, whole.loss)
    if use.makes_labels:
        torch.testing.assert_close(parts[0].confident + parts[1].confident, whole.confident)


@given(st.sampled_from([PseudoLabels(threshold=0.6), Consistency(), Consistency(measure="kl")]), st.integers(0, 1000))
def test_no_loss_is_negative_and_the_same_views_agree(use, seed):
    draw = torch.Generator().manual_seed(seed)
    output = 5 * torch.randn(4, 3, generator=draw)
    assert use.loss(KIND, output, 5 * torch.randn(4, 3, generator=draw)).loss >= 0
    if use.needs_other_view:
        assert use.loss(KIND, output, output).loss == pytest.approx(0, abs=1e-6)


def test_losses_are_in_float32_where_outputs_are_half():
    output = torch.randn(3, 3, dtype=torch.float16)
    for use in (PseudoLabels(), Consistency(), Consistency(measure="kl")):
        assert use.loss(KIND, output, output).loss.dtype == torch.float32


def test_the_weight_rises_over_the_ramp():
    use = Consistency(weight=4.0, ramp=0.5)
    assert use.strength(0.0) == pytest.approx(4 * math.exp(-5))
    assert use.strength(0.25) == pytest.approx(4 * math.exp(-5 * 0.25))
    assert use.strength(0.5) == use.strength(1.0) == 4
    assert PseudoLabels(weight=3.0).strength(0.0) == 3


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pseudo_labels", {"threshold": 1.5}, "threshold is 1.5, but is a probability"),
        ("pseudo_labels", {"weight": -1.0}, "weight is -1.0, but must be a number of at least 0"),
        ("consistency", {"weight": math.nan}, "weight is nan"),
        ("consistency", {"ramp": 1.1}, "ramp is 1.1, but is a share of the training"),
        ("consistency", {"measure": "js"}, "measure is 'js'. Allowed: 'squared', 'kl'"),
        ("pseudo_label", {}, "Did you mean 'pseudo_labels'"),
    ],
)
def test_values_out_of_range_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        create(name, **parameters)


@pytest.mark.parametrize(("use", "named"), [(PseudoLabels(), "pseudo_labels"), (Consistency("kl"), "measure: kl")])
def test_numbers_are_not_sure_of_themselves(use, named):
    message = rf"{named} needs probabilities, but the task 'age' \(Regression\) .*Allowed for it: {{type: consistency"
    with pytest.raises(UserError, match=message):
        require_probabilities(use, "age", Regression)
    require_probabilities(use, "kind", Classification)
    require_probabilities(Consistency(), "age", Regression)
    for method in (SIZE.confident, SIZE.divergence):
        with pytest.raises(NotImplementedError, match="Regression has no probabilities"):
            method(torch.zeros(1, 1), torch.zeros(1, 1))
