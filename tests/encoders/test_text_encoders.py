import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from polytask import balancing, encoders
from polytask.encoders import Bag, BiGRU, Features, TextCNN, Transformer
from polytask.encoders.attention import SelfAttention
from polytask.encoders.token_pooling import TokenPool
from polytask.encoders.transformer import sinusoids
from polytask.errors import UserError
from polytask.shapes import TextShape

from .cases import CASES

TEXT = TextShape(vocabulary=50, length=16, padding=1)
LENGTHS = [9, 1, 4, 6]


def padded(inputs: dict[str, torch.Tensor], columns: int) -> dict[str, torch.Tensor]:
    return {
        "ids": F.pad(inputs["ids"], (0, columns), value=TEXT.padding),
        "mask": F.pad(inputs["mask"], (0, columns), value=False),
    }


def test_columns_of_padding_change_nothing(text_case, make_texts):
    encoder, inputs = text_case.build().eval(), make_texts(LENGTHS)
    more = padded(inputs, 5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(more).values, encoder(inputs).values, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_changes_nothing(text_case, make_texts):
    encoder, inputs = text_case.build().eval(), make_texts(LENGTHS)
    other = inputs["ids"].where(inputs["mask"], torch.tensor(7))
    with torch.no_grad():
        expected, found = encoder(inputs).values, encoder({"ids": other, "mask": inputs["mask"]}).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_gets_no_gradient(text_case, make_texts):
    encoder, inputs = text_case.build().eval(), make_texts([5, 2])
    unused = 7
    ids = inputs["ids"].masked_fill(inputs["ids"] == unused, 8).where(inputs["mask"], torch.tensor(unused))
    encoder({"ids": ids, "mask": inputs["mask"]}).values.square().sum().backward()
    first = encoder.stages[encoder.stage_names[0]]
    table = next(module for module in first.modules() if isinstance(module, nn.Embedding))
    assert table.weight.grad[unused].abs().max() == 0


def test_a_text_without_tokens_is_finite_and_disturbs_no_other(text_case, make_texts):
    if text_case.name == "auto_model":
        pytest.skip("tokenizers of transformers always add special tokens")
    encoder, inputs = text_case.build().eval(), make_texts(LENGTHS)
    expected = encoder(inputs).values
    mask = inputs["mask"].clone()
    mask[1] = False
    values = encoder({"ids": inputs["ids"].where(mask, torch.tensor(TEXT.padding)), "mask": mask}).values
    torch.testing.assert_close(values[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-4, atol=1e-5)
    assert values.isfinite().all()
    values.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), pooling=st.sampled_from(["mean", "max", "last"]))
def test_pooling_is_over_each_text_alone(lengths, pooling):
    torch.manual_seed(sum(lengths))
    mask = torch.arange(8) < torch.tensor(lengths).unsqueeze(1)
    values = torch.randn(len(lengths), 8, 3)
    found = TokenPool(3, pooling)(Features(values, mask)).values
    for row, length in enumerate(lengths):
        text = values[row, :length]
        expected = {"mean": text.mean(dim=0), "max": text.amax(dim=0), "last": text[-1]}[pooling]
        torch.testing.assert_close(found[row], expected)


def test_pooling_without_a_mask_takes_all_tokens():
    values = torch.randn(2, 4, 3)
    torch.testing.assert_close(TokenPool(3, "mean")(Features(values)).values, values.mean(dim=1))


def test_bag_is_the_mean_of_embeddings(make_texts):
    encoder, inputs = Bag(dim=6, shape=TEXT), make_texts(LENGTHS)
    table = encoder.stages["embed"].module.weight
    texts = [inputs["ids"][row, :length] for row, length in enumerate(LENGTHS)]
    offsets = torch.tensor([0, *LENGTHS[:-1]]).cumsum(0)
    torch.testing.assert_close(encoder(inputs).values, F.embedding_bag(torch.cat(texts), table, offsets, mode="mean"))


@pytest.mark.parametrize("weightings", [1, 2])
def test_bag_of_weighted_tokens_is_the_sum_of_weighted_embeddings(make_texts, weightings):
    shape = TextShape(vocabulary=50, length=16, padding=1, weightings=weightings)
    encoder, inputs = Bag(dim=6, shape=shape), make_texts(LENGTHS)
    weights = torch.rand(*inputs["ids"].shape, weightings) * inputs["mask"].unsqueeze(2)
    found = encoder({**inputs, "weights": weights}).values
    tables = [table.weight for table in encoder.stages["embed"].module]
    expected = sum((table[inputs["ids"]] * weights[:, :, place, None]).sum(dim=1) for place, table in enumerate(tables))
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    gradients = [table.grad.clone() for table in tables]
    for table in tables:
        table.grad = None
    expected.square().sum().backward()
    for table, gradient in zip(tables, gradients, strict=True):
        torch.testing.assert_close(gradient, table.grad)


def test_what_stands_in_the_padding_of_weighted_tokens_changes_nothing():
    case = CASES["bag-weighted"]
    encoder, inputs = case.build(), case.inputs()
    outside = ~inputs["mask"]
    other = {"ids": inputs["ids"].masked_fill(outside, 7), "mask": inputs["mask"]}
    other["weights"] = inputs["weights"].masked_fill(outside.unsqueeze(2), 3.0)
    assert torch.equal(encoder(other).values, encoder(inputs).values)


def test_a_text_without_weights_is_zero():
    case = CASES["bag-weighted"]
    inputs = case.inputs()
    inputs["weights"][1] = 0
    assert (case.build()(inputs).values[1] == 0).all()


def test_task_gradients_of_weighted_tokens_are_exact():
    case = CASES["bag-weighted"]
    encoder, inputs = case.build(), case.inputs()
    parameters = list(encoder.parameters())
    heads = torch.randn(3, 8)

    def losses():
        return {f"t{place}": score.square().mean() for place, score in enumerate((encoder(inputs).values @ heads.T).T)}

    gradients = [torch.autograd.grad(losses()[f"t{place}"], parameters) for place in range(3)]
    jacobian = torch.stack([torch.cat([part.flatten() for part in gradient]) for gradient in gradients])
    found = balancing.gramian(losses(), parameters)
    torch.testing.assert_close(found, (jacobian @ jacobian.T).to(found))


@pytest.mark.parametrize("std", [0.01, None])
def test_embeddings_start_as_spread_as_they_are_asked_to(std):
    for weightings in (0, 2):
        encoder = Bag(dim=16, std=std, shape=TextShape(5000, weightings=weightings))
        for table in encoder.parameters():
            assert float(table.std()) == pytest.approx(std or 0.25, rel=0.02)


@pytest.mark.parametrize("name", ["text_cnn", "bigru", "transformer"])
def test_only_the_bag_reads_weights(name):
    with pytest.raises(
        UserError, match=r"weighs its tokens \(weights\), which .* only 'bag' reads. Use that encoder, or"
    ):
        encoders.create(name, shape=TextShape(50, weightings=1))


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_gru_reads_each_text_as_if_it_were_alone(make_texts, pooling):
    encoder, inputs = BiGRU(dim=6, hidden=5, depth=2, pooling=pooling, shape=TEXT).eval(), make_texts(LENGTHS)
    assert encoder.stage_names == ("embed", "layer1", "layer2", "pool")
    found = encoder(inputs).values
    for row, length in enumerate(LENGTHS):
        states = encoder.stages["embed"].module(inputs["ids"][row : row + 1, :length])
        for name in ("layer1", "layer2"):
            states, final = encoder.stages[name].module(states)
        expected = {"max": states.amax(dim=1), "mean": states.mean(dim=1), "last": final.transpose(0, 1).flatten(1)}
        torch.testing.assert_close(found[row : row + 1], expected[pooling])


def test_text_cnn_is_the_maximum_over_windows(make_texts):
    encoder, inputs = TextCNN(dim=6, filters=4, widths=(1, 2, 5), shape=TEXT).eval(), make_texts(LENGTHS)
    assert encoder.stage_names == ("embed", "conv", "pool")
    found = encoder(inputs).values
    for row, length in enumerate(LENGTHS):
        words = encoder.stages["embed"].module(inputs["ids"][row, :length])
        expected = []
        for width, layer in zip((1, 2, 5), encoder.stages["conv"].module, strict=True):
            text = F.pad(words, (0, 0, (width - 1) // 2, width // 2))
            windows = [(text[i : i + width].T * layer.weight).sum(dim=(1, 2)) + layer.bias for i in range(length)]
            expected.append(torch.stack(windows).clamp(min=0).amax(dim=0))
        torch.testing.assert_close(found[row], torch.cat(expected))


def test_transformer_block_is_pytorchs_pre_norm_layer(make_texts):
    encoder, inputs = Transformer(dim=8, depth=1, heads=2, hidden=12, shape=TEXT).eval(), make_texts(LENGTHS)
    assert encoder.stage_names == ("embed", "block1", "pool")
    block = encoder.stages["block1"]
    with torch.no_grad():
        block.module.project.bias.normal_()
        block.attention_norm.weight.normal_()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", norm_first=True, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.module.project.weight,
            "self_attn.in_proj_bias": block.module.project.bias,
            "self_attn.out_proj.weight": block.module.out.weight,
            "self_attn.out_proj.bias": block.module.out.bias,
            "linear1.weight": block.first.weight,
            "linear1.bias": block.first.bias,
            "linear2.weight": block.second.weight,
            "linear2.bias": block.second.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.norm.weight,
            "norm2.bias": block.norm.bias,
        }
    )
    features = encoder.stages["embed"](inputs)
    found = block(features).values
    expected = theirs(features.values, src_key_padding_mask=~features.mask)
    torch.testing.assert_close(found[features.mask], expected[features.mask])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_transformer_sees_the_order_of_words_and_a_bag_does_not(make_texts, positions, pooling):
    inputs = make_texts([8])
    swapped = {"ids": inputs["ids"].flip(1), "mask": inputs["mask"]}
    encoder = Transformer(dim=8, heads=2, positions=positions, pooling=pooling, shape=TEXT).eval()
    assert (encoder(inputs).values - encoder(swapped).values).abs().max() > 1e-3
    bag = Bag(shape=TEXT)
    torch.testing.assert_close(bag(inputs).values, bag(swapped).values)


def test_learned_positions_end_and_sinusoidal_ones_do_not(make_texts):
    inputs = make_texts([17])
    with pytest.raises(UserError, match=r"A text of 17 tokens is longer than the 16 .* positions: sinusoidal"):
        Transformer(dim=8, heads=2, shape=TEXT)(inputs)
    encoder = Transformer(dim=8, heads=2, positions="sinusoidal", shape=TEXT)
    assert encoder(inputs).values.isfinite().all()
    longer = Transformer(dim=8, heads=2, positions="sinusoidal", shape=TextShape(50, 30, 1))
    longer.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(longer.eval()(inputs).values, encoder.eval()(inputs).values)


def test_sinusoids_are_the_published_waves():
    waves = sinusoids(12, 6) * (6 / 2) ** 0.5
    torch.testing.assert_close(waves[:, 2], (torch.arange(12.0) / 10000 ** (2 / 6)).sin())
    torch.testing.assert_close(waves[:, 5], (torch.arange(12.0) / 10000 ** (4 / 6)).cos())
    torch.testing.assert_close(sinusoids(12, 6).norm(dim=1), torch.ones(12))


def test_attention_weights_are_dropped_only_while_training():
    torch.manual_seed(0)
    attention, values = SelfAttention(8, 2, dropout=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(attention(values, None), attention(values, None))
    attention.eval()
    assert torch.equal(attention(values, None), attention(values, None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bag(dim=0, shape=TEXT), "'dim' must be at least 1"),
        (lambda: Bag(std=0.0, shape=TEXT), "'std' must be above 0, but 0.0 was given"),
        (lambda: BiGRU(pooling="first", shape=TEXT), "'pooling' must be one of 'max', 'mean', 'last', but 'first'"),
        (lambda: TextCNN(widths=(), shape=TEXT), "'widths' must name at least one width"),
        (lambda: TextCNN(widths=(3, 0), shape=TEXT), "'widths' must be at least 1, but 0"),
        (lambda: Transformer(dim=9, heads=3, positions="sinusoidal", shape=TEXT), "needs an even 'dim', but 9"),
        (lambda: Transformer(dim=9, heads=2, shape=TEXT), "'heads' must divide 'dim'"),
        (lambda: Transformer(positions="rotary", shape=TEXT), "'positions' must be one of 'learned', 'sinusoidal'"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
