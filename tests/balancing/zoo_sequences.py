"""Embeddings, attention, recurrence, graphs and sparse operands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import rnn

from .zoo import FULL, HALF, TASKS, Call, Case, case, hard, heads_for, loss_of, rows_of, weight

WORDS = torch.tensor([[1, 2, 3, 2, 0], [4, 4, 1, 0, 0], [6, 2, 4, 5, 1]])


@case(dtypes=FULL + HALF)
def embedding() -> Case:
    return hard(nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 5), nn.Tanh()), WORDS)


@case()
def embedding_of_single_numbers() -> Case:
    trunk = Call(lambda m, x: m.table(x).tanh() + m.table(torch.tensor(2)), table=nn.Embedding(9, 6))
    return hard(trunk, WORDS[:, 0])


@case()
def embedding_with_padding() -> Case:
    trunk = Call(
        lambda m, x: m.first(x) + m.last(x),
        first=nn.Embedding(9, 6, padding_idx=0),
        last=nn.Embedding(7, 6, padding_idx=-1),
    )
    return hard(trunk, WORDS)


@case()
def embedding_scaled_by_frequency() -> Case:
    trunk = Call(
        lambda m, x: m.first(x) * m.second(x),
        first=nn.Embedding(9, 6, scale_grad_by_freq=True),
        second=nn.Embedding(9, 6, scale_grad_by_freq=True, padding_idx=0),
    )
    return hard(trunk, WORDS)


@case()
def embedding_with_a_greatest_norm() -> Case:
    return hard(nn.Sequential(nn.Embedding(9, 6, max_norm=0.7), nn.Linear(6, 5)), WORDS)


@case()
def embedding_with_sparse_gradients() -> Case:
    table = nn.Embedding(9, 6, sparse=True, padding_idx=0)
    return hard(nn.Sequential(table, nn.Linear(6, 5), nn.Tanh()), WORDS)


@case()
def embedding_with_sparse_gradients_used_twice() -> Case:
    trunk = Call(lambda m, x: m.table(x) * m.table(x.flip(1)), table=nn.Embedding(9, 6, sparse=True))
    return hard(trunk, WORDS)


@case()
def embedding_used_twice() -> Case:
    trunk = Call(
        lambda m, x: m.table(x).tanh() * m.table(x[:, 1]).unsqueeze(1), table=nn.Embedding(9, 6, padding_idx=2)
    )
    return hard(trunk, WORDS)


@case()
def embedding_used_with_and_without_padding() -> Case:
    trunk = Call(
        lambda m, x: (
            functional.embedding(x, m.w, padding_idx=0) * functional.embedding(x, m.w)
            + functional.embedding(x, m.w, padding_idx=2)
        ),
        w=weight(9, 6),
    )
    return hard(trunk, WORDS)


@case()
def embedding_with_other_numbers_for_each_task() -> Case:
    """Each task looks up words of its own, some of them in common."""
    table, heads = nn.Embedding(9, 6, padding_idx=0), heads_for(torch.zeros(3, 6))
    numbers = {"a": WORDS[:, 0], "b": WORDS[:, 2], "c": WORDS[:, 4]}

    def compute() -> dict[str, Tensor]:
        return {task: loss_of(kind, heads[task](table(numbers[task]))) for kind, task in enumerate(TASKS)}

    return Case(nn.ModuleDict({"table": table, "heads": heads}), compute, list(table.parameters()))


@case()
def embedding_by_indexing() -> Case:
    trunk = Call(
        lambda m, x: m.table[x] + m.table.index_select(0, x.flatten()).view(3, 5, -1) * m.table[1] + m.table[2:3],
        table=weight(9, 6),
    )
    return hard(trunk, WORDS)


@case()
def embedding_bags() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        offsets = torch.tensor([0, 4, 4])
        weighted = functional.embedding_bag(x, m.table, mode="sum", per_sample_weights=m.weights[x])
        return m.mean(x) * m.sum(x.flatten(), offsets) + m.max(x) + weighted

    trunk = Call(
        run,
        mean=nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0),
        sum=nn.EmbeddingBag(9, 4, mode="sum"),
        max=nn.EmbeddingBag(9, 4, mode="max"),
        table=weight(9, 4),
        weights=weight(9),
    )
    return hard(trunk, WORDS)


@case()
def embedding_bag_with_sparse_gradients() -> Case:
    return hard(nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum", sparse=True), nn.Linear(4, 5)), WORDS)


@case()
def embedding_as_output_projection() -> Case:
    """A language model with tied weights, and two tasks more on its features."""
    table, body = nn.Embedding(9, 6), nn.Sequential(nn.Linear(6, 6), nn.GELU())
    heads = heads_for(torch.zeros(3, 30))

    def compute() -> dict[str, Tensor]:
        features = body(table(WORDS))
        logits = functional.linear(features[:, :-1], table.weight)
        losses = {task: loss_of(kind, heads[task](rows_of(features))) for kind, task in enumerate(TASKS)}
        losses["a"] = functional.cross_entropy(logits.flatten(0, 1), WORDS[:, 1:].flatten())
        return losses

    model = nn.ModuleDict({"table": table, "body": body, "heads": heads})
    return Case(model, compute, [*table.parameters(), *body.parameters()])


@case()
def embedding_as_output_projection_of_every_task() -> Case:
    trunk = Call(lambda m, x: functional.linear(m.table(x).tanh(), m.table.weight), table=nn.Embedding(9, 6))
    return hard(trunk, WORDS)


@case(dtypes=FULL + HALF)
def multi_head_attention() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        out, weights = m.attention(x, x, x)
        return m.without(out, x[:, :2], x[:, :2], need_weights=False)[0] + weights.sum(-1, keepdim=True)

    trunk = Call(
        run,
        attention=nn.MultiheadAttention(16, 2, batch_first=True),
        without=nn.MultiheadAttention(16, 4, batch_first=True, bias=False),
    )
    return hard(trunk, torch.randn(1, 3, 16))


@case()
def multi_head_attention_with_options() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        other = m.layer(x)
        mask = torch.zeros(2, 5, dtype=torch.bool)
        mask[1, 3:] = True
        out = m.attention(x, other, other[..., :4], key_padding_mask=mask)[0]
        return out + m.causal(x, x, x, attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1), need_weights=False)[0]

    trunk = Call(
        run,
        layer=nn.Linear(6, 5),
        attention=nn.MultiheadAttention(6, 2, kdim=5, vdim=4, add_bias_kv=True, add_zero_attn=True),
        causal=nn.MultiheadAttention(6, 2, dropout=0.2),
    )
    return hard(trunk, torch.randn(5, 2, 6))


@case()
def attention_by_scaled_products() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        query, key, value = m.packed(x).view(1, 3, 3, 2, 8).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + functional.scaled_dot_product_attention(query, m.keys, m.values.expand(1, -1, -1, -1), dropout_p=0.1)
        return m.out(h.transpose(1, 2).flatten(2))

    trunk = Call(
        run, packed=nn.Linear(16, 48), out=nn.Linear(16, 16), keys=weight(1, 2, 3, 8), values=weight(1, 2, 3, 8)
    )
    return hard(trunk, torch.randn(1, 3, 16))


@case()
def transformer_layers_with_the_batch_first() -> Case:
    layers = [
        nn.TransformerEncoderLayer(20, 2, 24, dropout=0.1, batch_first=True, norm_first=first, activation="gelu")
        for first in (False, True)
    ]
    return hard(nn.Sequential(*layers), torch.randn(1, 3, 20))


@case()
def transformer_layers_with_the_sequence_first() -> Case:
    trunk = Call(
        lambda m, x: m.decoder(x, m.encoder(x)).transpose(0, 1),
        encoder=nn.TransformerEncoderLayer(20, 2, 24, dropout=0.0),
        decoder=nn.TransformerDecoderLayer(20, 2, 24, dropout=0.1),
    )
    return hard(trunk, torch.randn(3, 1, 20))


@case()
def transformer_in_evaluation() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return hard(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(3, 4, 8))


@case(dtypes=FULL + HALF)
def vision_transformer() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        patches = m.patches(x).flatten(2).mT
        tokens = torch.cat([m.token.expand(len(x), -1, -1), patches], 1) + m.positions
        return m.norm(m.blocks(tokens))[:, 0]

    trunk = Call(
        run,
        patches=nn.Conv2d(3, 24, 4, stride=4),
        token=weight(1, 1, 24),
        positions=weight(1, 5, 24),
        blocks=nn.Sequential(
            nn.TransformerEncoderLayer(24, 2, 28, dropout=0.0, batch_first=True, norm_first=True),
            nn.TransformerEncoderLayer(24, 2, 28, dropout=0.0, batch_first=True),
        ),
        norm=nn.LayerNorm(24),
    )
    return hard(trunk, torch.randn(1, 3, 8, 8))


def bert_of(attention: str, width: int, words: Tensor) -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=width + 8,
        max_position_embeddings=8,
        attn_implementation=attention,
    )
    network = transformers.BertModel(config).to(torch.get_default_dtype()).train()
    mask = (words > 0).long()
    trunk = Call(lambda m, x: m.network(x, attention_mask=mask).last_hidden_state[:, 0], network=network)
    return hard(trunk, words)


@case()
def bert() -> Case:
    return bert_of("sdpa", 24, WORDS[:1])


@case()
def bert_with_plain_attention() -> Case:
    return bert_of("eager", 8, WORDS)


@case()
def gru() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x)[0])[1].transpose(0, 1),
        first=nn.GRU(4, 5, num_layers=2, dropout=0.2, batch_first=True),
        second=nn.GRU(5, 3, bidirectional=True, bias=False, batch_first=True),
    )
    return hard(trunk, torch.randn(3, 6, 4))


@case()
def lstm() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x)[0])[0].transpose(0, 1),
        first=nn.LSTM(4, 5, num_layers=2, bidirectional=True),
        second=nn.LSTM(10, 4, proj_size=3),
    )
    return hard(trunk, torch.randn(6, 3, 4))


@case()
def recurrence_over_packed_sequences() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, [4, 6, 1], batch_first=True, enforce_sorted=False)
        hidden = m.gru(packed)[1][0]
        out, _ = rnn.pad_packed_sequence(m.lstm(packed)[0], batch_first=True)
        return torch.cat([hidden, out.sum(1), m.rnn(packed)[1][0]], 1)

    trunk = Call(
        run,
        gru=nn.GRU(4, 3, batch_first=True),
        lstm=nn.LSTM(4, 3, batch_first=True, bidirectional=True),
        rnn=nn.RNN(4, 3, nonlinearity="relu", batch_first=True),
    )
    return hard(trunk, torch.randn(3, 6, 4))


@case()
def recurrence_by_cells() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 4)
        for step in x.unbind(1):
            h, c = m.lstm(step, (m.gru(step, h), c))
        return h

    return hard(Call(run, lstm=nn.LSTMCell(4, 4), gru=nn.GRUCell(4, 4)), torch.randn(3, 5, 4))


@case()
def recurrence_by_hand() -> Case:
    """The same two weights at every step."""

    def run(m: Call, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 5)
        for step in x.unbind(1):
            h = (m.input(step) + m.state(h)).tanh()
        return h

    return hard(Call(run, input=nn.Linear(4, 5), state=nn.Linear(5, 5, bias=False)), torch.randn(3, 6, 4))


EDGES = torch.tensor([[0, 1, 1, 2, 3, 4, 5, 5], [1, 0, 2, 1, 4, 3, 0, 2]])


@case()
def graph_convolutions() -> Case:
    geometric = pytest.importorskip("torch_geometric.nn")
    trunk = Call(
        lambda m, x: m.attend(m.second(m.first(x, EDGES).relu(), EDGES), EDGES),
        first=geometric.GCNConv(28, 32),
        second=geometric.SAGEConv(32, 6),
        attend=geometric.GATConv(6, 3, heads=2),
    )
    return hard(trunk, torch.randn(6, 28))


@case()
def graph_convolutions_by_sparse_products() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        adjacency = torch.sparse_coo_tensor(EDGES, torch.ones(8), (6, 6), check_invariants=False)
        h = torch.sparse.mm(adjacency, m.first(x)).relu()
        return adjacency.to_dense() @ m.second(h) + adjacency @ h @ m.w

    return hard(Call(run, first=nn.Linear(28, 32), second=nn.Linear(32, 28), w=weight(32, 28)), torch.randn(6, 28))


PLACES = torch.tensor([[0, 0, 0, 1, 1], [1, 4, 7, 0, 11]])


@case()
def sparse_inputs_of_linear_maps() -> Case:
    def run(m: Call, values: Tensor) -> Tensor:
        x = torch.sparse_coo_tensor(PLACES, values, (2, 12), check_invariants=False)
        return (x @ m.first).tanh() + torch.sparse.mm(x, m.second) + torch.addmm(m.bias, x, m.third)

    trunk = Call(run, first=weight(12, 10), second=weight(12, 10), third=weight(12, 10), bias=weight(10))
    return hard(trunk, torch.randn(5))


@case()
def sparse_rows_of_linear_maps() -> Case:
    def run(m: Call, values: Tensor) -> Tensor:
        x = torch.zeros(2, 12).index_put(tuple(PLACES), values).to_sparse_csr()
        return (x @ m.first).tanh() + torch.sparse.mm(x, m.second)

    return hard(Call(run, first=weight(12, 10), second=weight(12, 10)), torch.randn(5))


@case()
def adaptive_softmax_and_distances() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        h = m.layer(x)
        near = torch.cdist(h, m.centres).neg().softmax(-1)
        return near + functional.cosine_similarity(h.unsqueeze(1), m.centres, dim=-1) + m.tree.log_prob(h)[:, :4]

    tree = nn.AdaptiveLogSoftmaxWithLoss(5, 12, cutoffs=[3, 6], div_value=2.0)
    return hard(Call(run, layer=nn.Linear(4, 5), centres=weight(4, 5), tree=tree), torch.randn(6, 4))
