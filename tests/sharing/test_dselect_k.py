import math

import pytest
import torch

from polytask import sharing
from polytask.errors import UserError
from polytask.sharing.dselect_k import SelectingGate

from .one_unit import error, trained
from .test_mmoe import SHARED_SIZE, TASKS, features_of, gate_of

WIDTH = 4


def smooth_step(t, gamma):
    if t <= -gamma / 2:
        return 0.0
    if t >= gamma / 2:
        return 1.0
    return -2 / gamma**3 * t**3 + 3 / (2 * gamma) * t + 1 / 2


def selected(z, experts, gamma):
    """r(z), one expert after the other, with its number in binary digits, the greatest first."""
    digits = math.ceil(math.log2(experts))
    found = []
    for number in range(experts):
        weight = 1.0
        for place, digit in enumerate(f"{number:0{digits}b}"):
            step = smooth_step(z[place], gamma)
            weight *= step if digit == "1" else 1 - step
        found.append(weight)
    return found


def by_hand(z, alpha, experts, gamma):
    """q and the selectors' r, from `[k][digits]` and `[k]`."""
    shares = [math.exp(a) / sum(math.exp(b) for b in alpha) for a in alpha]
    selectors = [selected(each, experts, gamma) for each in z]
    return [sum(s * r[e] for s, r in zip(shares, selectors, strict=True)) for e in range(experts)], selectors


@pytest.mark.parametrize(("experts", "k", "gamma"), [(4, 2, 1.0), (8, 3, 0.5), (5, 2, 2.0), (2, 1, 1.0)])
@pytest.mark.parametrize("static", [False, True])
def test_weights_are_those_of_the_paper(experts, k, gamma, static):
    torch.manual_seed(0)
    gate = SelectingGate(None if static else WIDTH, experts, k, gamma, 0.0).double()
    for parameter in gate.parameters():
        # Some logits lie within the step and some beyond.
        torch.nn.init.normal_(parameter, std=0.5 * gamma)
    features = torch.randn(6, WIDTH, dtype=torch.float64)
    z = (gate.selection.bias if static else gate.selection(features)).detach().expand(6, -1).unflatten(1, (k, -1))
    alpha = torch.zeros(6, k) if k == 1 else gate.preference(features).detach().expand(6, -1)
    expected = [by_hand(z[row].tolist(), alpha[row].tolist(), experts, gamma)[0] for row in range(6)]
    found = gate(features).weights
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert (found >= 0).all()
    if math.log2(experts).is_integer():
        torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))


def test_at_most_k_experts_are_selected_where_the_steps_are_binary():
    gate = SelectingGate(None, 8, 2, 1.0, 0.0)
    with torch.no_grad():
        gate.selection.bias.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0, 9.0]))
        gate.preference.bias.copy_(torch.tensor([0.0, math.log(3)]))
    torch.testing.assert_close(gate(torch.ones(1, WIDTH)).weights, torch.tensor([[0, 0, 0, 0.75, 0, 0.25, 0, 0]]))


@pytest.mark.parametrize("static", [False, True])
def test_penalties_are_the_selectors_entropy_and_what_unused_codes_take(static):
    torch.manual_seed(0)
    experts, k, gamma = 5, 2, 1.0
    gate = SelectingGate(None if static else WIDTH, experts, k, gamma, 0.3).double()
    for parameter in gate.parameters():
        torch.nn.init.uniform_(parameter, -0.2, 0.2)
    features = torch.rand(6, WIDTH, dtype=torch.float64)
    z = gate.selection(features).detach().expand(6, -1).unflatten(1, (k, -1)).tolist()
    rows = [by_hand(each, [0.0] * k, experts, gamma)[1] for each in z]
    entropy = sum(-r * math.log(r + 1e-6) for row in rows for selector in row for r in selector if r) / 6
    unused = sum(1 / sum(selector) - 1 for row in rows for selector in row) / 6
    found = gate(features).penalties
    assert found["selector_entropy"].item() == pytest.approx(0.3 * entropy)
    assert found["unused_codes"].item() == pytest.approx(unused)
    assert unused > 0.1
    assert gate.eval()(features).penalties == {}


def test_penalties_are_there_for_a_reason_only():
    features = torch.rand(6, WIDTH)
    assert set(SelectingGate(WIDTH, 4, 2, 1.0, 0.1)(features).penalties) == {"selector_entropy"}
    assert SelectingGate(WIDTH, 4, 2, 1.0, 0.0)(features).penalties == {}
    assert set(SelectingGate(WIDTH, 3, 2, 1.0, 0.0)(features).penalties) == {"unused_codes"}
    assert SelectingGate(WIDTH, 3, 2, 1.0, 0.1)(features[:0]).penalties == {}


def test_selectors_of_nothing_but_unused_codes_stay_finite():
    gate = SelectingGate(None, 5, 1, 1.0, 0.1)
    with torch.no_grad():
        gate.selection.bias.copy_(torch.tensor([1.0, 1.0, 1.0]))
    found = gate(torch.ones(2, WIDTH))
    assert found.weights.tolist() == [[0.0] * 5] * 2
    sum(found.penalties.values()).backward()
    assert gate.selection.bias.grad.isfinite().all()


def test_the_penalty_drives_selectors_to_one_expert():
    torch.manual_seed(0)
    gate = SelectingGate(None, 5, 2, 1.0, 1.0)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        sum(gate(torch.ones(1, WIDTH)).penalties.values()).backward()
        optimiser.step()
    weights = gate.eval()(torch.ones(1, WIDTH)).weights
    assert weights.sum().item() == pytest.approx(1, abs=1e-3)
    assert (weights > 1e-3).sum() <= 2


def test_features_are_the_weighted_sum_of_the_experts(encoder):
    torch.manual_seed(1)
    trunk = sharing.DSelectK(experts=4, hidden=[5]).build({"row": encoder}, TASKS).eval()
    inputs = torch.randn(4, 4)
    outputs = trunk.levels[0].experts[0](encoder(inputs)).values
    for task, found in features_of(trunk, inputs).items():
        weights = gate_of(trunk, task)(encoder(inputs).values).weights
        torch.testing.assert_close(found, (weights.unsqueeze(2) * outputs).sum(1))


@pytest.mark.parametrize(("gates", "size"), [("per_example", 2 * 2 * 3 + 2 * 2 + 2 * 3 + 2), ("static", 2 * 2 + 2)])
def test_it_has_this_many_parameters(encoder, gates, size):
    trunk = sharing.DSelectK(experts=4, k=2, gates=gates, hidden=[5]).build({"row": encoder}, TASKS)
    assert sum(p.numel() for p in trunk.parameters()) == SHARED_SIZE + 4 * (3 * 5 + 5) + len(TASKS) * size


@pytest.mark.parametrize("gates", ["per_example", "static"])
def test_one_expert_is_hard_sharing(encoder, gates):
    trunk = sharing.DSelectK(experts=1, k=1, gates=gates, share_until=1).build({"row": encoder}, TASKS)
    inputs = torch.randn(4, 4)
    torch.testing.assert_close(features_of(trunk, inputs)["age"], encoder(inputs).values)
    assert set(trunk.shared_parameters()) == set(trunk.parameters())


def test_one_selector_has_no_weights_among_selectors():
    assert SelectingGate(WIDTH, 4, 1, 1.0, 0.0).preference is None


def test_tasks_with_nothing_in_common_gain_over_hard_sharing():
    assert error("dselect_k", experts=4, share_until=1) < 0.4 * error("hard")


def test_tasks_select_experts_of_their_own_where_they_have_nothing_in_common():
    tasks = ("a", "b", "c", "d")  # The first two are the same function, and so are the others.
    hard = trained("hard", tasks, functions=2, seed=2)[1]
    trunk, found = trained("dselect_k", tasks, 2, seed=2, experts=4, k=2, gates="static", share_until=1, steps=200)
    assert found < 0.2 * hard
    weights = torch.stack([gate_of(trunk, task)(torch.ones(1, 24)).weights[0] for task in tasks])
    assert (weights.max(1).values > 0.9).all()
    first, second = weights.argmax(1).split(2)
    assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"experts": 0}, "'experts' must be at least 1"),
        ({"k": 0}, "'k' must be at least 1"),
        ({"experts": 2, "k": 3}, "dselect_k: 'k' is 3, but there are 2 experts"),
        ({"gates": "dynamic"}, "'gates' must be one of 'per_example', 'static', but 'dynamic' was given"),
        ({"smoothing": 0.0}, "dselect_k: 'smoothing' must be greater than 0"),
        ({"smoothing": -1.0}, "dselect_k: 'smoothing' must be a number of at least 0"),
        ({"entropy": -0.1}, "dselect_k: 'entropy' must be a number of at least 0"),
        ({"share_until": 0}, "dselect_k: 'share_until' is 0, but the gates cannot read the raw input of Layers"),
    ],
)
def test_bad_parameters_are_refused(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.create("dselect_k", **parameters).build({"row": encoder}, TASKS)
