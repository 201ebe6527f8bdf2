"""What the gradient engine leaves behind, and what it does when it cannot go on."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from polytask import balancing
from polytask.balancing import GramianBalancer, JacobianBalancer
from polytask.errors import UserError

from .zoo import Case, hard
from .zoo_images import unet
from .zoo_sequences import vision_transformer


class InverseLength(GramianBalancer):
    paper, year = "a test", 2020

    def weights(self, gramian: Tensor) -> Tensor:
        return gramian.diagonal().rsqrt()


class Sum(JacobianBalancer):
    paper, year = "a test", 2020

    def combine(self, jacobian: Tensor) -> Tensor:
        return jacobian.sum(0)


class Failing(GramianBalancer):
    """Weights that cannot be found."""

    paper, year = "a test", 2020

    def weights(self, gramian: Tensor) -> Tensor:
        raise ArithmeticError("no solution")


class FailingOnJacobian(JacobianBalancer):
    """An update that cannot be found."""

    paper, year = "a test", 2020

    def combine(self, jacobian: Tensor) -> Tensor:
        raise ArithmeticError("no solution")


def mlp() -> Case:
    layers = nn.Linear(10, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 9)
    return hard(nn.Sequential(*layers), torch.randn(2, 10))


def cnn() -> Case:
    layers = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3)
    return hard(nn.Sequential(*layers).to(memory_format=torch.channels_last), torch.randn(2, 2, 5, 5))


def words() -> Case:
    trunk = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(18, 12), nn.Tanh(), nn.Linear(12, 12))
    return hard(trunk, torch.tensor([[1, 2, 2], [3, 0, 1]]))


def recurrence() -> Case:
    """A weight that is read at every step."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 5)
            for step in x.unbind(1):
                h = self.cell(step, h)
            return h

    return hard(Steps(), torch.randn(2, 3, 4))


builders = pytest.mark.parametrize("build", [mlp, cnn, words, recurrence], ids=lambda build: build.__name__)
balancers = pytest.mark.parametrize("balancer", [InverseLength(), Sum()], ids=lambda balancer: type(balancer).__name__)
failing = pytest.mark.parametrize("balancer", [Failing(), FailingOnJacobian()], ids=lambda balancer: balancer.level)
given = pytest.mark.parametrize("given", [True, False], ids=["shared", "found"])


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def gradients(case: Case) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in case.model.named_parameters()}


def hooks(model: nn.Module) -> list[object]:
    """All that is registered with modules and parameters."""
    found: list[object] = []
    for owner in (*model.modules(), *model.parameters()):
        for kind in (
            *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
            "_post_accumulate_grad_hooks",
        ):
            found += list((getattr(owner, kind, None) or {}).values())
    return found


@pytest.fixture
def living_from_now_on():
    """Nothing that is there already is counted, which is much faster."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def living() -> tuple[int, int]:
    """How many tensors there are, and how many objects of all kinds."""
    gc.collect()
    found = gc.get_objects()
    return sum(issubclass(type(item), Tensor) for item in found), len(found)


def assert_as_many(before: tuple[int, int]) -> None:
    tensors, objects = living()
    assert tensors <= before[0]
    assert objects <= before[1] + 20, "a few may be the test's own"


def marked(loss: Tensor) -> weakref.ref[object]:
    """Something that is there as long as the graph of a loss."""

    class Mark:
        pass

    mark = Mark()
    loss.grad_fn.metadata["mark"] = mark
    return weakref.ref(mark)


# What is left behind


@builders
def test_forward_passes_without_a_backward_pass_leave_nothing_behind(build, living_from_now_on):
    case = build()
    balancer = InverseLength()
    balancer.backward(case.losses(), case.shared)
    case.losses()
    before = living()
    for _ in range(500):
        case.losses()
    assert_as_many(before)


@balancers
@builders
def test_steps_leave_nothing_behind(build, balancer, living_from_now_on):
    case = build()
    for _ in range(3):
        balancer.backward(case.losses(), case.shared)
    before = living()
    for number in range(75):
        balancer.backward(case.losses(), case.shared if number % 2 else None)
    balancer.backward(case.losses(), case.shared)
    assert_as_many(before)


@balancers
@builders
def test_a_graph_is_freed_with_the_losses_without_the_garbage_collector(build, balancer):
    case = build()
    gc.collect()
    gc.disable()
    try:
        losses = case.losses()
        graph = marked(losses["a"])
        balancing.gramian(losses, case.shared)
        balancer.backward(losses, case.shared)
        del losses
        assert graph() is None
    finally:
        gc.enable()


@builders
def test_the_gramian_alone_leaves_nothing_behind(build, living_from_now_on):
    case = build()
    balancing.gramian(case.losses())
    before = living()
    for _ in range(50):
        balancing.gramian(case.losses())
    assert_as_many(before)


@given
@balancers
@builders
def test_no_hook_is_left_after_a_step(build, balancer, given):
    case = build()
    losses = case.losses()
    balancing.gramian(losses, case.shared if given else None)
    balancer.backward(losses, case.shared if given else None)
    assert hooks(case.model) == []


@builders
def test_the_gramian_leaves_the_graph_as_it_was(build):
    """A hook that were left on a node would change what plain autograd gives."""
    case = build()
    parameters = list(case.model.parameters())
    losses = case.losses()
    before = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in losses.values()
    ]
    first = balancing.gramian(losses, case.shared)
    assert hooks(case.model) == []
    torch.testing.assert_close(balancing.gramian(losses, case.shared), first, rtol=0, atol=0)
    for loss, expected in zip(losses.values(), before, strict=True):
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in parameters)
    InverseLength().backward(losses, case.shared)
    together = gradients(case)
    case.model.zero_grad()
    InverseLength().backward(case.losses(), case.shared)
    torch.testing.assert_close(together, gradients(case))


@given
@failing
@builders
def test_a_method_that_fails_changes_no_gradient_and_leaves_no_hook(build, balancer, given):
    case = build()
    InverseLength().backward(case.losses(), case.shared)
    before = gradients(case)
    losses = case.losses()
    with pytest.raises(ArithmeticError, match="no solution"):
        balancer.backward(losses, case.shared if given else None)
    torch.testing.assert_close(gradients(case), before, rtol=0, atol=0)
    assert hooks(case.model) == []
    assert getattr(balancer, "losses", None) is None


@failing
@builders
def test_a_step_after_a_failure_is_as_any_other(build, balancer, living_from_now_on):
    case = build()
    InverseLength().backward(case.losses(), case.shared)
    expected = gradients(case)
    before = living()
    case.model.zero_grad()
    with pytest.raises(ArithmeticError):
        balancer.backward(case.losses(), case.shared)
    InverseLength().backward(case.losses(), case.shared)
    torch.testing.assert_close(gradients(case), expected, rtol=0, atol=0)
    assert_as_many(before)


@failing
@builders
def test_after_a_failure_the_graph_gives_plain_gradients_as_far_as_it_is_left(build, balancer):
    case = build()
    parameters = list(case.model.parameters())
    expected = torch.autograd.grad(sum(case.losses().values()), parameters)
    losses = case.losses()
    with pytest.raises(ArithmeticError):
        balancer.backward(losses, case.shared)
    try:
        found = torch.autograd.grad(sum(losses.values()), parameters)
    except RuntimeError as error:
        assert "second time" in str(error)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@builders
def test_a_failure_within_a_pass_leaves_no_hook_and_no_gradient(build):
    """A user's own hook that raises, in the middle of the engine's passes."""
    case = build()

    def stop(*_: object) -> None:
        raise ArithmeticError("stopped")

    handle = case.shared[0].register_hook(stop)
    for balancer in (InverseLength(), Sum()):
        with pytest.raises(ArithmeticError, match="stopped"):
            balancer.backward(case.losses(), case.shared)
    losses = case.losses()
    with pytest.raises(ArithmeticError, match="stopped"):
        balancing.gramian(losses, case.shared)
    handle.remove()
    assert hooks(case.model) == []
    assert all(p.grad is None for p in case.model.parameters())
    found = balancing.gramian(losses, case.shared)
    torch.testing.assert_close(found, balancing.gramian(case.losses(), case.shared), rtol=0, atol=0)


@balancers
@builders
def test_what_the_user_has_set_stays(build, balancer):
    case = build()
    for enabled in (True, False):
        losses = case.losses()
        with torch.set_grad_enabled(enabled):
            balancing.gramian(losses, case.shared)
            balancer.backward(losses, case.shared)
            assert torch.is_grad_enabled() == enabled
    assert all(p.grad is not None and not p.grad.requires_grad for p in case.shared)
    assert all(p.requires_grad and p.is_leaf for p in case.shared)


# What is in `.grad`


@balancers
@builders
def test_two_steps_accumulate(build, balancer):
    case = build()
    balancer.backward(case.losses(), case.shared)
    once = gradients(case)
    kept = {name: parameter.grad for name, parameter in case.model.named_parameters()}
    balancer.backward(case.losses(), case.shared)
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is kept[name], f"{name}: the tensor that was there is added to"
        torch.testing.assert_close(parameter.grad, 2 * once[name])


@balancers
def test_gradients_are_laid_out_as_their_parameters(balancer):
    case = cnn()
    weight = case.shared[0]
    assert not weight.is_contiguous()
    balancer.backward(case.losses(), case.shared)
    for parameter in case.model.parameters():
        assert parameter.grad.stride() == parameter.stride()
    transposed = nn.Parameter(torch.randn(12, 10).t())
    head = nn.Linear(12, 3)
    x = torch.randn(2, 10)
    features = (x @ transposed).tanh()
    balancer.backward([head(features).square().mean(), features.sum()], [transposed])
    assert transposed.grad.stride() == transposed.stride() == (1, 10)


@balancers
@builders
def test_no_two_gradients_share_memory(build, balancer):
    case = build()
    balancer.backward(case.losses(), case.shared)
    expected = gradients(case)
    for name, parameter in case.model.named_parameters():
        parameter.grad.fill_(torch.nan)
        others = {n: p.grad for n, p in case.model.named_parameters() if n != name}
        torch.testing.assert_close(others, {n: g for n, g in expected.items() if n != name}, rtol=0, atol=0)
        parameter.grad.copy_(expected[name])


@balancers
def test_gradients_that_somebody_else_holds_are_left_alone(balancer):
    """A function that gives the same tensor each time, and a hook that keeps what it sees."""
    constant = torch.ones(6)

    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

        @staticmethod
        def backward(ctx, gradient):
            return gradient, constant

    trunk, own, extra = nn.Linear(5, 6), nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
    seen = []
    for parameter in (trunk.weight, own, extra):
        parameter.register_hook(seen.append)
    for step in range(1, 3):
        features = Constant.apply(trunk(torch.randn(2, 5)), own)
        balancer.backward([features.sum(), Constant.apply(features, extra).square().sum()], [*trunk.parameters(), own])
        assert constant.tolist() == [1] * 6
        assert extra.grad.tolist() == [step] * 6
        if step == 1:
            held, copies = list(seen), [gradient.clone() for gradient in seen]
    torch.testing.assert_close(held, copies, rtol=0, atol=0)


@balancers
@builders
def test_later_steps_do_not_change_gradients_that_were_taken_away(build, balancer):
    """What an engine keeps to work in is not what it hands out."""
    case = build()
    balancer.backward(case.losses(), case.shared)
    taken = {name: parameter.grad for name, parameter in case.model.named_parameters()}
    copies = gradients(case)
    gramian = balancing.gramian(case.losses(), case.shared)
    copied = gramian.clone()
    case.model.zero_grad()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.mul_(1.5)
    losses = {task: 3 * loss for task, loss in case._compute().items()}
    balancing.gramian(losses, case.shared)
    balancer.backward(losses, case.shared)
    torch.testing.assert_close(taken, copies, rtol=0, atol=0)
    torch.testing.assert_close(gramian, copied, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_method_was_given_and_what_it_gave_stays(dtype):
    """A method may keep the numbers of a step, for the next ones."""

    class Keeping(GramianBalancer):
        paper, year = "a test", 2020

        def weights(self, gramian: Tensor) -> Tensor:
            self.kept = [gramian, self.losses]
            return gramian.diagonal().rsqrt()

    class KeepingJacobian(JacobianBalancer):
        paper, year = "a test", 2020

        def combine(self, jacobian: Tensor) -> Tensor:
            self.kept = [jacobian]
            return jacobian.sum(0)

    for balancer in (Keeping(), KeepingJacobian()):
        case = mlp()
        case.model.to(dtype)
        losses = case.losses() if dtype == torch.float32 else None
        if losses is None:
            heads, trunk = case.model["heads"], case.model["trunk"]
            features = trunk(torch.randn(2, 10, dtype=dtype))
            losses = {task: head(features).square().mean() for task, head in heads.items()}
        balancer.backward(losses, case.shared)
        given = [*balancer.kept, balancer.last.loss_values]
        copies = [tensor.clone() for tensor in given]
        features = case.model["trunk"](torch.randn(4, 10, dtype=dtype))
        balancer.backward({t: head(features).exp().sum() for t, head in case.model["heads"].items()}, case.shared)
        torch.testing.assert_close(given, copies, rtol=0, atol=0)


def test_steps_go_on_while_old_losses_are_kept():
    """As in a list of losses for a plot, which were not detached; one of them is itself a parameter."""

    class Ones(GramianBalancer):
        paper, year = "a test", 2020

        def weights(self, gramian: Tensor) -> Tensor:
            return gramian.new_ones(len(gramian))

    case, kept = mlp(), []
    a, b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(2.0))
    for number in range(1, 4):
        for balancer in (Ones(), Sum()):
            kept.append({**case.losses(), "leaf": a, "product": a * b})
            balancer.backward(kept[-1], [*case.shared, a, b])
        assert (a.grad.item(), b.grad.item()) == (2 * number * 3, 2 * number * 0.5)


@pytest.mark.parametrize("budget", [1e-6, 1e-2, 2e-2, 4e-2, 1.0])
def test_the_gramian_is_the_same_in_however_little_memory(budget):
    trunk = nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 30))
    case = hard(trunk, torch.randn(2, 40), tasks=[f"task {i}" for i in range(7)])
    results = []
    for balancer in (InverseLength(), InverseLength(memory_budget=budget)):
        case.model.zero_grad()
        balancer.backward(case.losses(), case.shared)
        results.append((balancer.last.gramian, gradients(case)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [mlp, cnn, words, recurrence, unet, vision_transformer])
def test_the_order_of_the_tasks_does_not_matter(build):
    case = build()
    order = ["c", "a", "b"]
    places = torch.tensor([2, 0, 1])
    forward = balancing.gramian(case.losses(), case.shared)
    losses = case.losses()
    turned = balancing.gramian({task: losses[task] for task in order}, case.shared)
    lengths = forward.diagonal().sqrt()
    relative = (turned - forward[places][:, places]) / lengths.outer(lengths)[places][:, places]
    assert relative.abs().max() < 1e-5
    InverseLength().backward(case.losses(), case.shared)
    expected = gradients(case)
    case.model.zero_grad()
    losses = case.losses()
    InverseLength().backward({task: losses[task] for task in order}, case.shared)
    torch.testing.assert_close(gradients(case), expected, rtol=1e-4, atol=1e-5)


@builders
def test_the_order_of_the_shared_parameters_does_not_matter(build):
    case = build()
    expected = balancing.gramian(case.losses(), case.shared)
    found = balancing.gramian(case.losses(), reversed([*case.shared, *case.shared]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@builders
def test_steps_of_changing_sizes_and_tasks_are_as_fresh_ones(build):
    """One balancer for ever new batches, against a new balancer for each."""
    kept = InverseLength()
    cases = [build(), build()]
    for number in range(6):
        case = cases[number % 2]
        tasks = [("a", "b", "c"), ("c",), ("b", "a")][number % 3]
        results = []
        for balancer in (kept, InverseLength()):
            case.model.zero_grad()
            losses = case.losses()
            balancer.backward({task: losses[task] for task in tasks}, case.shared)
            results.append(gradients(case))
        torch.testing.assert_close(*results, rtol=0, atol=0)


# What cannot be done


@given
@builders
def test_a_second_step_on_one_graph_is_refused_clearly(build, given):
    case = build()
    losses = case.losses()
    shared = case.shared if given else None
    InverseLength().backward(losses, shared)
    before = gradients(case)
    with pytest.raises(UserError, match="earlier backward pass.*anew"):
        InverseLength().backward(losses, shared)
    with pytest.raises(UserError, match="earlier backward pass.*anew"):
        balancing.gramian(losses, shared)
    torch.testing.assert_close(gradients(case), before, rtol=0, atol=0)
    assert hooks(case.model) == []


@given
def test_reentrant_checkpoints_are_refused_clearly(given):
    """They hide their parameters from the graph."""
    inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh())

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(4, 4), inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint.checkpoint(self.inner, self.first(x), use_reentrant=True)

    case = hard(Trunk(), torch.randn(3, 4))
    for run in (balancing.gramian, InverseLength().backward, Sum().backward):
        with pytest.raises(UserError, match="re-entrant.*use_reentrant=False"):
            run(case.losses(), case.shared if given else None)
    assert all(p.grad is None for p in case.model.parameters())


def test_a_compiled_trunk_that_gives_up_its_buffers_is_refused_clearly():
    trunk = torch.compile(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)), backend="aot_eager")
    case = hard(trunk, torch.randn(3, 4))
    # The first pass decides: after a plain one, the compiled graph counts on being passed once.
    sum(case.losses().values()).backward()
    case.model.zero_grad()
    for run in (balancing.gramian, InverseLength().backward, Sum().backward):
        with pytest.raises(UserError, match="donated_buffer = False"):
            run(case.losses(), case.shared)
    assert all(p.grad is None for p in case.model.parameters())


@pytest.mark.parametrize("kind", ["not finite", "error"])
def test_gradients_that_are_not_finite_leave_everything_as_it_was(kind):
    case = mlp()
    InverseLength().backward(case.losses(), case.shared)
    before = gradients(case)
    losses = case.losses()
    losses["b"] = losses["b"] * (torch.nan if kind == "not finite" else 0)
    with pytest.raises(UserError, match="'b'"):
        InverseLength().backward(losses, case.shared)
    torch.testing.assert_close(gradients(case), before, rtol=0, atol=0)
