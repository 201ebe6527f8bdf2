import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask.encoders import MLP, FTTransformer, TabularResNet
from polytask.encoders.columns import ColumnEmbedding
from polytask.errors import UserError
from polytask.shapes import TabularShape

TABLE = TabularShape(numeric=2, cardinalities=(3, 40))


def table(rows: int = 6) -> dict[str, torch.Tensor]:
    codes = torch.stack([torch.randint(3, (rows,)), torch.randint(40, (rows,))], dim=1)
    return {"numeric": torch.randn(rows, 2), "categorical": codes}


def test_columns_stand_side_by_side():
    stage, inputs = ColumnEmbedding(TABLE, embedding=4), table()
    values = stage(inputs).values
    assert values.shape == (6, 2 + 4 + 4)
    assert torch.equal(values[:, :2], inputs["numeric"])
    assert torch.equal(values[:, 6:], stage.module[1].weight[inputs["categorical"][:, 1]])


def test_automatic_embedding_grows_with_the_number_of_categories():
    with torch.device("meta"):
        stage = ColumnEmbedding(TabularShape(0, (1, 2, 10, 1000, 10**6)), "auto")
    sizes = [table.embedding_dim for table in stage.module]
    assert sizes == [2, 2, 6, 77, 600]


def test_an_embedding_weighs_as_much_as_a_standardised_number():
    (column,) = ColumnEmbedding(TabularShape(0, (5000,)), 20).module
    assert column.weight.norm(dim=1).square().mean().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("encoder", [MLP, TabularResNet, FTTransformer])
def test_one_kind_of_columns_is_enough(encoder):
    inputs = table()
    numbers = encoder(shape=TabularShape(2)).eval()
    assert torch.equal(numbers({"numeric": inputs["numeric"]}).values, numbers(inputs).values)
    categories = encoder(shape=TabularShape(0, (3, 40)))
    assert categories({"categorical": inputs["categorical"]}).values.shape == (6, categories.shape.width)
    for parameter in [*numbers.parameters(), *categories.parameters()]:
        assert parameter.numel() > 0


@pytest.mark.parametrize("encoder", [MLP, TabularResNet, FTTransformer])
def test_a_table_without_columns_is_refused(encoder):
    with pytest.raises(UserError, match="at least one column, numeric or categorical"):
        encoder(shape=TabularShape(0))


def test_mlp_is_linear_maps_and_relus():
    encoder, inputs = MLP(width=5, depth=2, shape=TABLE), table()
    assert encoder.stage_names == ("embed", "layer1", "layer2")
    expected = encoder.stages["embed"](inputs).values
    for name in ("layer1", "layer2"):
        linear = encoder.stages[name].module[0]
        expected = (expected @ linear.weight.T + linear.bias).clamp(min=0)
    torch.testing.assert_close(encoder(inputs).values, expected)


def test_deep_mlp_keeps_the_scale_of_its_values():
    torch.manual_seed(0)
    encoder = MLP(width=256, depth=20, shape=TabularShape(50))
    inputs = torch.randn(100, 50)
    assert 0.3 < (encoder({"numeric": inputs}).values.square().mean() / inputs.square().mean()).item() < 3


def test_resnet_is_the_published_formula():
    encoder, inputs = TabularResNet(width=6, depth=2, hidden=9, shape=TABLE), table()
    assert encoder.stage_names == ("embed", "project", "block1", "block2", "pool")
    encoder.train()(inputs)
    encoder.eval()
    x = encoder.stages["project"].module(encoder.stages["embed"](inputs).values)
    for name in ("block1", "block2"):
        block = encoder.stages[name].module
        assert block.first.out_features == 9
        x = x + block.second(F.relu(block.first(block.norm(x))))
    expected = F.relu(encoder.stages["pool"].module[0](x))
    torch.testing.assert_close(encoder(inputs).values, expected)


def test_ft_transformer_makes_a_token_of_each_column():
    encoder, inputs = FTTransformer(dim=8, heads=2, shape=TABLE), table()
    stage = encoder.stages["embed"]
    tokens = stage(inputs).values
    assert tokens.shape == (6, 1 + 2 + 2, 8)
    torch.testing.assert_close(tokens[:, 0], stage.class_token[0].expand(6, -1))
    torch.testing.assert_close(tokens[:, 2], inputs["numeric"][:, 1:] * stage.weight[1] + stage.bias[1])
    torch.testing.assert_close(tokens[:, 4], stage.module.weight[3 + inputs["categorical"][:, 1]] + stage.bias[3])


def test_ft_transformer_is_the_published_formula():
    torch.manual_seed(0)
    encoder = FTTransformer(dim=12, depth=2, heads=3, shape=TABLE).eval()
    assert encoder.stage_names == ("embed", "block1", "block2", "pool")
    inputs = table()
    x = encoder.stages["embed"](inputs).values
    for number in (1, 2):
        block = encoder.stages[f"block{number}"].module
        assert isinstance(block.attention_norm, nn.Identity if number == 1 else nn.LayerNorm)
        assert block.second.in_features == 16
        x = x + reference_attention(block.attention, block.attention_norm(x), 3)
        linear, gate = block.first(block.norm(x)).chunk(2, dim=-1)
        x = x + block.second(linear * F.relu(gate))
    expected = F.relu(encoder.stages["pool"].module.norm(x[:, 0]))
    torch.testing.assert_close(encoder(inputs).values, expected)


def reference_attention(attention: nn.Module, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Softmax attention, head by head."""
    dim = x.shape[-1]
    query, key, value = attention.project(x).split(dim, dim=-1)
    size = dim // heads
    found = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(size)
        found.append(scores.softmax(dim=-1) @ value[..., part])
    return attention.out(torch.cat(found, dim=-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(width=0, shape=TABLE), "'width' must be at least 1, but 0 was given"),
        (lambda: MLP(depth=0, shape=TABLE), "'depth' must be at least 1"),
        (lambda: MLP(dropout=1.0, shape=TABLE), "'dropout' must be at least 0 and less than 1, but 1.0"),
        (lambda: MLP(embedding=0, shape=TABLE), "'embedding' must be at least 1"),
        (lambda: TabularResNet(normalization="none", shape=TABLE), "'normalization' must be one of 'batch', 'layer'"),
        (lambda: FTTransformer(dim=10, heads=4, shape=TABLE), "'heads' must divide 'dim', but 4 does not divide 10"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
