import pytest
import torch
from torch import nn

from polytask import encoders
from polytask.encoders.token_pooling import compared
from polytask.errors import UserError
from polytask.features import Features
from polytask.shapes import TextShape

PAIRS = TextShape(50, length=8, segments=2)
PARTS = TextShape(50, length=8, parts=3)
SMALL = {
    "bag": {"dim": 6},
    "bigru": {"dim": 6, "hidden": 4},
    "text_cnn": {"dim": 6, "filters": 3, "widths": [2, 3]},
    "transformer": {"dim": 8, "heads": 2, "depth": 1},
}


def inputs(rows=3, **more):
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(8) < torch.tensor([8, 5, 3])[:rows, None]
    return {"ids": torch.randint(1, 50, (rows, 8), generator=draw), "mask": mask, **more}


def pairs():
    """Two rows of two texts, and one with a single text."""
    return inputs(segments=(torch.arange(8) >= torch.tensor([4, 2, 8])[:, None]).long())


def body(encoder, given):
    features = given
    for name in encoder.stage_names:
        if encoder.stages[name].shape.kind == "tokens":
            features = encoder.stages[name](features)
    return features


@pytest.mark.parametrize("name", SMALL)
def test_two_texts_are_compared(name):
    torch.manual_seed(0)
    encoder = encoders.create(name, **SMALL[name], shape=PAIRS).eval()
    single = encoders.create(name, **SMALL[name], shape=TextShape(50, length=8))
    found = encoder(pairs()).values
    width = single.shape.width
    assert found.shape == (3, 4 * width) == (3, encoder.shape.width)
    first, second, difference, product = found.split(width, dim=1)
    torch.testing.assert_close(difference, (first - second).abs())
    torch.testing.assert_close(product, first * second)
    # The third row has one text.
    assert (second[2] == 0).all()
    assert (first[:2] != second[:2]).any()


@pytest.mark.parametrize("name", ["bigru", "text_cnn", "transformer"])
def test_tokens_know_which_text_they_are_of(name):
    encoder = encoders.create(name, **SMALL[name], shape=PAIRS).eval()
    embed = encoder.stages["embed"]
    other = {**pairs(), "segments": 1 - pairs()["segments"]}
    assert not torch.allclose(embed(pairs()).values, embed(other).values)
    encoder(pairs()).values.sum().backward()
    assert embed.segments.weight.grad.abs().sum(dim=1).min() > 0


def test_the_class_token_and_the_last_states_see_both_texts():
    transformer = encoders.create("transformer", **SMALL["transformer"], pooling="cls", shape=PAIRS)
    recurrent = encoders.create("bigru", **SMALL["bigru"], pooling="last", shape=PAIRS)
    assert transformer(pairs()).values.shape == (3, 8)
    assert recurrent(pairs()).values.shape == (3, 8)


def test_comparing_is_symmetric_in_its_second_half():
    one, other = torch.randn(2, 3), torch.randn(2, 3)
    there, back = compared(one, other), compared(other, one)
    assert there[:, 6:].equal(back[:, 6:])
    assert there[:, :3].equal(back[:, 3:6])


@pytest.mark.parametrize("name", SMALL)
def test_the_parts_of_a_token_are_added(name):
    encoder = encoders.create(name, **SMALL[name], shape=PARTS).eval()
    ids = torch.randint(0, 50, (2, 8, 3), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 8, dtype=torch.bool)
    whole = encoder({"ids": ids, "mask": mask}).values
    shuffled = encoder({"ids": ids.flip(2), "mask": mask}).values
    torch.testing.assert_close(whole, shuffled)
    table = next(module for module in encoder.modules() if isinstance(module, nn.Embedding))
    assert table.weight.shape[0] == 50


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bigru", {}), ("text_cnn", {}), ("transformer", {}), ("transformer", {"pooling": "cls"})],
)
def test_words_travel_with_the_tokens(name, parameters):
    encoder = encoders.create(name, **SMALL[name], **parameters, shape=TextShape(50, length=8)).eval()
    words = torch.where(inputs()["mask"], torch.arange(8) // 2, -1)
    found = body(encoder, inputs(words=words))
    assert isinstance(found, Features)
    if parameters:
        assert (found.words[:, 0] == -1).all()
        assert found.words[:, 1:].equal(words)
        assert found.words.shape == found.mask.shape == found.values.shape[:2]
    else:
        assert found.words.equal(words)
    chosen = found.select(torch.tensor([2, 0]))
    assert chosen.words.equal(found.words[[2, 0]])


class TestPretrained:
    @pytest.fixture
    def folder(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
        )
        transformers.BertModel(config).save_pretrained(tmp_path)
        return str(tmp_path)

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_pairs_have_the_models_own_embeddings_of_either_text(self, folder, pooling):
        encoder = encoders.create("auto_model", name_or_path=folder, pooling=pooling, shape=PAIRS).eval()
        assert encoder(pairs()).values.shape == (3, 32 if pooling == "mean" else 8)
        import transformers

        model = transformers.BertModel.from_pretrained(folder).eval()
        given = pairs()
        expected = model(given["ids"], given["mask"].long(), token_type_ids=given["segments"]).last_hidden_state
        found = body(encoder, {**given, "words": given["segments"]})
        torch.testing.assert_close(found.values[given["mask"]], expected[given["mask"]], rtol=1e-3, atol=1e-4)
        assert found.words.equal(given["segments"])

    def test_tokens_of_several_ids_are_refused(self, folder):
        with pytest.raises(UserError, match="3 ids .affixes., but .* reads one"):
            encoders.create("auto_model", name_or_path=folder, shape=PARTS)
