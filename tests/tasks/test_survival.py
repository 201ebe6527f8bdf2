import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks import Survival

EDGES = [2.0, 4.0, 8.0]


def task(**parameters):
    return Survival("months", "died", edges=EDGES, **parameters)


def test_it_works_in_python_without_data():
    assert (task().name, task().columns, task().outputs) == ("months", ("months", "died"), 3)
    assert task(name="life").name == "life"
    assert task().make_head(FeatureShape("vector", 4))(torch.zeros(2, 4)).shape == (2, 3)


HAZARDS = (0.1, 0.4, 0.5)


@pytest.mark.parametrize(
    ("time", "likelihood"),
    [
        (0.0, 0.1),
        (1.0, 0.1),
        (2.0, 0.1),
        (2.5, 0.9 * 0.4),
        (8.0, 0.9 * 0.6 * 0.5),
        (9.0, 0.9 * 0.6 * 0.5),  # after the last interval: without the event in all
        (-0.5, 1.0),
        (-1.0, 0.9),  # at least half of the first interval
        (-2.9, 0.9),
        (-3.0, 0.9 * 0.6),
        (-6.0, 0.9 * 0.6 * 0.5),
        (-50.0, 0.9 * 0.6 * 0.5),
    ],
)
def test_the_loss_is_minus_the_log_likelihood(time, likelihood):
    output = torch.tensor([HAZARDS]).logit()
    loss = task().loss(output, torch.tensor([time]), None)
    assert loss.item() == pytest.approx(-math.log(likelihood), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(unit=st.floats(0.01, 1000), seed=st.integers(0, 50))
def test_the_loss_does_not_depend_on_the_units(unit, seed):
    draw = torch.Generator().manual_seed(seed)
    output = torch.randn(6, 3, generator=draw)
    time = 10 * torch.rand(6, generator=draw) * torch.tensor([1, -1, 1, 1, -1, 1])
    other = Survival("months", "died", edges=[edge * unit for edge in EDGES])
    torch.testing.assert_close(task().entries(output, time), other.entries(output, time * unit))


def test_wild_outputs_have_finite_losses_and_gradients():
    output = torch.tensor([[200.0, -200.0, 200.0]] * 4, requires_grad=True)
    loss = task().loss(output, torch.tensor([1.0, 3.0, -7.0, 9.0]), None)
    loss.backward()
    assert loss.isfinite()
    assert output.grad.isfinite().all()


def test_labels_that_are_missing_change_nothing_and_rows_count_what_they_weigh():
    output, target = torch.randn(4, 3), torch.tensor([1.0, 0.0, -3.0, 5.0])
    mask, weights = torch.tensor([True, False, True, True]), torch.tensor([1.0, 9.0, 2.0, 0.5])
    entries = task().entries(output, target)
    expected = (entries[0] + 2 * entries[2] + 0.5 * entries[3]) / 3.5
    torch.testing.assert_close(task().loss(output, target, mask, weights), expected)
    halves = [task().loss(output[i::2], target[i::2], mask[i::2], weights[i::2], torch.tensor(3.5)) for i in (0, 1)]
    torch.testing.assert_close(sum(halves), expected)


def test_the_baseline_is_the_best_constant():
    # Interval 1: one event, five others pass; 2: two events, two pass; 3: one event, one passes.
    time = torch.tensor([1.0, 3.0, 4.0, 5.0, -8.0, -3.9, -0.2])
    known = task(events=[1, 2, 1], at_risk=[6, 5, 2])
    output = known.baseline(7).clone().requires_grad_()
    known.loss(output, time, None).backward()
    torch.testing.assert_close(output.grad.sum(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    never = task(events=[0, 2, 2], at_risk=[6, 5, 2])
    assert never.baseline(1).isfinite().all()


def test_predictions_are_probabilities_of_being_without_the_event():
    found = task().prediction(torch.tensor([HAZARDS]).logit())
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.54, 0.27]]))
    one, other = torch.randn(5, 3), torch.randn(5, 3)
    expected = (task().prediction(one) - task().prediction(other)).square().mean(dim=1)
    torch.testing.assert_close(task().difference(one, other), expected)


def test_decoding_gives_the_median_time_and_the_risk():
    certain, never = [100.0] * 3, [-100.0] * 3
    columns = task().decode(torch.tensor([torch.tensor(HAZARDS).logit().tolist(), certain, never], requires_grad=True))
    # From 0.54 at 4 to 0.27 at 8: one half at 4 + 4 * 0.04 / 0.27.
    np.testing.assert_allclose(columns[""], [4 + 0.16 / 0.27, 1.0, np.inf], rtol=1e-5)
    # Mean time up to 8: 2 * 0.95 + 2 * 0.72 + 4 * 0.405 = 4.96.
    np.testing.assert_allclose(columns["risk"], [1 - 4.96 / 8, 1 - 1 / 8, 0.0], atol=1e-6)


def test_the_metrics_know_who_is_at_risk():
    time = torch.tensor([1.0, 3.0, -5.0, 7.0, 2.0])
    exact = torch.stack([torch.where(torch.tensor(EDGES) >= t.abs(), 20.0, -20.0) for t in time])
    metrics = task().metrics()
    mask = torch.tensor([True, True, True, True, False])
    task().update_metrics(metrics, exact, time, mask)
    values = metrics.compute()
    assert float(values["concordance"]) == 1.0
    assert set(metrics) == set(task().metric_names)
    metrics.reset()
    task().update_metrics(metrics, -exact, time, mask)
    assert float(metrics.compute()["concordance"]) == 0.0
    assert metrics.compute()["integrated_brier"] > values["integrated_brier"]


def test_a_constant_prediction_orders_nothing():
    known = task(events=[1, 2, 1], at_risk=[6, 5, 2])
    metrics = known.metrics()
    known.update_metrics(metrics, known.baseline(4), torch.tensor([1.0, 3.0, -5.0, 7.0]), torch.ones(4).bool())
    assert float(metrics.compute()["concordance"]) == 0.5


def test_times_that_depend_on_a_feature_are_learned():
    torch.manual_seed(0)
    feature = torch.randn(1500, 1)
    time = torch.distributions.Exponential((feature[:, 0]).exp() / 5).sample()
    observed = torch.distributions.Exponential(torch.full((1500,), 0.1)).sample()
    target = torch.where(time <= observed, time, -observed)
    edges = torch.quantile(time[time <= observed], torch.arange(1, 9) / 8).tolist()
    learner = Survival("t", "e", edges=edges)
    head = learner.make_head(FeatureShape("vector", 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        learner.loss(head(feature), target, None).backward()
        optimizer.step()
    metrics = learner.metrics()
    learner.update_metrics(metrics, head(feature), target, torch.ones(1500).bool())
    values = metrics.compute()
    truth = learner.metrics()
    # The true probabilities of getting through each interval.
    rate = feature.exp() / 5
    starts = torch.cat([torch.zeros(1), torch.tensor(edges[:-1])])
    hazards = 1 - (-rate * (torch.tensor(edges) - starts)).exp()
    learner.update_metrics(truth, hazards.logit(), target, torch.ones(1500).bool())
    for name, value in truth.compute().items():
        assert float(values[name]) == pytest.approx(float(value), abs=0.01), name
    # Of rows whose rate is 1/5, half have the event by 5 log 2.
    assert learner.decode(head(torch.zeros(1, 1)))[""][0] == pytest.approx(5 * math.log(2), rel=0.15)


def test_the_data_complete_the_parameters_as_plain_values():
    summary = TargetSummary(labelled=9, edges=np.array(EDGES), counts=np.array([1, 2, 1]), known=np.array([6, 5, 2]))
    parameters = Survival.complete({"time": "t", "event": "e"}, summary)
    assert json.loads(json.dumps(parameters)) == {
        "time": "t",
        "event": "e",
        "edges": EDGES,
        "events": [1, 2, 1],
        "at_risk": [6, 5, 2],
    }
    spec = Survival.target_spec({"time": "t", "event": "e", "intervals": 5})
    assert (spec.kind, spec.columns, spec.intervals) == ("survival", ("t", "e"), 5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"time": "t", "event": "t", "edges": EDGES}, "the same column, 't'"),
        ({"time": "t", "event": "e"}, "edges has to be given"),
        ({"time": "t", "event": "e", "edges": [2.0, 1.0]}, "must be rising"),
        ({"time": "t", "event": "e", "edges": [0.0, 1.0]}, "numbers above 0"),
        ({"time": "t", "event": "e", "edges": EDGES, "intervals": 0}, "intervals is 0"),
        ({"time": "t", "event": "e", "edges": EDGES, "events": [1]}, "3 intervals, but 1 numbers in events"),
        ({"time": "t", "event": "e", "edges": EDGES, "metric": "auroc"}, "no metric 'auroc'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Survival(**parameters)
