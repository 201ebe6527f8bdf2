"""Tasks with samples of their own: one batch through the trunk, of which each task reads some rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .zoo import Call, Case, case, heads_for, loss_of, rows_of, weight

FIVE = ("a", "b", "c", "d", "e")
SAMPLES = {"a": [0, 6, 7], "b": [1, 9], "c": [2, 3, 10, 11], "d": [4], "e": [8, 5]}
"""In no order; sample 12 belongs to no task."""
BATCH = 13

IN_PART = {"a": [0, 1, 2], "b": [2, 3], "c": [4, 5, 6, 7], "d": [0, 1, 8], "e": [9]}
"""Some tasks have samples in common."""


def disjoint(
    trunk: nn.Module,
    *inputs: Tensor,
    read: Callable[[Tensor], Tensor] = rows_of,
    numbers: Mapping[str, Sequence[int]] = SAMPLES,
) -> Case:
    """Heads that read the features of their own samples only."""
    samples = {task: torch.tensor(own) for task, own in numbers.items()}
    heads = heads_for(read(trunk(*inputs)), FIVE)

    def compute() -> dict[str, Tensor]:
        features = read(trunk(*inputs))
        return {
            task: loss_of(kind, heads[task](features.index_select(0, samples[task]))) for kind, task in enumerate(FIVE)
        }

    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    return Case(model, compute, list(trunk.parameters()), tasks=FIVE, samples=samples)


@case()
def disjoint_mlp() -> Case:
    layers = nn.Linear(60, 60), nn.ReLU(), nn.Dropout(0.2), nn.Linear(60, 40, bias=False), nn.Tanh()
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 60))


@case()
def disjoint_narrow_mlp() -> Case:
    return disjoint(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)), torch.randn(BATCH, 3))


@case()
def disjoint_with_batch_normalisation() -> Case:
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 6))


@case()
def disjoint_with_batch_normalisation_in_evaluation() -> Case:
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    return disjoint(nn.Sequential(*layers).eval(), torch.randn(BATCH, 6))


@case()
def disjoint_with_layer_normalisation() -> Case:
    layers = nn.Linear(20, 30), nn.LayerNorm(30), nn.GELU(), nn.Linear(30, 5), nn.LayerNorm(5, bias=False)
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 20))


@case()
def disjoint_sequences() -> Case:
    words = torch.randint(9, (BATCH, 4))
    layers = nn.Embedding(9, 6, padding_idx=0), nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh()
    return disjoint(nn.Sequential(*layers), words)


@case()
def disjoint_transformer() -> Case:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True, norm_first=True)
    return disjoint(nn.Sequential(nn.Linear(3, 6), layer), torch.randn(BATCH, 4, 3))


@case()
def disjoint_transformer_with_the_sequence_first() -> Case:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1)
    return disjoint(nn.Sequential(nn.Linear(3, 6), layer), torch.randn(4, BATCH, 3), read=lambda h: h.mean(0))


@case()
def disjoint_images() -> Case:
    layers = (
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    )
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 2, 6, 6))


@case()
def disjoint_images_without_group_normalisation() -> Case:
    layers = nn.Conv2d(4, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 2, groups=2), nn.Flatten()
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 4, 4, 4))


@case()
def disjoint_with_a_layer_used_twice() -> Case:
    trunk = Call(lambda m, x: m.layer(m.layer(x).tanh()), layer=nn.Linear(8, 8))
    return disjoint(trunk, torch.randn(BATCH, 8))


@case()
def disjoint_with_plain_parameters() -> Case:
    """One scale for all channels: its gradient is no layer's."""
    trunk = Call(
        lambda m, x: m.second(m.first(x) * m.scale).tanh(),
        first=nn.Linear(6, 8),
        second=nn.Linear(8, 5),
        scale=weight(8),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_with_frozen_parts_and_skips() -> Case:
    trunk = Call(
        lambda m, x: m.third(m.second(m.first(x).relu()) + x).tanh(),
        first=nn.Linear(20, 24),
        second=nn.Linear(24, 20),
        third=nn.Linear(20, 20),
    )
    trunk.second.weight.requires_grad_(False)
    trunk.third.bias.requires_grad_(False)
    return disjoint(trunk, torch.randn(BATCH, 20))


@case()
def disjoint_with_a_hook_on_the_features() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = m.second(m.first(x).tanh())
        h.register_hook(lambda gradient: 0.3 * gradient)
        return h

    return disjoint(Call(run, first=nn.Linear(6, 8), second=nn.Linear(8, 5)), torch.randn(BATCH, 6))


@case(linear=False)
def disjoint_with_hooks_inside() -> Case:
    """Gradients are cut off sample by sample, and a parameter's gradient is halved."""

    def run(m: Call, x: Tensor) -> Tensor:
        h = m.first(x)
        h.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        return m.second(h.tanh())

    trunk = Call(run, first=nn.Linear(16, 18), second=nn.Linear(18, 16))
    trunk.second.weight.register_hook(lambda gradient: 0.5 * gradient)
    return disjoint(trunk, torch.randn(BATCH, 16))


@case()
def disjoint_in_long_rows() -> Case:
    """Each sample is several rows of the same layer, folded into the batch and out of it again."""
    trunk = Call(lambda m, x: m.layer(x.view(-1, 16)).relu().view(BATCH, -1), layer=nn.Linear(16, 12))
    return disjoint(trunk, torch.randn(BATCH, 48))


@case()
def disjoint_rows_in_another_order() -> Case:
    """Each sample is several rows of the same layer, of which the rows of one sample are not neighbours."""
    trunk = Call(
        lambda m, x: m.layer(x.view(BATCH, 3, 16).transpose(0, 1).reshape(-1, 16)).view(3, BATCH, -1).sum(0).relu(),
        layer=nn.Linear(16, 12),
    )
    return disjoint(trunk, torch.randn(BATCH, 48))


@case()
def disjoint_samples_that_are_mixed_by_a_mean() -> Case:
    trunk = Call(lambda m, x: m.second(centred(m.first(x))), first=nn.Linear(6, 8), second=nn.Linear(8, 5))
    return disjoint(trunk, torch.randn(BATCH, 6))


def centred(h: Tensor) -> Tensor:
    return h - h.mean(0)


@case()
def disjoint_samples_that_are_mixed_by_products() -> Case:
    """Every sample is compared with every other, by a product of two activations."""
    trunk = Call(
        lambda m, x: m.third((m.first(x) @ m.second(x).t()).softmax(-1)),
        first=nn.Linear(6, 8),
        second=nn.Linear(6, 8),
        third=nn.Linear(BATCH, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_a_sum_of_products() -> Case:
    """A summary of the whole batch, as a matrix, multiplies each sample."""
    trunk = Call(
        lambda m, x: m.third(torch.addmm(x, x, m.first(x).t() @ m.second(x) / BATCH)),
        first=nn.Linear(6, 6),
        second=nn.Linear(6, 6),
        third=nn.Linear(6, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_their_order() -> Case:
    trunk = Call(
        lambda m, x: m.third(m.second(m.first(x).roll(1, 0)).tanh().flip(0).cumsum(0)),
        first=nn.Linear(6, 6),
        second=nn.Linear(6, 6),
        third=nn.Linear(6, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_attention() -> Case:
    trunk = Call(
        lambda m, x: m.out(functional.scaled_dot_product_attention(*m.packed(x).view(1, BATCH, 3, 6).unbind(2))[0]),
        packed=nn.Linear(6, 18),
        out=nn.Linear(6, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_convolution() -> Case:
    """The batch is one image, of which each sample is a column."""
    trunk = Call(
        lambda m, x: m.last(m.conv(m.first(x).t().unsqueeze(0))[0].t()),
        first=nn.Linear(6, 4),
        conv=nn.Conv1d(4, 4, 3, padding=1),
        last=nn.Linear(4, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_reshaping() -> Case:
    """As many channels as samples: the first dimension keeps its length, but not its meaning."""
    trunk = Call(
        lambda m, x: m.second(m.first(x).t().tanh()).t() @ m.third.weight,
        first=nn.Linear(6, BATCH),
        second=nn.Linear(BATCH, BATCH),
        third=nn.Linear(5, BATCH),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_share_a_gate() -> Case:
    """A number for the whole batch, computed from one of its samples."""
    trunk = Call(
        lambda m, x: m.second(m.first(x) * m.gate(x[3]).sigmoid()),
        first=nn.Linear(6, 8),
        gate=nn.Linear(6, 8),
        second=nn.Linear(8, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_padding() -> Case:
    """As many rows of zeros as there are samples go before these, and two rows each make one."""
    trunk = Call(
        lambda m, x: m.second(functional.pad(m.first(x), (0, 0, BATCH, 0)).view(BATCH, -1).tanh()),
        first=nn.Linear(6, 8),
        second=nn.Linear(16, 5),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_a_bias() -> Case:
    """A row that is made of the whole batch, and added to all samples."""
    trunk = Call(
        lambda m, x: torch.addmm(m.first(x).mean(0), x, m.second.weight.t()).tanh(),
        first=nn.Linear(6, 5),
        second=nn.Linear(6, 5, bias=False),
    )
    return disjoint(trunk, torch.randn(BATCH, 6))


@case()
def disjoint_samples_that_are_mixed_by_weights_made_of_them() -> Case:
    """The convolution that all samples pass through is made from the batch."""

    def run(m: Call, x: Tensor) -> Tensor:
        kernel = m.first(x).mean(0).view(3, 2, 1, 1)
        return m.second(functional.conv2d(x.view(BATCH, 2, 3, 1), kernel).flatten(1))

    return disjoint(Call(run, first=nn.Linear(6, 6), second=nn.Linear(9, 5)), torch.randn(BATCH, 6))


@case()
def disjoint_samples_in_the_second_dimension() -> Case:
    """The heads read sequences that lie along the first dimension."""
    trunk, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(3, BATCH, 6)
    samples = {task: torch.tensor(numbers) for task, numbers in SAMPLES.items()}
    heads = heads_for(torch.zeros(1, 5), FIVE)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        return {
            task: loss_of(kind, heads[task](features[:, samples[task]].flatten(0, 1))) for kind, task in enumerate(FIVE)
        }

    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    return Case(model, compute, list(trunk.parameters()), tasks=FIVE, samples=samples)


@case()
def disjoint_samples_of_several_rows() -> Case:
    """The heads read the rows of all samples one below the other."""
    trunk, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Flatten(0, 1)), torch.randn(BATCH, 2, 6)
    samples = {task: torch.tensor(numbers) for task, numbers in SAMPLES.items()}
    heads = heads_for(torch.zeros(1, 5), FIVE)

    def compute() -> dict[str, Tensor]:
        features = trunk(x)
        rows = {task: torch.cat([2 * numbers, 2 * numbers + 1]) for task, numbers in samples.items()}
        return {task: loss_of(kind, heads[task](features[rows[task]])) for kind, task in enumerate(FIVE)}

    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    return Case(model, compute, list(trunk.parameters()), tasks=FIVE, samples=samples)


@case()
def disjoint_heads_at_several_depths() -> Case:
    first, second = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    samples = {task: torch.tensor(numbers) for task, numbers in SAMPLES.items()}
    heads, x = heads_for(torch.zeros(1, 8), FIVE), torch.randn(BATCH, 6)

    def compute() -> dict[str, Tensor]:
        middle = first(x)
        end = second(middle)
        return {
            task: loss_of(kind, heads[task]((middle if task in "bd" else end)[samples[task]]))
            for kind, task in enumerate(FIVE)
        }

    model = nn.ModuleList([first, second, heads])
    return Case(model, compute, [*first.parameters(), *second.parameters()], tasks=FIVE, samples=samples)


@case()
def disjoint_heads_on_two_branches() -> Case:
    """Two features side by side, of which some tasks read one and some both."""
    root, left, right = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
    samples = {task: torch.tensor(numbers) for task, numbers in SAMPLES.items()}
    heads, x = heads_for(torch.zeros(1, 8), FIVE), torch.randn(BATCH, 8)

    def compute() -> dict[str, Tensor]:
        middle = root(x)
        one, other = left(middle), right(middle)
        read = {"a": one, "b": other, "c": one + other, "d": one, "e": one * other}
        return {task: loss_of(kind, heads[task](read[task][samples[task]])) for kind, task in enumerate(FIVE)}

    model = nn.ModuleList([root, left, right, heads])
    shared = [p for part in (root, left, right) for p in part.parameters()]
    return Case(model, compute, shared, tasks=FIVE, samples=samples)


@case()
def disjoint_with_a_head_that_is_called_shared() -> Case:
    inner = disjoint(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(BATCH, 6))
    shared = [*inner.shared, *inner.model["heads"]["b"].parameters()]
    return Case(inner.model, inner._compute, shared, tasks=FIVE, samples=inner.samples)


@case()
def disjoint_with_part_of_the_trunk_called_shared() -> Case:
    inner = disjoint(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(BATCH, 6))
    return Case(inner.model, inner._compute, inner.shared[2:], tasks=FIVE, samples=inner.samples)


@case()
def disjoint_by_a_wrong_statement() -> Case:
    """What is said of the samples is not so."""
    inner = disjoint(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(BATCH, 6))
    samples = dict(zip(FIVE, reversed(list(inner.samples.values())), strict=True))
    return Case(inner.model, inner._compute, inner.shared, tasks=FIVE, samples=samples)


@case()
def disjoint_by_masks() -> Case:
    inner = disjoint(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(BATCH, 6))
    masks = {task: torch.zeros(BATCH, dtype=torch.bool).index_fill(0, own, True) for task, own in inner.samples.items()}
    return Case(inner.model, inner._compute, inner.shared, tasks=FIVE, samples=masks)


@case()
def disjoint_in_part() -> Case:
    layers = (
        nn.Linear(60, 60),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(60, 8, bias=False),
        nn.LayerNorm(8),
        nn.Linear(8, 5),
    )
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 60), numbers=IN_PART)


@case()
def disjoint_in_part_sequences() -> Case:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)
    trunk = nn.Sequential(nn.Embedding(9, 6, padding_idx=0), layer)
    return disjoint(trunk, torch.randint(9, (BATCH, 4)), numbers=IN_PART)


@case()
def disjoint_in_part_images() -> Case:
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5)
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 2, 4, 4), numbers=IN_PART)


@case()
def disjoint_in_part_with_batch_normalisation() -> Case:
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    return disjoint(nn.Sequential(*layers), torch.randn(BATCH, 6), numbers=IN_PART)


@case()
def disjoint_one_sample_each() -> Case:
    numbers = {task: [number] for number, task in enumerate(FIVE)}
    return disjoint(nn.Sequential(nn.Linear(16, 20), nn.Tanh()), torch.randn(5, 16), numbers=numbers)
