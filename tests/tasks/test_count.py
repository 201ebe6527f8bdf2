import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks import Count

COUNTS = torch.tensor([[0.0], [1.0], [3.0], [12.0], [2.0]])


def test_it_works_in_python_without_data():
    task = Count("visits")
    assert (task.name, task.columns, task.outputs) == ("visits", ("visits",), 1)
    assert task.make_head(FeatureShape("vector", 4))(torch.zeros(2, 4)).shape == (2, 1)
    assert Count(["a", "b"], distribution="negative_binomial").outputs == 4


def test_the_loss_is_the_mean_poisson_deviance_over_the_dispersion():
    task = Count("y", mean=[4.0], std=[6.0])
    output = torch.randn(5, 1)
    rates = 4 * output.exp()
    expected = reference.mean_poisson_deviance(COUNTS[:, 0], rates[:, 0]) / (36 / 4)
    assert task.loss(output, COUNTS, None).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_one_row_by_hand():
    # p = 2 e^0.5; 2 (3 log(3 / p) - 3 + p) / (s²/m = 4.5)
    rate = 2 * math.exp(0.5)
    expected = 2 * (3 * math.log(3 / rate) - 3 + rate) / 4.5
    task = Count("y", mean=[2.0], std=[3.0])
    assert task.loss(torch.tensor([[0.5]]), torch.tensor([[3.0]]), None).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_poisson_likelihood_up_to_a_factor():
    output = torch.randn(5, 1, requires_grad=True)
    Count("y", mean=[4.0], std=[2.0]).loss(output, COUNTS, None).backward()
    other = output.detach().clone().requires_grad_()
    torch.nn.functional.poisson_nll_loss(other + math.log(4), COUNTS, log_input=True).backward()
    torch.testing.assert_close(output.grad, 2 * other.grad, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(unit=st.floats(0.01, 1000), seed=st.integers(0, 100))
def test_the_loss_and_its_gradient_do_not_depend_on_the_units(unit, seed):
    draw = torch.Generator().manual_seed(seed)
    target = torch.poisson(torch.full((6, 1), 3.0), generator=draw)
    found = []
    for scale in (1.0, unit):
        task = Count("y", mean=[3.0 * scale], std=[2.0 * scale])
        output = torch.randn(6, 1, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        value = task.loss(output, target * scale, None)
        value.backward()
        found.append((value.detach(), output.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(0.01, 200), dispersion=st.floats(0.001, 50), count=st.integers(0, 300), seed=st.floats(0.05, 5))
def test_the_negative_binomial_loss_is_minus_the_log_likelihood(rate, dispersion, count, seed):
    mean, std = 2.0, math.sqrt(2.0 + 4.0 * seed)
    task = Count("y", distribution="negative_binomial", mean=[mean], std=[std])
    output = torch.tensor([[math.log(rate / mean), math.log(dispersion / seed)]])
    found = task.loss(output, torch.tensor([[float(count)]]), None).item()
    shape = 1 / dispersion
    expected = -stats.nbinom.logpmf(count, shape, shape / (shape + rate))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_baseline_is_the_best_constant():
    target = torch.poisson(torch.full((400, 1), 3.0), generator=torch.Generator().manual_seed(0))
    task = Count("y", mean=[float(target.mean())], std=[float(target.std(correction=0))])
    best = float(task.loss(task.baseline(400), target, None))
    for shift in (-0.05, 0.05):
        assert float(task.loss(task.baseline(400) + shift, target, None)) > best
    metrics = task.metrics()
    task.update_metrics(metrics, task.baseline(400), target, torch.ones(400, 1).bool())
    assert float(metrics.compute()["d2"]) == pytest.approx(0, abs=1e-5)


def test_the_negative_binomial_baseline_has_the_training_rows_dispersion():
    task = Count("y", distribution="negative_binomial", mean=[4.0], std=[6.0])
    columns = task.decode(task.baseline(1))
    assert columns[""][0] == pytest.approx(4)
    assert columns["dispersion"][0] == pytest.approx((36 - 4) / 16)


@pytest.mark.parametrize("distribution", ["poisson", "negative_binomial"])
def test_wild_outputs_have_finite_losses_and_gradients_that_lead_back(distribution):
    task = Count("y", distribution=distribution, mean=[4.0], std=[6.0])
    output = torch.tensor([[1e4], [-1e4]]).repeat(1, task.outputs).requires_grad_()
    loss = task.loss(output, torch.tensor([[3.0], [3.0]]), None)
    loss.backward()
    assert loss.isfinite()
    assert output.grad.isfinite().all()
    assert output.grad[0, 0] > 0 > output.grad[1, 0]


def test_labels_that_are_missing_change_nothing_and_rows_count_what_they_weigh():
    task = Count(["a", "b"], mean=[2.0, 5.0], std=[1.0, 4.0])
    output, target = torch.randn(4, 2), torch.poisson(torch.full((4, 2), 3.0))
    mask = torch.tensor([[True, False], [True, True], [False, False], [True, True]])
    entries = task.entries(output, target)
    torch.testing.assert_close(task.loss(output, target.masked_fill(~mask, 0), mask), entries[mask].mean())
    weights = torch.tensor([1.0, 2.0, 5.0, 0.0])
    expected = (entries[0, 0] + 2 * entries[1].sum()) / 5
    torch.testing.assert_close(task.loss(output, target.masked_fill(~mask, 0), mask, weights), expected)
    torch.testing.assert_close(task.total(target, mask, weights), torch.tensor(5.0))
    parts = [
        task.loss(output[rows], target[rows], mask[rows], weights[rows], torch.tensor(5.0))
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), expected)


def test_the_loss_is_in_float32_where_the_output_is_half():
    loss = Count("y", mean=[1e5], std=[1e4]).loss(torch.zeros(3, 1, dtype=torch.float16), torch.full((3, 1), 1e5), None)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0, abs=1e-4)


def test_metrics_are_those_of_scikit_learn():
    task = Count("y", mean=[4.0], std=[3.0])
    draw = np.random.default_rng(0)
    target, rates = draw.poisson(4, (60, 1)).astype(np.float32), draw.gamma(4, 1, (60, 1)).astype(np.float32)
    metrics = task.metrics()
    for rows in (slice(0, 25), slice(25, 60)):
        mask = torch.ones_like(torch.tensor(target[rows])).bool()
        task.update_metrics(metrics, torch.tensor(rates[rows] / 4).log(), torch.tensor(target[rows]), mask)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "poisson_deviance": reference.mean_poisson_deviance(target[:, 0], rates[:, 0]),
            "d2": reference.d2_tweedie_score(target[:, 0], rates[:, 0], power=1),
            "mae": reference.mean_absolute_error(target, rates),
        },
        rel=1e-4,
    )
    assert set(metrics) == set(task.metric_names)


def test_metrics_look_at_labelled_entries_alone_and_are_means_over_the_columns():
    both, first, second = Count(["a", "b"]), Count("a"), Count("b")
    output, target = torch.randn(8, 2), torch.poisson(torch.full((8, 2), 2.0))
    mask = torch.rand(8, 2) < 0.7
    mask[:3] = True
    target[:2] = torch.tensor([[0.0, 1.0], [4.0, 3.0]])
    metrics = both.metrics()
    both.update_metrics(metrics, output, target.masked_fill(~mask, 0), mask)
    values = metrics.compute()
    singles = []
    for column, task in enumerate((first, second)):
        own, known = task.metrics(), mask[:, column]
        task.update_metrics(own, output[known][:, [column]], target[known][:, [column]], torch.ones(known.sum(), 1) > 0)
        singles.append(own.compute())
    for name, value in values.items():
        torch.testing.assert_close(value, (singles[0][name] + singles[1][name]) / 2)


def test_nothing_to_explain_in_a_constant():
    task = Count("y", mean=[3.0])
    metrics = task.metrics()
    task.update_metrics(metrics, torch.randn(4, 1), torch.full((4, 1), 3.0), torch.ones(4, 1).bool())
    assert metrics.compute()["d2"].isnan()


def test_predictions_are_expected_counts_and_several_are_named_by_their_columns():
    columns = Count("y", mean=[5.0]).decode(torch.tensor([[0.0], [math.log(2)]], requires_grad=True))
    np.testing.assert_allclose(columns[""], [5, 10], rtol=1e-6)
    columns = Count(["a", "b"], mean=[1.0, 2.0], std=[1.0, 2.0], distribution="negative_binomial").decode(
        torch.zeros(1, 4)
    )
    assert list(columns) == ["a", "b", "a_dispersion", "b_dispersion"]


def test_views_differ_by_the_logarithm_of_their_rates():
    task = Count(["a", "b"], distribution="negative_binomial")
    output, reference_output = torch.randn(3, 4), torch.randn(3, 4)
    expected = (output - reference_output)[:, :2].square()
    torch.testing.assert_close(task.difference(output, reference_output), expected)


@pytest.mark.parametrize("distribution", ["poisson", "negative_binomial"])
def test_a_log_linear_rate_is_learned(distribution):
    torch.manual_seed(0)
    features = torch.randn(2000, 2)
    truth = (1.0 + 0.8 * features[:, :1] - 0.4 * features[:, 1:]).exp()
    if distribution == "negative_binomial":
        truth = truth * torch.distributions.Gamma(2.0, 2.0).sample(truth.shape)
    target = torch.poisson(truth)
    task = Count("y", distribution=distribution, mean=[float(target.mean())], std=[float(target.std(correction=0))])
    head = task.make_head(FeatureShape("vector", 2))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        task.loss(head(features), target, None).backward()
        optimizer.step()
    torch.testing.assert_close(head.weight[0].detach(), torch.tensor([0.8, -0.4]), atol=0.08, rtol=0)
    if distribution == "negative_binomial":
        dispersion = task.decode(head(torch.zeros(1, 2)))["dispersion"][0]
        assert dispersion == pytest.approx(0.5, abs=0.12)


def test_the_data_complete_the_parameters_as_plain_values():
    summary = TargetSummary(labelled=9, mean=np.array([1.5]), std=np.array([2.0]))
    parameters = Count.complete({"target": "y"}, summary)
    assert json.loads(json.dumps(parameters)) == {"target": "y", "mean": [1.5], "std": [2.0]}
    spec = Count.target_spec({"target": ["a", "b"]})
    assert (spec.kind, spec.columns, spec.least) == ("numbers", ("a", "b"), 0.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs a target"),
        ({"target": "y", "distribution": "gamma"}, "no distribution 'gamma'. Allowed: 'poisson', 'negative_binomial'"),
        ({"target": "y", "mean": [0.0], "std": [1.0]}, r"is \[0.0\], but each must be above 0"),
        ({"target": "y", "mean": [1.0], "std": [0.0]}, r"std is \[0.0\]"),
        ({"target": ["a", "b"], "mean": [1.0], "std": [1.0]}, "2 targets, but 1 means and 1 std"),
        ({"target": "y", "metric": "d3"}, "no metric 'd3'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Count(**parameters)
