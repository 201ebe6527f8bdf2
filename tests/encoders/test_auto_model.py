import json
import subprocess
import sys

import pytest
import torch

from polytask.encoders import AutoModel
from polytask.errors import UserError
from polytask.shapes import TextShape

TEXT = TextShape(vocabulary=50, length=16, padding=1)
LAYERED = ("embed", "layer1", "layer2", "pool")
KINDS = {
    "bert": LAYERED,
    "roberta": LAYERED,
    "xlm-roberta": LAYERED,
    "electra": LAYERED,
    "distilbert": LAYERED,
    "albert": ("backbone", "pool"),
    "mpnet": ("backbone", "pool"),
    "deberta-v2": ("backbone", "pool"),
    "gpt2": ("backbone", "pool"),
}
OPTIONS = {
    "electra": {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "gpt2": {"bos_token_id": 2, "eos_token_id": 2},
}


def before_pooling(encoder: AutoModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    features = inputs
    for name in encoder.stage_names[:-1]:
        features = encoder.stages[name](features)
    return features.values


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_compute_the_models_last_hidden_state(model_folder, make_texts, kind, attention, monkeypatch):
    import transformers

    folder = model_folder(kind, **OPTIONS.get(kind, {}))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    if attention == "eager":
        load = transformers.AutoModel.from_pretrained
        monkeypatch.setattr(
            transformers.AutoModel,
            "from_pretrained",
            lambda name, **options: load(name, attn_implementation="eager", **options),
        )
    encoder = AutoModel(str(folder), shape=TEXT).eval()
    assert encoder.stage_names == KINDS[kind]
    inputs = make_texts([9, 1, 4, 6])
    mask = inputs["mask"]
    with torch.no_grad():
        expected = theirs(input_ids=inputs["ids"], attention_mask=mask.long()).last_hidden_state
        found = before_pooling(encoder, inputs)
        mean = encoder(inputs).values
    torch.testing.assert_close(found[mask], expected[mask])
    torch.testing.assert_close(mean[0], expected[0].mean(dim=0))
    torch.testing.assert_close(mean[2], expected[2, :4].mean(dim=0))


def test_positions_do_not_depend_on_the_inputs_padding_id(model_folder, make_texts):
    encoder = AutoModel(str(model_folder("roberta")), shape=TEXT).eval()
    inputs = make_texts([5, 2])
    other = {"ids": inputs["ids"].where(inputs["mask"], torch.tensor(0)), "mask": inputs["mask"]}
    with torch.no_grad():
        torch.testing.assert_close(encoder(other).values, encoder(inputs).values)


@pytest.mark.parametrize(("pooling", "token"), [("cls", 0), ("last", 3)])
def test_pooling_can_take_one_token(model_folder, make_texts, pooling, token):
    encoder = AutoModel(str(model_folder("bert")), pooling=pooling, shape=TEXT).eval()
    inputs = make_texts([9, 4])
    with torch.no_grad():
        assert torch.equal(encoder(inputs).values[1], before_pooling(encoder, inputs)[1, token])


def test_of_an_encoder_and_decoder_the_encoder_is_taken(model_folder, make_texts):
    import transformers

    folder = model_folder("t5", d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    theirs = transformers.AutoModel.from_pretrained(folder).eval().get_encoder()
    encoder = AutoModel(str(folder), shape=TEXT).eval()
    inputs = make_texts([5, 2])
    with torch.no_grad():
        expected = theirs(input_ids=inputs["ids"], attention_mask=inputs["mask"].long()).last_hidden_state
        torch.testing.assert_close(before_pooling(encoder, inputs)[inputs["mask"]], expected[inputs["mask"]])


def test_trains_in_float32_with_dropout_whatever_the_files_precision(model_folder, tmp_path):
    import transformers

    transformers.AutoModel.from_pretrained(model_folder("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    encoder = AutoModel(str(tmp_path), shape=TEXT)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert all(module.training for module in encoder.modules())


def test_pretrained_or_not_is_as_asked(model_folder):
    folder = str(model_folder("bert"))
    first, second = AutoModel(folder, shape=TEXT), AutoModel(folder, shape=TEXT)
    fresh = AutoModel(folder, pretrained=False, shape=TEXT)
    weights = [
        encoder.state_dict()["stages.layer1.module.attention.self.query.weight"] for encoder in (first, second, fresh)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_saved_encoder_is_rebuilt_in_a_new_process_without_its_folder(model_folder, make_texts, tmp_path):
    folder = model_folder("roberta")
    encoder = AutoModel(str(folder), shape=TEXT).eval()
    inputs = make_texts([6, 3])
    parameters = encoder.for_reload({"name_or_path": str(folder), "pretrained": True})
    assert parameters["pretrained"] is False
    assert str(folder) not in json.dumps(parameters["architecture"])
    (tmp_path / "parameters.json").write_text(json.dumps({**parameters, "name_or_path": "gone"}))
    torch.save([encoder.state_dict(), inputs, encoder(inputs).values.detach()], tmp_path / "state.pt")
    code = (
        "import json, torch\n"
        "from polytask.encoders import AutoModel\n"
        "from polytask.shapes import TextShape\n"
        "encoder = AutoModel(**json.load(open('parameters.json')), shape=TextShape(50, 16, 1)).eval()\n"
        "state, inputs, expected = torch.load('state.pt')\n"
        "encoder.load_state_dict(state)\n"
        "assert torch.equal(encoder(inputs).values, expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("bert", TextShape(51, 16), r"makes 51 different ids, but '.*' knows 50.* tokenizer: "),
        ("bert", TextShape(50, 25), r"up to 25 tokens of a text, but '.*' reads at most 24"),
        ("roberta", TextShape(50, 23), r"up to 23 tokens of a text, but '.*' reads at most 22"),
        ("gpt2", TextShape(50, 25), r"up to 25 tokens of a text, but '.*' reads at most 24"),
    ],
)
def test_texts_that_the_model_is_too_small_for_are_refused(model_folder, kind, shape, message):
    folder = str(model_folder(kind, **OPTIONS.get(kind, {}), **({"n_positions": 24} if kind == "gpt2" else {})))
    with pytest.raises(UserError, match=message):
        AutoModel(folder, shape=shape)


def test_longest_allowed_text_runs(model_folder, make_texts):
    for kind, length in (("bert", 24), ("roberta", 22)):
        encoder = AutoModel(str(model_folder(kind)), shape=TextShape(50, length, 1))
        assert encoder(make_texts([length, 2])).values.isfinite().all()


def test_what_cannot_be_loaded_says_what_can(tmp_path):
    with pytest.raises(
        UserError, match=r"transformers cannot load 'no/such-model': .*Give a folder that holds a model"
    ):
        AutoModel("no/such-model", shape=TEXT)
    with pytest.raises(UserError, match="transformers cannot load"):
        AutoModel(str(tmp_path), shape=TEXT)


def test_layers_that_want_more_than_values_and_a_mask_stay_together(model_folder, monkeypatch):
    from transformers.models.bert import modeling_bert

    original = modeling_bert.BertLayer.forward

    def forward(self, hidden_states, attention_mask=None, *rest, **options):
        if not rest:
            raise TypeError("this layer wants more")
        return original(self, hidden_states, attention_mask, *rest, **options)

    monkeypatch.setattr(modeling_bert.BertLayer, "forward", forward)
    assert AutoModel(str(model_folder("bert")), shape=TEXT).stage_names == ("backbone", "pool")


def test_a_model_that_does_not_read_text_is_refused(model_folder):
    folder = model_folder("vit", image_size=16, patch_size=8)
    with pytest.raises(UserError, match=r"\(vit\) cannot encode text"):
        AutoModel(str(folder), shape=TEXT)


def test_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="'pooling' must be one of 'mean', 'cls', 'last', but 'max'"):
        AutoModel("bert", pooling="max", shape=TEXT)
