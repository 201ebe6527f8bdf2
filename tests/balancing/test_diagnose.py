import gc
import importlib
import json
import time

import pytest
import torch
from torch import nn

from polytask import MultiTaskModel
from polytask.balancing import GramianBalancer
from polytask.balancing.diagnose import diagnose
from polytask.balancing.diagnosis import Diagnosis, Mode, recommendation
from polytask.data.batch import Batch
from polytask.encoders.encoder import Encoder, Stage
from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.tasks import Classification, Regression


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    # The module, wherever the package gives its name to the function.
    monkeypatch.setattr(importlib.import_module("polytask.balancing.diagnose"), "TURN_SECONDS", 1e-9)


class First(GramianBalancer):
    """Twice the first task alone."""

    paper, year = "a test", 2020

    def weights(self, gramian):
        return 2.0 * torch.eye(len(gramian), dtype=gramian.dtype)[0]


class Network(nn.Module):
    """Batch normalisation, dropout, and heads for some tasks."""

    def __init__(self, tasks=3, trunk=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = trunk or nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(tasks))
        self.double()

    def losses(self, inputs):
        features = self.body(inputs)
        return {f"t{k}": (head(features) - k).square().mean() for k, head in enumerate(self.heads)}


@pytest.fixture
def batch():
    return torch.randn(16, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def row_of(found, name):
    (row,) = [row for row in found.rows if row.name == name]
    return row


def kept(*modules):
    """All that is to be as before, by value."""
    parameters = [p for module in modules for p in module.parameters()]
    return (
        [p.detach().clone() for p in parameters],
        [None if p.grad is None else p.grad.clone() for p in parameters],
        [b.clone() for module in modules for b in module.buffers()],
        [m.training for module in modules for m in module.modules()],
        torch.get_rng_state(),
    )


def assert_same(after, before):
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# What is measured


def test_directions_and_lengths_are_those_of_the_jacobian(network, inputs):
    jacobian = network.jacobian(inputs)
    found = diagnose(network, inputs, method=First, shared=network.trunk.parameters(), repeats=1)
    plain, exact = row_of(found, "plain"), row_of(found, "exact")
    total, first = jacobian.sum(0), jacobian[0]
    assert plain.cosine == pytest.approx((torch.dot(total, first) / total.norm() / first.norm()).item())
    assert plain.length_ratio == pytest.approx((total.norm() / first.norm() / 2).item())
    assert (exact.cosine, exact.length_ratio) == pytest.approx((1, 1))
    assert found.tasks == ("a", "b", "c")
    assert found.parameters == jacobian.shape[1]


def test_all_modes_see_the_same_dropout(batch):
    found = diagnose(Network(), batch, repeats=1)
    for name in ("exact", "update='backward'"):
        assert (row_of(found, name).cosine, row_of(found, name).length_ratio) == pytest.approx((1, 1), abs=1e-9)
    assert row_of(found, "plain").cosine < 0.9999


def test_ratios_are_times_over_that_of_the_plain_step(batch):
    found = diagnose(Network(), batch, repeats=2)
    plain = row_of(found, "plain")
    assert plain.ratio == 1
    for row in found.rows:
        if row.ratio is not None:
            assert row.ratio == pytest.approx(row.milliseconds / plain.milliseconds)
            assert row.peak_mib > 0


def test_held_weights_are_found_at_one_step_of_ten(network, inputs):
    class Slow(First):
        def weights(self, gramian):
            time.sleep(0.04)
            return super().weights(gramian)

    found = diagnose(network, inputs, method=Slow, repeats=1)
    assert row_of(found, "exact").milliseconds >= 40
    held = row_of(found, "every=10")
    assert 4 <= held.milliseconds < row_of(found, "exact").milliseconds / 2
    assert held.cosine is None
    assert "mean of 10 steps" in held.note


def test_the_peak_counts_what_a_step_allocates():
    weight = nn.Parameter(torch.ones(2**20))

    def losses(batch):
        product = weight * batch
        return [product.sum(), product.square().sum()]

    found = diagnose(losses, torch.arange(2.0**20), repeats=1)
    # 4 MiB each: the product, its square's gradient, the weight's gradient and so on.
    assert 8 <= row_of(found, "plain").peak_mib <= 24
    # The gradients of both tasks come on top.
    assert row_of(found, "exact").peak_mib >= row_of(found, "plain").peak_mib + 4


def test_the_share_of_ghost_products_is_counted_in_parameters():
    torch.manual_seed(0)
    # Few rows and many weights: the first layer's gradients need not be formed; those of the norm are.
    trunk = nn.Sequential(nn.Linear(200, 200), nn.LayerNorm(200))
    heads = nn.ModuleList(nn.Linear(200, 1) for _ in range(4))

    def losses(x):
        features = trunk(x)
        return [head(features).mean() for head in heads]

    found = diagnose(losses, torch.randn(2, 200), repeats=1)
    assert found.parameters == 200 * 201 + 400
    assert found.ghost_share == pytest.approx(200 * 201 / found.parameters)


def test_only_methods_that_can_do_without_the_gramian_show_it(network, inputs):
    without = diagnose(network, inputs, method="upgrad", repeats=1)
    assert "matrix_free=True" not in [row.name for row in without.rows]
    row = row_of(diagnose(network, inputs, method="mgda", repeats=1), "matrix_free=True")
    assert row.ratio > 0
    assert row.cosine is None
    assert "learned over many steps" in row.note


def test_a_method_that_changes_from_step_to_step_says_so(network, inputs):
    assert "those of its first" in row_of(diagnose(network, inputs, method="gradnorm", repeats=1), "exact").note
    assert not row_of(diagnose(network, inputs, method="mgda", repeats=1), "exact").note


# What is shared


def test_without_a_trunk_that_says_it_the_parameters_that_several_losses_reach_are_shared(batch):
    network = Network()
    found = diagnose(network, batch, repeats=1)
    assert found.parameters == sum(p.numel() for p in network.body.parameters())


def test_the_users_shared_parameters_go_first(batch):
    network = Network()
    found = diagnose(network, batch, shared=iter(network.body[0].parameters()), repeats=1)
    assert found.parameters == 6 * 8 + 8
    assert row_of(found, "every=10").ratio > 0


@pytest.mark.parametrize("shared", [None, []])
def test_one_task_or_nothing_shared_is_nothing_to_balance(batch, shared):
    found = diagnose(Network(1 if shared is None else 2), batch, shared=shared, repeats=1)
    assert found.parameters == 0
    assert all(row.cosine is None for row in found.rows)
    assert "nothing has to be balanced" in found.recommendation
    assert "no shared parameters" in str(found)


# Models and batches


class Layers(Encoder):
    modality = "tabular"

    def __init__(self):
        layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        super().__init__({"all": Stage(layers, FeatureShape("vector", 6))})


def labelled_model():
    torch.manual_seed(0)
    tasks = [Classification("type", classes=3), Regression(["height"], name="height", mean=[1.0], std=[2.0])]
    return MultiTaskModel({"row": Layers()}, tasks).double()


def labelled_batch(*, disjoint):
    torch.manual_seed(1)
    targets = {"type": torch.randint(3, (12,)), "height": torch.randn(12, 1, dtype=torch.float64)}
    late = torch.arange(12) >= 7
    masks = {"type": ~late if disjoint else late | True, "height": late[:, None] if disjoint else late[:, None] | True}
    return Batch.of({"row": torch.randn(12, 4, dtype=torch.float64)}, targets, masks, torch.arange(12))


def test_a_multi_task_model_with_missing_labels_is_measured_with_samples():
    model = labelled_model()
    found = diagnose(model, labelled_batch(disjoint=True), repeats=1)
    row = row_of(found, "exact, samples=")
    assert (row.cosine, row.length_ratio) == pytest.approx((1, 1))
    assert found.parameters == sum(p.numel() for p in model.trunk.parameters())


def test_only_the_mode_with_samples_is_given_them():
    seen = []

    class Noting(First):
        def backward(self, *args, samples=None, **options):
            if samples is not None:
                seen.append({task: rows.tolist() for task, rows in samples.items()})
            super().backward(*args, samples=samples, **options)

    diagnose(labelled_model(), labelled_batch(disjoint=True), method=Noting, repeats=2)
    # The first step, the one whose memory is measured, and two turns.
    assert seen == 4 * [{"type": list(range(7)), "height": list(range(7, 12))}]


def test_the_fraction_of_a_batch_has_a_row_of_each_task():
    model, sizes = labelled_model(), []

    def losses(batch):
        sizes.append(len(batch))
        return model.losses(batch)

    found = diagnose(losses, labelled_batch(disjoint=True), repeats=1)
    assert row_of(found, "batch_fraction=0.25").ratio > 0
    # A quarter of the rows, none of which has a label of the second task, and one that has.
    assert set(sizes) == {12, 3 + 1}


def test_where_all_labels_are_there_samples_say_nothing():
    found = diagnose(labelled_model(), labelled_batch(disjoint=False), repeats=1)
    assert "exact, samples=" not in [row.name for row in found.rows]


def test_frozen_parameters_of_the_trunk_are_left_out():
    model = labelled_model()
    bias = next(p for p in model.trunk.parameters() if p.ndim == 1).requires_grad_(False)
    found = diagnose(model, labelled_batch(disjoint=False), repeats=1)
    assert found.parameters == sum(p.numel() for p in model.trunk.parameters()) - bias.numel()


def test_a_function_may_give_the_losses_in_order(batch):
    network = Network()
    found = diagnose(lambda x: tuple(network.losses(x).values()), batch, method="mgda", repeats=1)
    assert found.tasks == ("0", "1", "2")
    assert found.method == "mgda"


def test_a_module_that_returns_losses_may_have_loss_functions_of_that_name(batch):
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.losses = nn.ModuleDict({"a": nn.MSELoss(), "b": nn.L1Loss()})
            self.layer = nn.Linear(6, 1).double()

        def forward(self, x):
            return {name: loss(self.layer(x), x[:, :1]) for name, loss in self.losses.items()}

    assert diagnose(Called(), batch, repeats=1).tasks == ("a", "b")


def test_a_mode_that_cannot_run_says_why(batch):
    first, second = nn.Linear(6, 5), nn.Linear(5, 5)
    heads = [nn.Linear(5, 1) for _ in range(3)]

    def losses(x):
        early = first(x.float()).tanh()
        late = second(early).tanh()
        features = {"early": early, "one": late, "two": late}
        return {task: (head(features[task]) - 1).square().mean() for task, head in zip(features, heads, strict=True)}

    found = diagnose(losses, batch, repeats=1)
    row = row_of(found, "on='features'")
    assert row.note.startswith("on='features' needs one place")
    assert (row.ratio, row.milliseconds, row.peak_mib, row.cosine) == (None, None, None, None)
    assert "needs one place" in str(found)
    assert "part(rows)" in row_of(found, "batch_fraction=0.25").note
    assert row_of(found, "on='last'").ratio > 0


# All is as before


def marked(network):
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = None if index == 1 else torch.full_like(parameter, index)
    network.heads[0].eval()
    return network


def test_the_model_and_the_random_state_are_as_before(batch):
    network = marked(Network())
    gradient = network.body[0].weight.grad
    before = kept(network)
    diagnose(network, batch, method="mgda", repeats=1)
    assert_same(kept(network), before)
    assert network.body[0].weight.grad is gradient


def test_what_a_function_calls_is_as_before_too(batch):
    network = marked(Network())
    loose = nn.Parameter(torch.ones(8, dtype=torch.float64))
    loose.grad = torch.ones(8, dtype=torch.float64)
    before = kept(network)

    def losses(x):
        features = network.body(x) * loose
        return [head(features).square().mean() for head in network.heads]

    diagnose(losses, batch, repeats=1)
    diagnose(network.losses, batch, repeats=1)
    assert_same(kept(network), before)
    assert loose.grad.eq(1).all()


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_function_may_call_a_compiled_module(batch):
    network = Network()
    compiled = torch.compile(network.body, backend="eager")
    before = kept(network)

    def losses(x):
        features = compiled(x)
        return [head(features).square().mean() for head in network.heads]

    assert row_of(diagnose(losses, batch, repeats=1), "update='backward'").cosine == pytest.approx(1)
    assert_same(kept(network), before)


@pytest.mark.parametrize("call", [1, 2, 3, 7, 20])
def test_all_is_as_before_after_an_error(batch, call):
    class Failing(Network):
        calls = 0

        def losses(self, inputs):
            self.calls += 1
            self.heads.train(self.calls % 2 == 0)
            found = super().losses(inputs)
            if self.calls == call:
                raise RuntimeError("enough")
            return found

    network = marked(Failing())
    before = kept(network)
    with pytest.raises(RuntimeError, match="enough"):
        diagnose(network, batch, repeats=1)
    assert_same(kept(network), before)
    assert gc.isenabled()


@pytest.mark.parametrize("bound", [False, True])
def test_parameters_and_buffers_that_the_forward_pass_changes_are_as_before(batch, bound):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 6, max_norm=0.5)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("cache", None)
            self.register_buffer("wide", torch.arange(3.0).expand(2, 3))
            self.register_buffer("edges", torch.eye(2).to_sparse())

        def forward(self, x):
            self.count = self.count + 1
            self.cache = x
            features = self.table(torch.arange(4))
            return [features.square().sum() * self.count, (features - 1).square().sum()]

    network = Changing()
    count, weight = network.count, network.table.weight.detach().clone()
    diagnose(network.forward if bound else network, batch, repeats=1)
    assert network.count is count
    assert count == 0
    assert network.cache is None
    assert torch.equal(network.table.weight, weight)
    assert torch.equal(network.edges.to_dense(), torch.eye(2))


def test_a_graph_from_before_can_still_be_passed_through(batch):
    network = Network(trunk=nn.Sequential(nn.Linear(6, 8), nn.Tanh()))
    waiting = sum(network.losses(batch).values())
    diagnose(network, batch, repeats=1)
    waiting.backward()
    assert network.heads[0].weight.grad is not None


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dwa"}, "level 'loss'"),
        ({"method": "graddrop"}, "level 'jacobian'"),
        ({"method": "modo"}, "3 independent batches"),
        ({"method": "up_grad"}, "Did you mean 'upgrad'"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_other_methods_and_no_rounds_are_refused(batch, options, message):
    with pytest.raises(UserError, match=message):
        diagnose(Network(), batch, **options)


def test_models_that_give_no_losses_are_refused(batch):
    network = Network()
    with pytest.raises(UserError, match="gives Tensor, but"):
        diagnose(network.body, batch)
    with pytest.raises(UserError, match="must have a method losses"):
        diagnose("model", batch)
    with pytest.raises(UserError, match="must be a scalar"):
        diagnose(lambda x: network.body(x).unbind(1), batch)
    with pytest.raises(UserError, match="task '1' is 0.5, but must be a scalar"):
        diagnose(lambda x: [network.body(x).mean(), 0.5], batch)


def test_what_the_exact_mode_refuses_is_an_error(batch):
    network = Network()
    with pytest.raises(UserError, match="'1' is not finite"):
        diagnose(lambda x: [network.body(x).mean() * scale for scale in (1, torch.inf)], batch)


# Words and tables


def modes(exact, **others):
    """Rows from costs, or pairs of cost and cosine."""
    names = {
        "plain": "plain",
        "backward": "update='backward'",
        "every": "every=10",
        "features": "on='features'",
        "last": "on='last'",
        "samples": "exact, samples=",
    }
    given = {
        "plain": (1.0, 0.5),
        **{key: pair if isinstance(pair, tuple) else (pair, None) for key, pair in others.items()},
    }
    rows = [Mode("exact", milliseconds=exact, ratio=exact, cosine=1.0)]
    for key, (cost, cosine) in given.items():
        approximation = "" if key in ("backward", "samples") else f"what {key} leaves out"
        rows.append(Mode(names[key], approximation, cost, cost, 1.0, cosine))
    return rows


def test_an_exact_step_below_two_plain_ones_is_recommended():
    words = recommendation(modes(1.9, features=(1.1, 0.999), every=1.05), 3, 100)
    assert words.startswith("Use the exact mode: a step costs 1.90 plain ones, and nothing is approximate.")
    assert words.endswith("`equal` costs 1, in another direction (cosine 0.500).")


def test_else_the_cheapest_mode_in_nearly_the_same_direction_is_recommended():
    words = recommendation(modes(4.0, features=(1.3, 0.98), last=(2.0, 0.995), every=2.5), 3, 100)
    assert words.startswith("Use on='last': a step costs 2.00 plain ones, not 4.00 as with the exact mode")
    assert "(cosine 0.995). It is approximate: what last leaves out." in words
    assert "every=10" not in words


def test_held_weights_are_named_where_they_are_cheaper_still():
    words = recommendation(modes(4.0, features=(2.0, 0.995), every=1.3), 3, 100)
    assert words.startswith("Use on='features'")
    assert "Cheaper still is every=10, at 1.30; what every leaves out." in words


def test_else_held_weights_are_recommended():
    words = recommendation(modes(4.0, features=(1.3, 0.98), every=1.4), 3, 100)
    assert "no cheaper mode comes near" in words
    assert "use every=10, which costs 1.40. It is approximate: what every leaves out." in words


def test_where_nothing_is_cheaper_the_exact_mode_stays():
    rows = [*modes(3.0, features=(2.9, 1.0), every=2.8), Mode("on='last'", "the last", note="It cannot run.")]
    assert recommendation(rows, 3, 100).startswith("Use the exact mode: a step costs 3.00 plain ones, and no cheaper")


def test_samples_are_recommended_where_they_make_the_exact_mode_cheaper():
    words = recommendation(modes(5.0, samples=1.4, features=(1.2, 0.999)), 3, 100)
    assert words.startswith("Use the exact mode with samples: a step costs 1.40 plain ones")
    assert "Without `samples=` in `backward` an exact step costs 5.00" in words
    assert "samples" not in recommendation(modes(1.5, samples=1.45), 3, 100)


def test_of_exact_modes_another_than_the_usual_one_has_to_be_notably_cheaper():
    assert recommendation(modes(1.9, backward=1.8), 3, 100).startswith("Use the exact mode")
    assert recommendation(modes(1.9, backward=1.5), 3, 100).startswith("Use update='backward'")


def test_the_plain_sum_is_said_to_do_where_it_has_the_same_direction():
    assert "its direction is nearly the same (0.996)" in recommendation(modes(1.5, plain=(1.0, 0.996)), 3, 100)
    assert recommendation(modes(1.5, plain=1.0), 3, 100).endswith("`equal` costs 1.")


@pytest.mark.parametrize(("tasks", "parameters"), [(1, 100), (3, 0)])
def test_where_nothing_is_to_be_balanced_equal_is_recommended(tasks, parameters):
    assert "use `equal`, which costs 1" in recommendation(modes(1.1), tasks, parameters)


def test_the_table_is_aligned():
    rows = (
        Mode("plain", "nothing is balanced", 1.5, 1.0, 2.0, 0.61234, 2.5),
        Mode("every=10", "old", 2.25, 1.5, None, note="a mean."),
        Mode("on='features'", "approximate", note="It cannot run here, " + "for many reasons " * 7 + "indeed."),
    )
    text = str(Diagnosis("mgda", ("a", "b"), 12345, 0.5, rows, "Use it."))
    assert text == "\n".join(
        [
            "mgda, 2 tasks, 12,345 shared parameters, 50% of them measured by ghost products",
            "",
            "mode                 ms     ratio  peak MiB    cosine    length",
            "plain              1.50      1.00      2.00    0.6123     2.500",
            "every=10           2.25      1.50",
            "on='features'    It cannot run here, for many reasons for many reasons for many reasons for many",
            "                 reasons for many reasons for many reasons for many reasons indeed.",
            "",
            "every=10: a mean.",
            "",
            "Use it.",
        ]
    )


def test_a_diagnosis_can_be_written_as_json(batch):
    found = diagnose(Network(), batch, repeats=1)
    loaded = json.loads(json.dumps(found.to_dict()))
    assert loaded["rows"][1]["name"] == "exact"
    assert loaded["tasks"] == ["t0", "t1", "t2"]
    assert loaded["recommendation"] in " ".join(str(found).split())
