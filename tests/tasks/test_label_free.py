"""Losses and metrics of tasks that need no labels."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.tasks import Contrastive, MaskedTokens, Reconstruction, Rotation
from polytask.tasks.metrics import optimum
from polytask.tasks.token_head import ChosenTokens, TokenLogits

COUNTS = [0, 3, 5, 2, 6]


def scored(task, output, target, mask):
    metrics = task.metrics()
    task.update_metrics(metrics, task.condensed(output), target, mask)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_they_are_auxiliary_need_no_labels_and_predict_nothing():
    for task in (Rotation(), Contrastive(), MaskedTokens(counts=COUNTS), Reconstruction(mean=[0.0])):
        assert task.auxiliary and not task.needs_labels and task.columns == ()
        assert task.decode(torch.zeros(2, 3)) == {}
        assert set(task.metrics()) >= {task.metric}
        assert all(math.isfinite(optimum(name)) for name in task.metric_names)


def brute_force(output, temperature):
    """NT-Xent as it is written: a sum over all pairs."""
    versions = [F.normalize(row, dim=0) for row in torch.cat([output[:, 0], output[:, 1]])]
    total, rows = 0.0, len(output)
    for i, one in enumerate(versions):
        j = (i + rows) % (2 * rows)
        others = [torch.exp(one @ other / temperature) for k, other in enumerate(versions) if k != i]
        total = total - torch.log(torch.exp(one @ versions[j] / temperature) / torch.stack(others).sum())
    return total / (2 * rows)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 6), temperature=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_the_contrastive_loss_is_nt_xent(rows, temperature, seed):
    output = torch.randn(rows, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    task = Contrastive(temperature=temperature)
    found = task.loss(output, torch.zeros(rows), None)
    assert found.item() == pytest.approx(float(brute_force(output, temperature)), abs=1e-6)


def test_contrastive_losses_of_parts_of_a_step_add_up_to_the_mean_over_rows():
    task = Contrastive()
    parts = [torch.randn(rows, 2, 4) for rows in (3, 5)]
    targets = [torch.zeros(len(part)) for part in parts]
    total = sum(task.total(target, None) for target in targets)
    found = sum(task.loss(part, target, None, None, total) for part, target in zip(parts, targets, strict=True))
    alone = [float(task.loss(part, target, None)) for part, target in zip(parts, targets, strict=True)]
    assert found.item() == pytest.approx((3 * alone[0] + 5 * alone[1]) / 8)


def test_one_row_teaches_nothing():
    output = torch.randn(1, 2, 4, requires_grad=True)
    loss = Contrastive().loss(output, torch.zeros(1), None)
    loss.backward()
    assert loss.item() == 0 and not output.grad.any()


def test_the_right_version_is_found_or_not():
    task, mask = Contrastive(), torch.ones(2, dtype=torch.bool)
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    right = torch.stack([torch.stack([one, one + 0.1 * other]), torch.stack([other, other])])
    wrong = torch.stack([torch.stack([one, other]), torch.stack([one, other])])
    assert scored(task, right, torch.zeros(2), mask)["accuracy"] == 1
    assert scored(task, wrong, torch.zeros(2), mask)["accuracy"] == 0
    mask = torch.ones(5, dtype=torch.bool)
    assert scored(task, task.baseline(5), torch.zeros(5), mask)["accuracy"] == pytest.approx(1 / 9)
    assert task.loss(task.baseline(5), torch.zeros(5), None).item() == pytest.approx(math.log(9))


def tokens(seed=0):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    ids, places = torch.randint(1, 5, (3, 3), generator=draw), torch.randint(0, 7, (3, 3), generator=draw)
    target = torch.stack([places, ids], dim=2) * mask.unsqueeze(2)
    features = Features(torch.randn(3, 7, 6, generator=draw), torch.ones(3, 7, dtype=torch.bool))
    return features, target, mask


def test_tokens_are_told_only_where_they_were_chosen():
    task = MaskedTokens(counts=COUNTS)
    features, target, mask = tokens()
    head = task.make_head(FeatureShape("tokens", 6))
    output = head(task.at_labels(features, target, mask))
    everywhere = head(features)
    assert (len(output), output.logits.shape) == (3, (6, 5))
    losses = []
    for row in range(3):
        for place in range(3):
            if mask[row, place]:
                at, wanted = target[row, place]
                losses.append(F.cross_entropy(everywhere.logits.view(3, 7, 5)[row, at], wanted))
    expected = torch.stack(losses).mean().detach()
    torch.testing.assert_close(task.loss(output, target, mask), expected)
    torch.testing.assert_close(task.loss(output, target, mask, None, torch.tensor(12)), expected / 2)
    assert task.total(target, mask) == 6
    entries = task.entries(output, target)
    assert entries.shape == mask.shape
    torch.testing.assert_close(entries[mask].mean(), expected)
    found = scored(task, output, target, mask)
    assert found["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((output.logits.argmax(1) == target[mask][:, 1]).float().mean()))


def test_features_of_other_tokens_get_no_gradient():
    task = MaskedTokens(counts=COUNTS)
    features, target, mask = tokens()
    values = features.values.requires_grad_()
    output = task.make_head(FeatureShape("tokens", 6))(task.at_labels(features, target, mask))
    task.loss(output, target, mask).backward()
    used = torch.zeros(3, 7, dtype=torch.bool)
    for row, place in mask.nonzero().tolist():
        used[row, target[row, place, 0]] = True
    assert torch.equal(values.grad.abs().sum(2) > 0, used)


def test_the_baseline_of_tokens_is_how_often_they_occur():
    task = MaskedTokens(counts=COUNTS)
    _, target, mask = tokens()
    shares = torch.tensor([0.5, 3, 5, 2, 6]) / 16.5
    expected = -shares[target[mask][:, 1]].log().mean()
    torch.testing.assert_close(task.loss(task.baseline(3), target, mask), expected)
    assert scored(task, task.baseline(3), target, mask)["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5), st.randoms())
def test_rows_of_token_logits_can_be_chosen_joined_and_spread(masks, random):
    there = torch.tensor(masks)
    logits = torch.randn(int(there.sum()), 4)
    whole = TokenLogits(logits, there)
    table = torch.zeros(len(there), 3, 4)
    table[there] = logits
    rows = torch.tensor(random.sample(range(len(masks)), random.randint(0, len(masks))), dtype=torch.int64)
    chosen = whole.select(rows)
    assert torch.equal(chosen.there, there[rows])
    assert torch.equal(chosen.logits, table[rows][there[rows]])
    twice = TokenLogits.join([whole, chosen])
    assert torch.equal(twice.select(torch.arange(len(there), len(twice))).logits, chosen.logits)
    spread = whole.spread(2, len(there) + 3)
    assert len(spread) == len(there) + 3 and torch.equal(spread.select(torch.arange(2, 2 + len(there))).there, there)
    assert isinstance(whole.map(lambda values: values), TokenLogits)
    assert ChosenTokens(logits, there).there is there


def test_numbers_and_categories_are_restored():
    task = Reconstruction(mean=[0.0, 0.5], counts=[1, 2, 1, 3, 3], cardinalities=[3, 2])
    assert task.outputs == 7
    output = torch.randn(4, 7)
    target = torch.tensor([[0.3, 1, 2, 0], [-1, 0, 0, 1], [0, 0, 1, 1], [2, 1, 0, 0]])
    entries = task.entries(output, target)
    torch.testing.assert_close(entries[:, :2], (output[:, :2] - target[:, :2]) ** 2)
    torch.testing.assert_close(entries[:, 2], F.cross_entropy(output[:, 2:5], target[:, 2].long(), reduction="none"))
    torch.testing.assert_close(entries[:, 3], F.cross_entropy(output[:, 5:], target[:, 3].long(), reduction="none"))
    found = scored(task, output, target, torch.ones_like(target, dtype=torch.bool))
    assert found["error"] == pytest.approx(float(entries.mean()), rel=1e-5)
    assert found["mse"] == pytest.approx(float(entries[:, :2].mean()), rel=1e-5)
    right = torch.stack([output[:, 2:5].argmax(1), output[:, 5:].argmax(1)], 1) == target[:, 2:]
    assert found["accuracy"] == pytest.approx(float(right.float().mean()))
    baseline = task.baseline(4)
    torch.testing.assert_close(baseline[0, :2], torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(baseline[0, 2:5].exp(), torch.tensor([0.25, 0.5, 0.25]))
    only = Reconstruction(counts=[1, 2], cardinalities=[2])
    assert math.isnan(scored(only, torch.zeros(2, 2), torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))["mse"])


@pytest.mark.parametrize("size", [(8, 8), (5, 11), (20, 16), (33, 32)])
def test_images_of_any_size_are_restored(size):
    task = Reconstruction(mean=[0.1, 0.2, 0.3], image_size=size)
    output = task.make_head(FeatureShape("vector", 7))(torch.randn(2, 7))
    assert output.shape == (2, 3, *size)
    assert task.outputs == output[0].numel()
    target = torch.randn(output.shape)
    found = scored(task, output, target, torch.ones_like(target, dtype=torch.bool))
    assert found["error"] == found["mse"] == pytest.approx(float(F.mse_loss(output, target)), rel=1e-5)
    assert math.isnan(found["accuracy"])
    assert task.baseline(2).shape == output.shape


def test_a_guess_is_right_for_a_quarter_of_the_turns():
    task = Rotation()
    target = torch.arange(4)
    assert task.loss(task.baseline(4), target, None).item() == pytest.approx(math.log(4))
    assert scored(task, torch.eye(4), target, torch.ones(4, dtype=torch.bool))["accuracy"] == 1


@pytest.mark.parametrize(
    ("cls", "parameters", "message"),
    [
        (Contrastive, {"temperature": 0.0}, "temperature is 0.0"),
        (Contrastive, {"share": 1.0}, "share is 1.0"),
        (Contrastive, {"area": 0.0}, "area is 0.0"),
        (Contrastive, {"color": 2.0}, "color is 2.0"),
        (Contrastive, {"projection": 0}, "projection is 0"),
        (MaskedTokens, {"share": 0.0, "counts": COUNTS}, "share is 0.0"),
        (MaskedTokens, {}, "counts has to be given"),
        (Reconstruction, {"share": 1.0, "mean": [0.0]}, "share is 1.0"),
        (Reconstruction, {}, "mean or cardinalities"),
        (Reconstruction, {"cardinalities": [2], "counts": [1]}, "2 codes, but 1 counts"),
    ],
)
def test_wrong_parameters_are_refused(cls, parameters, message):
    with pytest.raises(UserError, match=message):
        cls(**parameters)
