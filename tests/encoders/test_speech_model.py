import json
import subprocess
import sys

import pytest
import torch

from polytask.encoders import SpeechModel
from polytask.errors import UserError
from polytask.shapes import AudioShape

from .cases import SPEECH, WHISPER, recordings

RATE = 16_000
SHAPE = AudioShape(RATE, samples=RATE)
LAYERED = ("features", "layer1", "layer2", "pool")
KINDS = {
    "wav2vec2": LAYERED,
    "hubert": LAYERED,
    "data2vec-audio": LAYERED,
    "unispeech": LAYERED,
    "unispeech-sat": LAYERED,
    "wavlm": ("features", "backbone", "pool"),
    "sew": ("backbone", "pool"),
    "wav2vec2-conformer": ("backbone", "pool"),
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


@pytest.fixture
def speech_folder(tmp_path):
    """Makes a folder with a small speech model, random weights and all."""

    def make(kind, description=None, **options):
        from transformers import AutoConfig, AutoModel

        torch.manual_seed(0)
        defaults = WHISPER if kind == "whisper" else SPEECH
        if kind == "data2vec-audio":
            defaults = {**SPEECH, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}
        model = AutoModel.from_config(AutoConfig.for_model(kind, **{**defaults, **options}))
        model.save_pretrained(tmp_path / kind)
        if description is not None:
            (tmp_path / kind / "preprocessor_config.json").write_text(json.dumps(description))
        return tmp_path / kind

    return make


def waves(*lengths, seed=0):
    return recordings(list(lengths), SHAPE, torch.Generator().manual_seed(seed))


def before_pooling(encoder, inputs):
    features = inputs
    for name in encoder.stage_names[:-1]:
        features = encoder.stages[name](features)
    return features._replace(values=encoder.stages["pool"].module(features.values))


def normalised(wave):
    return (wave - wave.mean(1, keepdim=True)) / (wave.var(1, correction=0, keepdim=True) + 1e-7).sqrt()


def check_stages(folder, stages):
    """That they compute what the model does, also of the shorter one of two recordings."""
    import transformers

    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    encoder = SpeechModel(str(folder), shape=SHAPE).eval()
    assert encoder.stage_names == stages
    inputs = waves(4000, 2000)
    with torch.no_grad():
        found, pooled = before_pooling(encoder, inputs), encoder(inputs).values
        for row, length in enumerate((4000, 2000)):
            expected = theirs(normalised(inputs["waveform"][row, :, :length])).last_hidden_state[0]
            assert found.mask[row].sum() == len(expected)
            torch.testing.assert_close(found.values[row, : len(expected)], expected, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(pooled[row], expected.mean(0), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, STABLE])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_compute_the_models_last_hidden_state(speech_folder, kind, options):
    check_stages(speech_folder(kind, **options), KINDS[kind])


def test_stages_compute_it_with_attention_of_the_other_kind(speech_folder, monkeypatch):
    import transformers

    load = transformers.AutoModel.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModel,
        "from_pretrained",
        lambda name, **given: load(name, attn_implementation="eager", **given),
    )
    check_stages(speech_folder("hubert"), LAYERED)


def test_whispers_encoder_is_computed_on_recordings_that_fill_its_window(speech_folder):
    import transformers

    folder = speech_folder("whisper", max_source_positions=50)
    theirs = transformers.AutoModel.from_pretrained(folder).eval().get_encoder()
    encoder = SpeechModel(str(folder), shape=SHAPE).eval()
    assert encoder.stage_names == LAYERED
    inputs = waves(RATE, RATE)
    extractor = transformers.WhisperFeatureExtractor(feature_size=12, chunk_length=1)
    spectra = extractor([wave.numpy() for wave in inputs["waveform"][:, 0]], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(spectra.input_features).last_hidden_state
        found = before_pooling(encoder, inputs)
    torch.testing.assert_close(found.values, expected, atol=1e-3, rtol=1e-3)
    assert found.mask.all()


def test_whisper_reads_no_more_than_its_window(speech_folder):
    folder = speech_folder("whisper", max_source_positions=50)
    with pytest.raises(
        UserError, match="reads up to 1.5 s of a recording, but the model reads 1 s. Set max_seconds: 1"
    ):
        SpeechModel(str(folder), shape=AudioShape(RATE, samples=24_000))


def test_of_a_short_recording_whisper_computes_as_much_as_there_is(speech_folder):
    encoder = SpeechModel(str(speech_folder("whisper")), shape=SHAPE).eval()
    found = before_pooling(encoder, waves(3200, 1600))
    assert found.values.shape[1] < 14
    assert found.mask.sum(1).tolist() == [10, 5]


def test_pretrained_or_not_is_as_asked(speech_folder):
    folder = str(speech_folder("wav2vec2"))
    first, second = SpeechModel(folder, shape=SHAPE), SpeechModel(folder, shape=SHAPE)
    fresh = SpeechModel(folder, pretrained=False, shape=SHAPE)
    weights = [
        dict(encoder.named_parameters())["stages.layer1.module.attention.q_proj.weight"]
        for encoder in (first, second, fresh)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.pretrained and not fresh.pretrained


@pytest.mark.parametrize("given", [None, True, False])
@pytest.mark.parametrize("described", [None, True, False])
def test_recordings_are_normalised_as_the_files_or_the_user_say(speech_folder, given, described):
    description = None if described is None else {"do_normalize": described, "sampling_rate": RATE}
    folder = str(speech_folder("wav2vec2", description, feat_extract_norm="layer", conv_bias=True))
    encoder = SpeechModel(folder, normalize=given, shape=SHAPE).eval()
    wanted = given if given is not None else described is not False
    inputs = waves(3000)
    louder = {**inputs, "waveform": 3 * inputs["waveform"] + 0.1}
    with torch.no_grad():
        same = torch.allclose(before_pooling(encoder, louder).values, before_pooling(encoder, inputs).values, atol=1e-4)
    assert same == wanted
    assert encoder.for_reload({})["normalize"] is wanted


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "whisper"])
def test_a_saved_encoder_is_rebuilt_in_a_new_process_without_its_folder(speech_folder, tmp_path, kind):
    folder = speech_folder(kind, {"do_normalize": False, "sampling_rate": RATE})
    encoder = SpeechModel(str(folder), shape=AudioShape(RATE, samples=8000)).eval()
    inputs = waves(6000, 3000)
    parameters = encoder.for_reload({"name_or_path": str(folder), "pretrained": True})
    assert parameters["pretrained"] is False
    assert str(folder) not in json.dumps(parameters["architecture"])
    (tmp_path / "parameters.json").write_text(json.dumps({**parameters, "name_or_path": "gone"}))
    torch.save([encoder.state_dict(), inputs, encoder(inputs).values.detach()], tmp_path / "state.pt")
    code = (
        "import json, torch\n"
        "from polytask.encoders import SpeechModel\n"
        "from polytask.shapes import AudioShape\n"
        "encoder = SpeechModel(**json.load(open('parameters.json')), shape=AudioShape(16000, samples=8000)).eval()\n"
        "state, inputs, expected = torch.load('state.pt')\n"
        "encoder.load_state_dict(state)\n"
        "assert torch.equal(encoder(inputs).values, expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_masks_nothing_of_its_own_and_leaves_out_no_layer(speech_folder):
    folder = str(speech_folder("wavlm", mask_time_prob=0.5, layerdrop=0.9, hidden_dropout=0.0, attention_dropout=0.0))
    encoder = SpeechModel(folder, shape=SHAPE)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = waves(4000)
    torch.testing.assert_close(encoder.train()(inputs).values, encoder.train()(inputs).values)
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize(
    ("description", "shape", "message"),
    [
        (
            None,
            AudioShape(8000),
            "makes 8,000 samples a second, but '.*' was trained on 16,000. Set sample_rate: 16000",
        ),
        ({"sampling_rate": 8000}, AudioShape(RATE), "was trained on 8,000. Set sample_rate: 8000"),
        (None, AudioShape(RATE, channels=2), "makes 2 channels, but '.*' reads one. Set channels: 1"),
    ],
)
def test_recordings_of_another_kind_are_refused(speech_folder, description, shape, message):
    with pytest.raises(UserError, match=message):
        SpeechModel(str(speech_folder("wav2vec2", description)), shape=shape)


def test_an_architecture_alone_reads_any_rate(speech_folder):
    encoder = SpeechModel(str(speech_folder("wav2vec2")), pretrained=False, shape=AudioShape(8000))
    assert encoder(waves(3000)).values.shape == (1, 16)


def test_models_that_read_something_else_are_refused(model_folder):
    with pytest.raises(UserError, match=r"\(bert\) cannot encode recordings: .* such as wav2vec2, hubert or wavlm"):
        SpeechModel(str(model_folder("bert")), shape=SHAPE)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="transformers cannot load"):
        SpeechModel(str(tmp_path), shape=SHAPE)
    with pytest.raises(UserError, match="'pooling' must be one of 'mean', 'max'"):
        SpeechModel(str(tmp_path), pooling="cls", shape=SHAPE)
