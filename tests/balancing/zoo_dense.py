"""Linear maps in all forms, parameters outside of layers, and weights that several places read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from .zoo import FULL, HALF, Call, Case, case, hard, weight


@case(dtypes=FULL + HALF)
def mlp() -> Case:
    return hard(nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 9)), torch.randn(2, 12))


@case(dtypes=FULL + HALF)
def mlp_with_more_rows_than_widths() -> Case:
    return hard(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(60, 3))


@case()
def mlp_without_bias() -> Case:
    layers = nn.Linear(12, 20, bias=False), nn.Tanh(), nn.Linear(20, 9, bias=False)
    return hard(nn.Sequential(*layers), torch.randn(2, 12))


@case()
def mlp_with_in_place_relu() -> Case:
    layers = nn.Linear(10, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 10)
    return hard(nn.Sequential(*layers), torch.randn(2, 10))


@case()
def mlp_with_many_activations() -> Case:
    activations = nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.ELU(), nn.LeakyReLU(), nn.PReLU(), nn.Hardswish()
    layers = [layer for act in (*activations, nn.GELU("tanh")) for layer in (nn.Linear(12, 12), act)]
    return hard(nn.Sequential(*layers, nn.GLU()), torch.randn(2, 12))


@case()
def mlp_with_dropout() -> Case:
    layers = nn.Linear(10, 16), nn.Dropout(0.4), nn.Tanh(), nn.AlphaDropout(0.2), nn.Linear(16, 12), nn.Dropout(0.2)
    return hard(nn.Sequential(*layers), torch.randn(2, 10))


@case()
def one_task() -> Case:
    return hard(nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 11)), torch.randn(2, 10), tasks=("only",))


@case()
def seven_tasks() -> Case:
    trunk = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 11))
    return hard(trunk, torch.randn(2, 10), tasks=[f"task {i}" for i in range(7)])


@case()
def one_sample() -> Case:
    return hard(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(1, 6))


@case()
def linear_on_sequences() -> Case:
    return hard(nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 18)), torch.randn(2, 2, 20))


@case()
def linear_on_long_sequences() -> Case:
    return hard(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 30, 3))


@case()
def linear_on_four_dimensions_that_are_not_contiguous() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x.permute(0, 3, 2, 1)).tanh().transpose(1, 2)),
        first=nn.Linear(20, 24),
        second=nn.Linear(24, 18, bias=False),
    )
    return hard(trunk, torch.randn(1, 20, 2, 2))


@case()
def several_rows_in_several_layers() -> Case:
    """Enough rows for some layers' products to cost more than the gradients, but not for others'."""
    layers = nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3), nn.ReLU(), nn.Linear(3, 2)
    return hard(nn.Sequential(*layers), torch.randn(7, 6))


@case()
def linear_on_a_vector() -> Case:
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 5)
    return hard(nn.Sequential(*layers), torch.randn(6))


@case()
def linear_of_expanded_and_strided_inputs() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x[:1].expand(2, -1)).tanh()[:, ::2]) + m.third(x.t()[::2].t()),
        first=nn.Linear(20, 24),
        second=nn.Linear(12, 10),
        third=nn.Linear(10, 10),
    )
    return hard(trunk, torch.randn(2, 20))


@case()
def views_between_linear_layers() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = m.first(x).view(4, 2, 3, 2).permute(0, 2, 1, 3).reshape(4, 3, 4)
        left, right = m.second(h).tanh().chunk(2, dim=-1)
        h = torch.cat([left.flip(1), right.roll(1, 1)], 1).movedim(1, 2)
        h = torch.stack(m.third(h).unbind(1), 2).unsqueeze(1).expand(-1, 2, -1, -1)
        return m.fourth(h.flatten(2).unfold(2, 6, 3)).squeeze(-1)

    trunk = Call(run, first=nn.Linear(5, 12), second=nn.Linear(4, 6), third=nn.Linear(6, 3), fourth=nn.Linear(6, 1))
    return hard(trunk, torch.randn(4, 5))


@case()
def changes_in_place() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = m.first(x)
        h += x
        h[:, 1:3] *= 2
        h[0] = m.second(x[0])
        h = h.clone().mul_(0.5).masked_fill_(h > 1, 0.0).sigmoid_()
        return m.third(h)

    trunk = Call(run, first=nn.Linear(12, 12), second=nn.Linear(12, 12), third=nn.Linear(12, 10))
    return hard(trunk, torch.randn(2, 12))


@case()
def mixture_of_experts_with_an_idle_one() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        gates = m.gate(x).softmax(-1)
        chosen = torch.tensor([0, 2, 0, 2, 2])
        out = torch.zeros(len(x), 12)
        for number, expert in enumerate(m.experts):
            rows = (chosen == number).nonzero().flatten()
            out = out.index_add(0, rows, expert(x[rows]) * gates[rows, number].unsqueeze(1))
        return out

    experts = nn.ModuleList(nn.Linear(16, 12) for _ in range(3))
    return hard(Call(run, gate=nn.Linear(16, 3), experts=experts), torch.randn(5, 16))


@case()
def linear_used_twice() -> Case:
    trunk = Call(lambda m, x: m.layer(m.layer(x).tanh()), layer=nn.Linear(12, 12))
    return hard(trunk, torch.randn(2, 12))


@case()
def linear_used_on_vectors_and_on_sequences() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        return m.layer(m.layer(x).tanh().view(4, 2, 4).repeat(1, 1, 2)).sum(1) + m.layer(x[0])

    return hard(Call(run, layer=nn.Linear(8, 8)), torch.randn(4, 8))


@case()
def weight_used_outside_of_its_module() -> Case:
    trunk = Call(
        lambda m, x: functional.linear(m.layer(x).tanh(), m.layer.weight) * m.layer.bias + m.layer.weight.sum(1),
        layer=nn.Linear(12, 12),
    )
    return hard(trunk, torch.randn(2, 12))


@case()
def weight_used_by_its_module_and_once_more() -> Case:
    trunk = Call(lambda m, x: functional.linear(m.layer(x).tanh(), m.layer.weight), layer=nn.Linear(12, 12))
    return hard(trunk, torch.randn(2, 12))


@case()
def weight_transposed_by_hand() -> Case:
    trunk = Call(
        lambda m, x: torch.addmm(m.bias, (x @ m.first.t()).tanh() @ m.second, m.third.mT),
        first=weight(14, 10),
        second=weight(14, 12),
        third=weight(10, 12),
        bias=weight(10),
    )
    return hard(trunk, torch.randn(2, 10))


@case()
def autoencoder_with_tied_weights() -> Case:
    trunk = Call(lambda m, x: (x @ m.w.t()).tanh() @ m.w, w=weight(10, 12))
    return hard(trunk, torch.randn(2, 12))


@case()
def weight_times_itself() -> Case:
    trunk = Call(lambda m, x: x @ m.w @ m.w + x @ (m.w @ m.w) + x @ (m.w.t() @ m.w), w=weight(12, 12))
    return hard(trunk, torch.randn(2, 12))


@case()
def bias_of_two_layers() -> Case:
    trunk = Call(
        lambda m, x: torch.addmm(m.b, torch.addmm(m.b, x, m.v).tanh(), m.w),
        v=weight(10, 12),
        w=weight(12, 12),
        b=weight(12),
    )
    return hard(trunk, torch.randn(2, 10))


@case()
def one_parameter_as_weight_and_as_bias() -> Case:
    trunk = Call(lambda m, x: torch.addmm(m.w, x, m.w), w=weight(12, 12))
    return hard(trunk, torch.randn(12, 12))


@case()
def bias_that_is_broadcast() -> Case:
    trunk = Call(
        lambda m, x: torch.addmm(m.column, torch.addmm(m.one, torch.addmm(m.row, x, m.u), m.v).tanh(), m.w),
        row=weight(1, 12),
        one=weight(1),
        column=weight(2, 1),
        u=weight(10, 12),
        v=weight(12, 12),
        w=weight(12, 11),
    )
    return hard(trunk, torch.randn(2, 10))


@case()
def addmm_with_factors() -> Case:
    trunk = Call(
        lambda m, x: torch.addmm(m.b, torch.addmm(m.c, x, m.v, beta=0.5, alpha=1).tanh(), m.w, beta=3, alpha=0.5),
        v=weight(10, 12),
        w=weight(12, 12),
        b=weight(12),
        c=weight(12),
    )
    return hard(trunk, torch.randn(2, 10))


@case()
def addmm_with_computed_summand() -> Case:
    trunk = Call(lambda m, x: torch.addmm(m.first(x), x, m.w), first=nn.Linear(10, 12), w=weight(10, 12))
    return hard(trunk, torch.randn(2, 10))


@case()
def weight_as_left_operand() -> Case:
    trunk = Call(lambda m, x: torch.mm(m.w, (m.v @ x).tanh()).t(), v=weight(12, 10), w=weight(9, 12))
    return hard(trunk, torch.randn(10, 2))


@case()
def batched_products_of_parameters() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = torch.baddbmm(m.bias, x, m.right).tanh()
        return torch.matmul(m.left, h) + torch.baddbmm(h[:, :2], m.left, x @ m.plain, beta=0.5, alpha=2)

    trunk = Call(run, bias=weight(3, 1, 6), right=weight(3, 5, 6), left=weight(3, 2, 4), plain=weight(5, 6))
    return hard(trunk, torch.randn(3, 4, 5))


@case()
def products_that_broadcast() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = torch.matmul(x, m.three).tanh()  # [2, 3, 4, 6]
        h = torch.matmul(m.two, h)  # [2, 3, 2, 6]
        return torch.matmul(h, m.one) + torch.matmul(m.short, h).sum(-1, keepdim=True)

    trunk = Call(run, three=weight(3, 5, 6), two=weight(2, 4), one=weight(6), short=weight(2))
    return hard(trunk, torch.randn(2, 1, 4, 5))


@case()
def products_with_vectors() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = torch.mv(x, m.v).tanh()
        g = torch.mv(m.w, h)
        return g * torch.dot(m.u, h) + torch.outer(m.u, h).sum(1)[:3] + torch.addmv(m.b, m.w, h) + torch.vdot(h, m.u)

    trunk = Call(run, v=weight(5), w=weight(3, 4), u=weight(4), b=weight(3))
    return hard(trunk, torch.randn(4, 5))


@case()
def einsum() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = torch.einsum("bsi,hio->bhso", x, m.heads).tanh()
        h = torch.einsum("bhso,hoi->bsi", h, m.out) + torch.einsum("bsi,i->bsi", x, m.scale)
        return torch.einsum("bsi,bsj,ijk->bk", h, x, m.third) + torch.einsum("ij,ij->i", m.a, m.a)

    trunk = Call(
        run, heads=weight(2, 5, 3), out=weight(2, 3, 5), scale=weight(5), third=weight(5, 5, 4), a=weight(4, 2)
    )
    return hard(trunk, torch.randn(3, 4, 5))


@case()
def bilinear() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x, x.tanh()), x), first=nn.Bilinear(5, 5, 4), second=nn.Bilinear(4, 5, 3)
    )
    return hard(trunk, torch.randn(6, 5))


@case()
def scales_of_channels() -> Case:
    trunk = Call(
        lambda m, x: x + m.scale * m.layer(x) + m.factor * x + (m.offset - x).tanh(),
        layer=nn.Linear(12, 12),
        scale=weight(12),
        factor=weight(),
        offset=weight(1, 12),
    )
    return hard(trunk, torch.randn(2, 12))


@case()
def parametric_relu() -> Case:
    layers = nn.Linear(10, 12), nn.PReLU(12), nn.Linear(12, 12), nn.PReLU(), nn.Linear(12, 10)
    return hard(nn.Sequential(*layers), torch.randn(2, 10))


@case()
def low_rank_adapters_on_frozen_layers() -> Case:
    trunk = Call(
        lambda m, x: m.base(x) + 0.5 * ((x @ m.down.t()) @ m.up.t()),
        base=nn.Linear(24, 30).requires_grad_(False),
        down=weight(4, 24),
        up=weight(30, 4),
    )
    return hard(trunk, torch.randn(1, 24))


@case()
def weight_norm() -> Case:
    first, second = parametrizations.weight_norm(nn.Linear(6, 8)), parametrizations.weight_norm(nn.Conv1d(2, 3, 3))
    trunk = Call(lambda m, x: m.second(m.first(x).tanh().view(5, 2, 4)), first=first, second=second)
    return hard(trunk, torch.randn(5, 6))


@case()
def spectral_norm() -> Case:
    first, second = parametrizations.spectral_norm(nn.Linear(6, 8)), parametrizations.spectral_norm(nn.Conv1d(2, 3, 3))
    trunk = Call(lambda m, x: m.second(m.first(x).tanh().view(5, 2, 4)), first=first, second=second)
    return hard(trunk, torch.randn(5, 6))


@case()
def orthogonal_weights() -> Case:
    return hard(nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 5)), nn.Tanh()), torch.randn(4, 6))


@case()
def pruned_weights() -> Case:
    layer = nn.Linear(12, 10)
    prune.random_unstructured(layer, "weight", 0.5)
    return hard(nn.Sequential(layer, nn.Tanh()), torch.randn(2, 12))


@case()
def parts_and_functions_of_weights() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = functional.linear(x, m.w[:4], m.b[:4]).tanh()
        h = h @ m.w.abs().view(4, -1)[:, :7] + functional.linear(h, m.w.flatten()[:28].view(7, 4))
        return functional.linear(h, m.w.repeat(1, 2)[:, :7].contiguous(), m.b.exp())

    return hard(Call(run, w=weight(8, 5), b=weight(8)), torch.randn(3, 5))


@case(dtypes=(torch.float32,))
def weight_cast_to_another_type() -> Case:
    trunk = Call(
        lambda m, x: functional.linear(functional.linear(x, m.w.double(), m.b.double()).tanh(), m.w.double()).float(),
        w=weight(12, 12),
        b=weight(12),
    )
    return hard(trunk, torch.randn(2, 12).double())


@case()
def frozen_weights_and_frozen_biases() -> Case:
    trunk = nn.Sequential(
        nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 11), nn.LayerNorm(11)
    )
    for parameter in (trunk[0].weight, trunk[2].bias, trunk[5].weight):
        parameter.requires_grad_(False)
    return hard(trunk, torch.randn(2, 10))


@case(linear=False, gap="autograd does not tell of hooks on a copy of a weight")
def hooks_on_copies_of_weights() -> Case:
    """The weight is transposed or cast, and what comes of it has a hook."""

    def run(m: Call, x: Tensor) -> Tensor:
        first, second = m.first.t(), m.second.to(x.dtype, copy=True)
        for copy in (first, second):
            copy.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        return functional.linear((x @ first).tanh(), second)

    return hard(Call(run, first=weight(14, 12), second=weight(12, 14)), torch.randn(2, 12))


@case()
def vmap_over_an_ensemble() -> Case:
    trunk = Call(
        lambda m, x: torch.vmap(lambda w, b, s: torch.addmm(b, s.tanh(), w), in_dims=(0, 0, None))(m.w, m.b, x).mean(0),
        w=weight(3, 6, 5),
        b=weight(3, 5),
    )
    return hard(trunk, torch.randn(4, 6))


@case()
def vmap_over_samples() -> Case:
    trunk = Call(lambda m, x: torch.vmap(lambda s: m.layer(s).tanh())(x), layer=nn.Linear(12, 10))
    return hard(trunk, torch.randn(2, 12))


@case()
def layers_of_other_kinds_on_no_rows() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        nothing = m.table(torch.zeros(0, 3, dtype=torch.long)).flatten(1)
        return m.last(m.norm(x)) + m.norm(m.conv(nothing.view(0, 3, 4)).flatten(1)).sum() + nothing.sum()

    trunk = Call(run, table=nn.Embedding(5, 4), conv=nn.Conv1d(3, 4, 2), norm=nn.LayerNorm(12), last=nn.Linear(12, 10))
    return hard(trunk, torch.randn(2, 12))


@case()
def layers_on_no_rows() -> Case:
    trunk = Call(
        lambda m, x: m.first(x) + m.first(x[:0]).sum() + m.second(x[:0]).sum(),
        first=nn.Linear(12, 10),
        second=nn.Linear(12, 10),
    )
    return hard(trunk, torch.randn(2, 12))


@case()
def outputs_of_one_number() -> Case:
    return hard(nn.Sequential(nn.Linear(30, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh()), torch.randn(1, 30))
