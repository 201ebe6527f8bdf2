import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.balancing.famo import FAMO
from polytask.errors import UserError


class Reference:
    """FAMO step by step, by autograd and the Adam of PyTorch, for a fixed set of tasks."""

    def __init__(self, count, lr=0.025, weight_decay=0.001, min_losses=0.0):
        self.logits = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        self.adam = torch.optim.Adam([self.logits], lr=lr, weight_decay=weight_decay)
        self.min_losses = torch.as_tensor(min_losses, dtype=torch.float64)

    def weights(self, losses):
        self.losses = losses.detach().double()
        leaf = self.losses.clone().requires_grad_()
        distances = leaf - self.min_losses + 1e-8
        shares = self.logits.detach().softmax(0)
        (shares * distances.log() / (shares / distances).sum().detach()).sum().backward()
        return leaf.grad

    def after_step(self, losses):
        before, after = (values - self.min_losses + 1e-8 for values in (self.losses, losses.detach().double()))
        self.adam.zero_grad()
        self.logits.softmax(0).backward(before.log() - after.log())
        self.adam.step()


class Problem:
    """Two parameters and three losses of different scales, with the same losses at every call."""

    def __init__(self):
        self.theta = torch.nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.float64))
        self.optimizer = torch.optim.SGD([self.theta], lr=0.02)

    def losses(self):
        x, y = self.theta
        return [(x - 1) ** 2 + 0.3, 20 * ((y - 1) ** 2 + 0.1), 0.05 * ((x + y) ** 2 + 1)]

    def step(self, balancer):
        self.optimizer.zero_grad()
        balancer.backward(self.losses())
        self.optimizer.step()


def losses_of(**values):
    return {task: torch.tensor(float(value), requires_grad=True) for task, value in values.items()}


def step(balancer, **values):
    balancer.backward(losses_of(**values))
    return {task: weight.item() for task, weight in balancer.last.weights.items()}


def logits(balancer):
    state = balancer.state_dict()
    return dict(zip(state["logits._extra_state"]["tasks"], state["logits.value"].tolist(), strict=True))


@pytest.mark.parametrize("same_batch", [False, True])
@pytest.mark.parametrize(("weight_decay", "min_losses"), [(0.0, None), (0.01, [0.1, 1.0, 0.04])])
def test_weights_and_logits_are_those_of_the_papers_algorithm(same_batch, weight_decay, min_losses):
    problem = Problem()
    balancer = FAMO(weight_decay=weight_decay, min_losses=min_losses, same_batch=same_batch)
    reference = Reference(3, weight_decay=weight_decay, min_losses=min_losses or 0.0)
    for number in range(60):
        # With the next step's losses in place of the same batch's, the logits move at its beginning.
        expected = reference.weights(torch.stack(problem.losses()))
        problem.step(balancer)
        torch.testing.assert_close(balancer.last.weight_values, expected, rtol=1e-4, atol=1e-7)
        with torch.no_grad():
            losses = problem.losses()
        reference.after_step(torch.stack(losses))
        if same_batch:
            balancer.after_step(losses)
        if number == 20:
            assert reference.logits.abs().max() > 0.03


def test_it_agrees_with_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours, problem = scalarization.FAMO(3), FAMO(same_batch=True), Problem()
    for _ in range(30):
        leaf = torch.stack(problem.losses()).detach().float().requires_grad_()
        theirs(leaf).backward()
        problem.step(ours)
        torch.testing.assert_close(ours.last.weight_values.float(), leaf.grad, rtol=1e-4, atol=1e-7)
        losses = problem.losses()
        ours.after_step(losses)
        theirs.update(torch.stack(losses).detach().float())


def test_the_first_weights_are_the_normalised_inverse_losses():
    balancer = FAMO()
    assert step(balancer, a=4, b=1, c=0.5) == pytest.approx({"a": 0.25 / 3.25, "b": 1 / 3.25, "c": 2 / 3.25})
    assert not balancer.looks_back


def test_the_logits_follow_the_hand_worked_first_step():
    balancer = FAMO(lr=0.1, weight_decay=0)
    step(balancer, a=4, b=1)
    # The logarithm of a fell more, so a loses; the first step of Adam is the learning rate.
    assert step(balancer, a=2, b=0.9) == pytest.approx(
        {
            t: w / (math.exp(-0.1) / 2 + math.exp(0.1) / 0.9)
            for t, w in (("a", math.exp(-0.1) / 2), ("b", math.exp(0.1) / 0.9))
        }
    )
    assert logits(balancer) == pytest.approx({"a": -0.1, "b": 0.1}, rel=1e-5)


@pytest.mark.parametrize("same_batch", [False, True])
def test_all_logarithms_fall_at_the_same_rate(same_batch):
    # Independent tasks, each with a parameter of its own: without weights, the rates would be 1 : 4.
    x = torch.nn.Parameter(torch.tensor([3.0, 3.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=2e-3)
    balancer = FAMO(weight_decay=0.0, same_batch=same_batch)

    def losses():
        return [x[0].square() + x[0], 4 * (x[1].square() + x[1])]

    trace = []
    for _ in range(600):
        optimizer.zero_grad()
        balancer.backward(losses())
        optimizer.step()
        if same_batch:
            balancer.after_step(losses())
        trace.append(torch.stack(losses()).detach().log())
    rates = trace[300] - trace[-1]
    assert rates[0] > 0.1
    assert (rates[0] / rates[1]).item() == pytest.approx(1, rel=0.05)


def test_the_trunk_gets_the_weighted_gradients(network, inputs):
    balancer = FAMO()
    for _ in range(3):
        network.zero_grad()
        balancer.backward(network.losses(inputs))
    weights = balancer.last.weight_values
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(network.trunk_gradient(), weights @ network.jacobian(inputs))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("abcd"), scale=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
def test_the_order_does_not_matter_and_a_scale_is_undone(order, scale, seed):
    straight, shuffled, scaled = FAMO(), FAMO(), FAMO()
    for row in torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)).add(0.1).tolist():
        losses = dict(zip("abcd", row, strict=True))
        weights = step(straight, **losses)
        assert step(shuffled, **{task: losses[task] for task in order}) == pytest.approx(weights, rel=1e-4)
        changed = step(scaled, **{**losses, "c": losses["c"] * scale})
        assert changed["c"] * scale / changed["a"] == pytest.approx(weights["c"] / weights["a"], rel=1e-2)


def test_a_task_that_is_absent_keeps_its_logit_and_its_last_loss_counts_per_step():
    lr, balancer = 0.1, FAMO(lr=0.1, weight_decay=0.0)
    optimizers = {task: TaskByTask(lr) for task in "abc"}
    rows = [
        {"a": 4, "b": 1, "c": 2},
        {"a": 2, "b": 1},
        {"b": 0.5, "a": 1},
        {"c": 1, "a": 1},
        {"c": 0.2, "b": 0.1, "a": 1.5},
    ]
    last = {}
    for number, row in enumerate(rows):
        known = [task for task in row if task in last]
        powers = {task: math.exp(optimizers[task].value) for task in known}
        shares = {task: power / sum(powers.values()) for task, power in powers.items()}
        falls = {task: math.log(last[task][0] / row[task]) / (number - last[task][1]) for task in known}
        for task in known:
            optimizers[task].step(shares[task] * (falls[task] - sum(shares[t] * falls[t] for t in known)))
        inverse = {task: math.exp(optimizers[task].value) / loss for task, loss in row.items()}
        expected = {task: value / sum(inverse.values()) for task, value in inverse.items()}
        assert step(balancer, **row) == pytest.approx(expected, rel=1e-4)
        last.update({task: (loss, number) for task, loss in row.items()})
    assert logits(balancer) == pytest.approx({task: adam.value for task, adam in optimizers.items()}, rel=1e-4)


class TaskByTask:
    """The Adam of PyTorch on one number."""

    def __init__(self, lr):
        self.number = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.adam = torch.optim.Adam([self.number], lr=lr)

    @property
    def value(self):
        return self.number.item()

    def step(self, gradient):
        self.number.grad = torch.tensor(gradient, dtype=torch.float64)
        self.adam.step()


def test_after_a_step_losses_are_found_by_name():
    straight, shuffled = FAMO(same_batch=True), FAMO(same_batch=True)
    assert straight.looks_back
    for balancer in (straight, shuffled):
        step(balancer, a=4, b=1, c=2)
    straight.after_step({"a": torch.tensor(3.0), "b": torch.tensor(0.2), "c": torch.tensor(1.5)})
    shuffled.after_step(
        {"c": torch.tensor(1.5), "other": torch.tensor(9.0), "a": torch.tensor(3.0), "b": torch.tensor(0.2)}
    )
    assert logits(shuffled) == pytest.approx(logits(straight))
    assert logits(straight)["b"] < 0 < logits(straight)["c"]


@pytest.mark.parametrize("end", [0.0, -1.0, math.inf])
def test_a_task_without_a_logarithm_does_not_count_when_the_others_are_compared(end):
    three, two = FAMO(weight_decay=0.0), FAMO(weight_decay=0.0)
    for values in ((4, 1, 2), (2, 0.9, end)):
        step(three, a=values[0], b=values[1], c=values[2])
        step(two, a=values[0], b=values[1])
    # Not by the logits, which the first step of Adam moves by the learning rate whatever the gradient is.
    torch.testing.assert_close(three.state_dict()["logits.mean"][:2], two.state_dict()["logits.mean"])
    assert three.state_dict()["logits.mean"][2] == 0


def test_after_a_step_only_its_tasks_are_looked_at():
    balancer = FAMO(same_batch=True)
    step(balancer, a=4, b=1, c=2)
    balancer.after_step(losses_of(a=3, b=1, c=1))
    before = logits(balancer)
    step(balancer, a=3, b=1)
    balancer.after_step(losses_of(a=3, b=0.5, c=0.1))
    assert logits(balancer)["c"] == before["c"]
    assert logits(balancer)["b"] < before["b"]


def test_after_step_is_ignored_where_the_next_losses_are_used():
    balancer = FAMO()
    step(balancer, a=4, b=1)
    balancer.after_step(losses_of(a=1, b=1))
    assert set(logits(balancer).values()) == {0}


def test_steps_that_are_never_looked_back_on_are_announced_once(caplog):
    balancer = FAMO(same_batch=True)
    step(balancer, a=4, b=1)
    balancer.after_step(losses_of(a=1, b=1))
    step(balancer, a=4, b=1)
    assert not caplog.text
    for _ in range(3):
        step(balancer, a=4, b=1)
    assert caplog.text.count("famo: after_step(losses) was not called") == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_loss_with_nothing_to_gain_leaves_the_training_to_the_others(bad, dtype):
    balancer = FAMO()
    for values in ((1.0, 2.0, 4.0), (1.0, bad, 3.0), (0.5, bad, 2.0), (0.5, 1.0, 2.0)):
        balancer.backward([torch.tensor(value, dtype=dtype, requires_grad=True) for value in values])
        weights = balancer.last.weights
        assert sum(weight.item() for weight in weights.values()) == pytest.approx(1, rel=1e-2)
        assert (weights["1"] == 0) == (values[1] == bad)
    assert all(math.isfinite(value) for value in logits(balancer).values())
    assert step(balancer, a=0, b=0) == {"a": 0, "b": 0}


def test_losses_that_overflow_do_not_spoil_the_logits():
    balancer = FAMO()
    for values in ((1, 2), (math.inf, 1), (math.nan, 1), (1, 1), (2, 1)):
        step(balancer, a=values[0], b=values[1])
    assert all(math.isfinite(value) for value in logits(balancer).values())
    assert sum(step(balancer, a=1, b=1).values()) == pytest.approx(1)


def test_one_task_alone_has_weight_1():
    balancer = FAMO()
    assert [step(balancer, a=value)["a"] for value in (3, 2, 1)] == [1, 1, 1]
    assert logits(balancer) == {"a": 0}


@pytest.mark.parametrize("same_batch", [False, True])
def test_a_saved_balancer_goes_on_as_if_it_had_not_been_saved(same_batch, tmp_path):
    def train(balancer, steps):
        seen = []
        for n in steps:
            row = {"a": 3 + n % 4, "type": 1 + n % 2, "b": 9 / (n + 1)} if n % 3 else {"b": 4, "a": n + 1}
            seen.append(step(balancer, **row))
            if same_batch:
                balancer.after_step(
                    losses_of(**{task: loss / (n + i) for i, (task, loss) in enumerate(row.items(), 1)})
                )
        return seen

    whole, first, second = (FAMO(same_batch=same_batch) for _ in range(3))
    first.prepare(["a", "type", "b"])
    expected = train(whole, range(12))
    train(first, range(6))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, range(6, 12)) == expected[6:]
    assert logits(second) == pytest.approx(logits(whole), abs=0)


def test_a_scaler_changes_neither_weights_nor_logits():
    plain, scaled = FAMO(), FAMO()
    for value in (3.0, 2.0, 1.0):
        step(plain, a=value, b=value**2)
        scaled.backward(losses_of(a=value, b=value**2), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert logits(scaled) == logits(plain)
    torch.testing.assert_close(scaled.last.weight_values, plain.last.weight_values)


def test_bad_losses_are_refused_before_anything_is_learned():
    balancer = FAMO()
    step(balancer, a=1, b=2)
    with pytest.raises(UserError, match="There are no losses"):
        balancer.backward({})
    assert balancer.state_dict()["logits.steps"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lr": 0}, "lr is 0"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"log_losses": True}, "log_losses cannot be set"),
        ({"min_losses": [math.inf]}, "the minimum of task '0' is inf"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=f"famo: {message}"):
        FAMO(**parameters)


def test_minimums_that_do_not_fit_the_tasks_are_refused():
    with pytest.raises(UserError, match="a minimum for 'dpth', which is no task"):
        FAMO(min_losses={"depth": 0.1, "dpth": 0.1}).prepare(["depth"])
