"""Ways in which tasks share, and what autograd can do on the way: hooks, functions, derivatives, checkpoints, types."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import checkpoint

from .zoo import TASKS, Call, Case, case, hard, heads_for, loss_of, weight

X = 2, 12
"""The shape of the inputs."""


def layer(inputs: int = 12, outputs: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh())


def each(heads: nn.ModuleDict, features: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The tasks' losses, each on its own features."""
    return {task: loss_of(kind, heads[task](features(task))) for kind, task in enumerate(heads)}


@case()
def a_skip_to_one_head() -> Case:
    first, second, x = layer(), layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        middle = first(x)
        return each(heads, lambda task: middle if task == "b" else second(middle))

    return Case(nn.ModuleList([first, second, heads]), compute, [*first.parameters(), *second.parameters()])


@case()
def heads_that_read_inputs_middle_and_end() -> Case:
    first, second, x = layer(), layer(), torch.randn(X)
    heads = nn.ModuleDict({"a": nn.Linear(36, 3), "b": nn.Linear(24, 3), "c": nn.Linear(12, 3)})

    def compute() -> dict[str, Tensor]:
        middle = first(x)
        end = second(middle)
        read = {"a": torch.cat([x, middle, end], 1), "b": torch.cat([middle, x], 1), "c": end + middle}
        return each(heads, read.__getitem__)

    return Case(nn.ModuleList([first, second, heads]), compute, [*first.parameters(), *second.parameters()])


@case()
def a_batch_for_each_task() -> Case:
    """Each task has inputs, a pass through the trunk and a graph of its own; batch normalisation sees each alone."""
    trunk = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 12))
    heads = heads_for(torch.zeros(X))
    inputs = {task: torch.randn(2 + number, 12) for number, task in enumerate(TASKS)}
    model = nn.ModuleList([trunk, heads])
    return Case(model, lambda: each(heads, lambda task: trunk(inputs[task])), list(trunk.parameters()))


@case()
def tasks_on_parts_of_the_trunk() -> Case:
    first, second, third, x = layer(), layer(), layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        middle = first(x)
        read = {"a": second(middle), "b": third(middle), "c": third(second(x))}
        return each(heads, read.__getitem__)

    model = nn.ModuleList([first, second, third, heads])
    return Case(model, compute, [*first.parameters(), *second.parameters(), *third.parameters()])


@case()
def a_layer_that_one_task_reads_once_and_another_twice() -> Case:
    first, second, x = layer(), layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        read = {"a": first(x), "b": first(first(x)), "c": second(first(second(x)))}
        return each(heads, read.__getitem__)

    return Case(nn.ModuleList([first, second, heads]), compute, [*first.parameters(), *second.parameters()])


@case()
def an_output_that_only_one_task_reads() -> Case:
    """A layer with two outputs, one for everybody and one for a single task."""
    trunk, x = nn.Linear(12, 24), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        left, right = trunk(x).chunk(2, 1)
        return each(heads, lambda task: right.tanh() if task == "b" else left)

    return Case(nn.ModuleList([trunk, heads]), compute, list(trunk.parameters()))


@case()
def branches() -> Case:
    """A tree: some layers are read by all tasks, some by two."""
    root, branch, x = layer(), layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = root(x)
        inner = branch(features)
        return each(heads, lambda task: features if task == "a" else inner)

    return Case(nn.ModuleList([root, branch, heads]), compute, [*root.parameters(), *branch.parameters()])


@case()
def mixed_experts_for_each_task() -> Case:
    """Multi-gate mixture of experts."""
    experts, x = nn.ModuleList(layer() for _ in range(3)), torch.randn(X)
    gates, heads = nn.ModuleDict({task: nn.Linear(12, 3) for task in TASKS}), heads_for(x)

    def compute() -> dict[str, Tensor]:
        outputs = torch.stack([expert(x) for expert in experts], 1)
        return each(heads, lambda task: torch.einsum("be,bef->bf", gates[task](x).softmax(-1), outputs))

    return Case(nn.ModuleList([experts, gates, heads]), compute, list(experts.parameters()))


@case()
def cross_stitched_columns() -> Case:
    """Soft sharing: every task reaches every column, through a matrix of mixing factors."""
    x = torch.randn(X)
    columns = nn.ModuleDict({task: nn.ModuleList([layer(), layer()]) for task in TASKS})
    stitch, heads = Call(lambda m: m.w, w=weight(3, 3)), heads_for(x)

    def compute() -> dict[str, Tensor]:
        first = torch.stack([columns[task][0](x) for task in TASKS])
        mixed = torch.einsum("ij,jbf->ibf", stitch(), first)
        second = {task: columns[task][1](mixed[number]) for number, task in enumerate(TASKS)}
        return each(heads, second.__getitem__)

    shared = [p for task in TASKS for p in columns[task][0].parameters()]
    return Case(nn.ModuleList([columns, stitch, heads]), compute, [*shared, stitch.w])


@case()
def only_part_of_what_is_common_is_called_shared() -> Case:
    first, second, x = layer(), layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = second(first(x))
        return each(heads, lambda task: features)

    return Case(nn.ModuleList([first, second, heads]), compute, [first[0].bias, second[0].weight])


@case()
def a_head_that_is_called_shared() -> Case:
    trunk, x = layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        return each(heads, lambda task: features)

    return Case(nn.ModuleList([trunk, heads]), compute, [*trunk.parameters(), *heads["b"].parameters()])


@case()
def unused_and_frozen_parameters() -> Case:
    first, frozen, last, unused, x = layer(), layer(), layer(), layer(), torch.randn(X)
    frozen.requires_grad_(False)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = last(frozen(first(x)))
        return each(heads, lambda task: features)

    model = nn.ModuleList([first, frozen, last, unused, heads])
    return Case(model, compute, [*first.parameters(), *unused.parameters(), *last.parameters()])


@case()
def a_constant_loss_and_one_that_does_not_reach_the_trunk() -> Case:
    trunk, elsewhere, x = layer(), layer(), torch.randn(X)
    heads = heads_for(x, "abcd")

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        losses = each(
            heads, lambda task: elsewhere(x) if task == "b" else features.detach() if task == "d" else features
        )
        return {"constant": torch.tensor(2.0), **losses}

    model = nn.ModuleList([trunk, elsewhere, heads])
    return Case(model, compute, list(trunk.parameters()), tasks=("constant", *"abcd"))


@case()
def losses_without_heads() -> Case:
    """Gradients that are one number seen at many places, or 0 at most."""
    trunk, x = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)), torch.randn(X)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        return {"a": features.sum(), "b": features[:, 3].mean(), "c": features.max(), "d": features.norm()}

    return Case(trunk, compute, list(trunk.parameters()), tasks="abcd")


@case()
def losses_of_very_different_sizes() -> Case:
    trunk, x = layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        losses = each(heads, lambda task: features)
        return {"a": 1e-6 * losses["a"], "b": 1e6 * losses["b"], "c": 0 * losses["c"]}

    return Case(nn.ModuleList([trunk, heads]), compute, list(trunk.parameters()))


@case()
def losses_made_of_one_another() -> Case:
    trunk, x = layer(), torch.randn(X)
    head = nn.Linear(12, 1)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        first = head(features).square().mean()
        second = first.exp() + features.mean()
        return {"a": first, "b": second, "c": first, "d": 2 * second - first}

    return Case(nn.ModuleList([trunk, head]), compute, list(trunk.parameters()), tasks="abcd")


@case()
def losses_that_are_parameters() -> Case:
    model = Call(lambda m: m.a, a=nn.Parameter(torch.tensor(0.7)), b=nn.Parameter(torch.tensor(-0.3)))
    return Case(model, lambda: {"a": model.a, "b": model.a * model.b, "c": model.b.sum()}, [model.a, model.b])


@case()
def weight_penalty_in_one_loss() -> Case:
    trunk, x = layer(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        losses = each(heads, lambda task: features)
        losses["b"] = losses["b"] + 0.1 * trunk[0].weight.square().sum() + trunk[0].bias.abs().sum()
        return losses

    return Case(nn.ModuleList([trunk, heads]), compute, list(trunk.parameters()))


@case()
def learned_loss_weights() -> Case:
    """Parameters of the losses themselves, one each and one common."""
    trunk, x = layer(), torch.randn(X)
    heads, scales = heads_for(x), Call(lambda m: m.own, own=weight(3), common=weight())

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        losses = each(heads, lambda task: features)
        return {task: loss * scales().exp()[i] + scales.common**2 for i, (task, loss) in enumerate(losses.items())}

    return Case(nn.ModuleList([trunk, heads, scales]), compute, list(trunk.parameters()))


@case()
def gradient_penalty() -> Case:
    """Derivatives inside of a loss: the weights are read again by the nodes of a backward pass."""
    trunk = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12), nn.Softplus())
    points, heads = nn.Parameter(torch.randn(X)), heads_for(torch.zeros(X))

    def compute() -> dict[str, Tensor]:
        features = trunk(points)
        losses = each(heads, lambda task: features)
        (slope,) = torch.autograd.grad(features.square().sum(), points, create_graph=True)
        losses["c"] = losses["c"] + slope.square().mean()
        return losses

    return Case(nn.ModuleList([trunk, heads, nn.ParameterList([points])]), compute, list(trunk.parameters()))


@case()
def inputs_that_require_gradients() -> Case:
    trunk = Call(lambda m, x: m.layer(x + m.prompt), layer=nn.Linear(12, 12), prompt=weight(1, 12))
    return hard(trunk, torch.randn(X))


class Reversed(torch.autograd.Function):
    """Turns gradients round, as adversarial training of a domain classifier does."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -0.5 * gradient


class Affine(torch.autograd.Function):
    """A linear layer of the user's own."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w + b

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return gradient @ w.T, x.T @ gradient, gradient.sum(0)


@case()
def functions_of_the_users_own() -> Case:
    trunk, own, x = (
        layer(),
        Call(lambda m, h: Affine.apply(h, m.w, m.b), w=weight(12, 12), b=weight(12)),
        torch.randn(X),
    )
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = own(trunk(x))
        return each(heads, lambda task: Reversed.apply(features) if task == "b" else features)

    return Case(nn.ModuleList([trunk, own, heads]), compute, [*trunk.parameters(), *own.parameters()])


@case(linear=False)
def hooks_on_features_and_modules() -> Case:
    trunk, x = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)), torch.randn(X)
    heads = heads_for(x)
    trunk[2].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0.5,))
    trunk[0].register_forward_hook(lambda module, inputs, output: output * 1.5)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        features.register_hook(lambda gradient: gradient.clamp(-0.02, 0.02))
        return each(heads, lambda task: features)

    return Case(nn.ModuleList([trunk, heads]), compute, list(trunk.parameters()))


@case(linear=False)
def hooks_on_the_outputs_of_layers() -> Case:
    """A hook on the very tensor that a linear layer or a convolution gives."""

    def run(m: Call, x: Tensor) -> Tensor:
        h = m.linear(x)
        h.register_hook(lambda gradient: gradient * torch.linspace(0.5, 2, gradient.shape[1]))
        h = m.conv(h.view(-1, 4, 4))
        h.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        return h

    return hard(Call(run, linear=nn.Linear(12, 16), conv=nn.Conv1d(4, 16, 4)), torch.randn(X))


@case()
def hooks_on_parameters() -> Case:
    """Some rows of a weight are held still by a hook on the parameter."""
    trunk = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12))
    held = torch.ones(16, 1)
    held[2:5] = 0
    trunk[0].weight.register_hook(lambda gradient: gradient * held)
    trunk[2].bias.register_hook(lambda gradient: gradient * 2)
    return hard(trunk, torch.randn(X))


@case()
def gradients_kept_for_features() -> Case:
    trunk = Call(
        lambda m, x: kept(m.second(kept(m.first(x)).tanh())), first=nn.Linear(12, 16), second=nn.Linear(16, 12)
    )
    return hard(trunk, torch.randn(X))


def kept(features: Tensor) -> Tensor:
    if features.requires_grad:
        features.retain_grad()
    return features


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 12))


@case()
def checkpointed_blocks() -> Case:
    trunk = Call(
        lambda m, x: m.last(
            checkpoint.checkpoint(m.second, checkpoint.checkpoint(m.first, x, use_reentrant=False), use_reentrant=False)
        ),
        first=block(),
        second=block(),
        last=nn.Linear(12, 12),
    )
    return hard(trunk, torch.randn(X))


@case()
def checkpointed_convolutions() -> Case:
    conv = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3))
    trunk = Call(lambda m, x: checkpoint.checkpoint(m.conv, x, use_reentrant=False), conv=conv)
    return hard(trunk, torch.randn(2, 2, 5, 5))


@case()
def checkpointed_whole() -> Case:
    """Heads and all, one checkpoint a task, so that the trunk's own is nested in each."""
    trunk, x = block(), torch.randn(X)
    heads = heads_for(x)

    def compute() -> dict[str, Tensor]:
        features = checkpoint.checkpoint(trunk, x, use_reentrant=False)
        return {
            task: checkpoint.checkpoint(
                lambda h, kind=kind, task=task: loss_of(kind, heads[task](h)), features, use_reentrant=False
            )
            for kind, task in enumerate(TASKS)
        }

    return Case(nn.ModuleList([trunk, heads]), compute, list(trunk.parameters()))


@case()
def activations_saved_elsewhere() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
            return m.block(x)

    return hard(Call(run, block=block()), torch.randn(X))


@case(dtypes=(torch.float32,))
def compiled_trunk() -> Case:
    """Several passes over a compiled graph need `torch._functorch.config.donated_buffer = False`."""
    trunk = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12))
    return hard(torch.compile(trunk, backend="aot_eager"), torch.randn(X))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def mixed_types() -> Case:
    """A trunk in bfloat16 under heads in float32."""
    trunk = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 8)).bfloat16()
    return hard(Call(lambda m, x: m.trunk(x.bfloat16()).float(), trunk=trunk), torch.randn(X))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def mixed_types_within_the_trunk() -> Case:
    trunk = Call(
        lambda m, x: m.last(m.first(x.bfloat16()).tanh().float()) + m.norm(x),
        first=nn.Linear(12, 16).bfloat16(),
        last=nn.Linear(16, 12),
        norm=nn.LayerNorm(12),
    )
    return hard(trunk, torch.randn(X))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def normalisation_in_full_precision_of_half_precision() -> Case:
    trunk = Call(
        lambda m, x: m.norm(m.layer(x.bfloat16())).float() + m.norm(m.layer(x.bfloat16()).float()),
        layer=nn.Linear(12, 16).bfloat16(),
        norm=nn.LayerNorm(16),
    )
    return hard(trunk, torch.randn(X))


@case(dtypes=(torch.float32,))
def double_precision_within_the_trunk() -> Case:
    trunk = Call(
        lambda m, x: m.last(m.first(x.double()).tanh().float()),
        first=nn.Linear(12, 16).double(),
        last=nn.Linear(16, 12),
    )
    return hard(trunk, torch.randn(X))


def in_autocast(inner: Case) -> Case:
    def compute() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return inner._compute()

    return Case(inner.model, compute, inner.shared, tasks=inner.tasks)


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def autocast() -> Case:
    return in_autocast(hard(nn.Sequential(block(), nn.Tanh(), nn.Linear(12, 6)), torch.randn(X)))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def autocast_of_convolutions() -> Case:
    layers = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 2), nn.ReLU(), nn.Conv2d(16, 16, 2)
    return in_autocast(hard(nn.Sequential(*layers), torch.randn(2, 2, 5, 5)))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def autocast_of_attention() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
    trunk = nn.Sequential(nn.Embedding(9, 8), layer)
    return in_autocast(hard(trunk, torch.tensor([[1, 2, 3, 2], [4, 4, 1, 0]])))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def autocast_with_tied_weights() -> Case:
    """Casts are cached: both uses read one copy of the weight."""
    trunk = Call(lambda m, x: functional.linear(m.layer(m.layer(x).tanh()), m.layer.weight), layer=nn.Linear(12, 12))
    return in_autocast(hard(trunk, torch.randn(X)))


@case(dtypes=(torch.float32,), computes_in=torch.bfloat16)
def autocast_of_checkpoints() -> Case:
    trunk = Call(lambda m, x: checkpoint.checkpoint(m.block, x, use_reentrant=False), block=block())
    return in_autocast(hard(trunk, torch.randn(X)))
