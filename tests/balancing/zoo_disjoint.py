"""Tasks with samples of their own: one batch through the trunk, of which each task reads some rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .zoo import Call, Case, case, heads_for, loss_of, rows_of, weight

FIVE = ("a", "b", "c", "d", "e")
SAMPLES = {"a": [0, 6, 7], "b": [1, 9], "c": [2, 3, 10, 11], "d": [4], "e": [8, 5]}
"""In no order; sample 12 belongs to no task."""
BATCH = 13


def disjoint(trunk: nn.Module, *inputs: Tensor, read: Callable[[Tensor], Tensor] = rows_of) -> Case:
    """Heads that read the features of their own samples only."""
    samples = {task: torch.tensor(numbers) for task, numbers in SAMPLES.items()}
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
