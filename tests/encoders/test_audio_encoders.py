import pytest
import torch
from torch import nn

from polytask import encoders
from polytask.encoders import Features
from polytask.encoders.audio_stages import AudioConvolution, MaskedBatchNorm2d, StatisticsPool
from polytask.errors import UserError
from polytask.shapes import AudioShape

from .cases import AUDIO, CASES, prepared, recordings

AUDIO_CASES = [name for name, case in CASES.items() if isinstance(case.shape, AudioShape)]
SPECTRAL = [name for name in AUDIO_CASES if not name.startswith("speech")]


def cut(inputs, row, samples=None):
    length = int(inputs["lengths"][row])
    return {
        "waveform": inputs["waveform"][row : row + 1, :, : samples or length],
        "lengths": inputs["lengths"][row : row + 1],
    }


def outputs_by_stage(encoder, inputs):
    features, found = inputs, []
    for stage in encoder.stages.values():
        features = stage(features)
        found.append(features)
    return found


def real_positions(features):
    values, mask = features.values, features.mask
    if mask is None:
        return values[0]
    last = 3 if values.ndim == 4 else 1
    return values.movedim(last, 1)[mask]


@pytest.mark.parametrize("name", AUDIO_CASES)
def test_padding_changes_nothing_at_any_stage(name):
    case = prepared(CASES[name])
    encoder = case.build().train()
    encoder(case.inputs(seed=1))  # statistics that are not those of the start
    encoder.eval()
    inputs = recordings([2400, 1337, 800, 411, 3], case.shape, torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = outputs_by_stage(encoder, inputs)
        for row in range(5):
            for stage, all_rows, alone in zip(
                encoder.stages, together, outputs_by_stage(encoder, cut(inputs, row)), strict=True
            ):
                rows = torch.tensor([row])
                torch.testing.assert_close(
                    real_positions(all_rows.select(rows)),
                    real_positions(alone),
                    atol=2e-4,
                    rtol=1e-3,
                    msg=lambda text, row=row, stage=stage: f"row {row}, {stage}: {text}",
                )


@pytest.mark.parametrize("name", SPECTRAL)
def test_padding_changes_no_gradient_and_no_statistic_in_training(name):
    parameters = {**CASES[name].parameters, "dropout": 0.0, "mask_bands": 0, "mask_time": 0.0}
    case = CASES[name]
    inputs = case.inputs()
    longer = {**inputs, "waveform": nn.functional.pad(inputs["waveform"], (0, 700))}
    found = []
    for given in (inputs, longer):
        torch.manual_seed(0)
        encoder = encoders.create(case.name, **parameters, shape=case.shape).train()
        encoder(given).values.square().sum().backward()
        found.append(
            {name: parameter.grad for name, parameter in encoder.named_parameters()} | dict(encoder.named_buffers())
        )
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], atol=1e-3, rtol=1e-3, msg=lambda text, at=key: f"{at}: {text}")


@pytest.mark.parametrize("name", SPECTRAL)
def test_what_others_put_behind_a_recording_between_stages_is_not_read(name):
    """Sharing schemes mix and scale features, biases and all."""
    case = CASES[name]
    encoder, inputs = case.build().eval(), case.inputs()
    plain = dirty = inputs
    with torch.no_grad():
        for stage in encoder.stages.values():
            plain, dirty = stage(plain), stage(dirty)
            if dirty.mask is not None:
                mask = dirty.mask[:, None, None, :] if dirty.values.ndim == 4 else dirty.mask[:, :, None]
                dirty = dirty._replace(values=dirty.values.masked_fill(~mask, 9.0))
    torch.testing.assert_close(plain.values, dirty.values)


def test_masked_batch_normalisation_is_that_of_what_is_real():
    torch.manual_seed(0)
    values, mask = 2 + torch.randn(3, 5, 4, 9), torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    masked, plain = MaskedBatchNorm2d(5), nn.BatchNorm2d(5)
    with torch.no_grad():
        for norm in (masked, plain):
            norm.weight.copy_(torch.arange(1.0, 6))
            norm.bias.fill_(0.3)
    real = values.permute(0, 3, 1, 2)[mask][..., None]  # [positions, C, F, 1]
    leaf, other = values.clone().requires_grad_(), real.clone().requires_grad_()
    found, expected = masked(leaf, mask), plain(other)
    torch.testing.assert_close(found.permute(0, 3, 1, 2)[mask][..., None], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked.running_mean, plain.running_mean)
    torch.testing.assert_close(masked.running_var, plain.running_var)
    weights = torch.randn_like(expected)
    (found.permute(0, 3, 1, 2)[mask][..., None] * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.permute(0, 3, 1, 2)[mask][..., None], other.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(masked.weight.grad, plain.weight.grad, atol=1e-3, rtol=1e-3)
    masked.eval()
    plain.eval()
    torch.testing.assert_close(masked(values, mask), plain(values))


def test_a_single_value_has_no_variance_to_learn():
    norm = MaskedBatchNorm2d(2)
    found = norm(torch.randn(1, 2, 1, 3), torch.tensor([[True, False, False]]))
    assert found.isfinite().all()
    assert norm.running_var.tolist() == [1.0, 1.0]


def test_frames_are_halved_with_their_masks():
    stage = AudioConvolution(1, 3, 2, 2, 0.0).eval()
    mask = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    found = stage(Features(torch.randn(3, 1, 6, 8), mask))
    assert found.values.shape == (3, 3, 3, 4)
    assert found.mask.sum(1).tolist() == [4, 3, 1]


def test_statistics_are_those_over_time():
    values, mask = torch.randn(2, 3, 4, 6), torch.arange(6) < torch.tensor([6, 2])[:, None]
    found = StatisticsPool(3, 4, True, 0.0)(Features(values, mask)).values
    assert found.shape == (2, 24)
    torch.testing.assert_close(found[1, :12], values[1, :, :, :2].mean(2).flatten())
    deviation = (values[1, :, :, :2].var(2, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found[1, 12:], deviation.flatten())


def test_loudness_is_seen_unless_each_recording_is_normalised():
    inputs = CASES["audio_cnn"].inputs()
    louder = {**inputs, "waveform": 4 * inputs["waveform"]}
    differences = {}
    for spectrum in ("utterance", "dataset"):
        torch.manual_seed(0)
        encoder = encoders.create("audio_cnn", width=4, depth=2, bands=8, spectrum=spectrum, shape=AUDIO).eval()
        with torch.no_grad():
            differences[spectrum] = (encoder(louder).values - encoder(inputs).values).abs().max()
    assert differences["utterance"] < 1e-2 < differences["dataset"]


def test_silence_is_finite():
    for name in SPECTRAL:
        case = CASES[name]
        inputs = case.inputs()
        encoder = case.build()
        values = encoder({**inputs, "waveform": torch.zeros_like(inputs["waveform"])}).values
        values.sum().backward()
        assert values.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_spec_augment_is_for_training():
    encoder = encoders.create("audio_cnn", width=4, depth=2, mask_bands=20, mask_time=0.5, bands=32, shape=AUDIO)
    inputs, spectra = CASES["audio_cnn"].inputs(), encoder.stages["spectra"]
    torch.manual_seed(0)
    assert (spectra(inputs).values[0, 0] == 0).float().mean() > 0.05
    assert (spectra.eval()(inputs).values[4] == 0).float().mean() < 0.1
    assert torch.equal(spectra(inputs).values, spectra(inputs).values)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("audio_cnn", {"depth": 0}, "'depth' must be at least 1"),
        ("audio_cnn", {"bands": 0}, "'bands' must be at least 1"),
        ("audio_cnn", {"hop": 0.0}, "'hop' must be above 0 and at most 1 second, but 0 was given"),
        ("audio_cnn", {"window": 2.0}, "'window' must be above 0"),
        ("audio_cnn", {"mask_time": 1.0}, "'mask_time' must be a share of at least 0 and less than 1"),
        ("audio_cnn", {"mask_bands": -1}, "'mask_bands' must be at least 0"),
        ("audio_cnn", {"features": "spectrogram"}, "'features' must be one of 'log_mel', 'mfcc'"),
        ("audio_cnn", {"spectrum": "batch"}, "'spectrum' must be one of"),
        ("audio_cnn", {"pooling": "max"}, "'pooling' must be one of 'mean_std', 'mean'"),
        ("audio_cnn", {"bands": 50_000}, "50000 mel bands are more than"),
        ("crnn", {"subsampling": 16}, "'subsampling' must be one of 1, 2, 4, 8, but 16"),
        ("crnn", {"hidden": 0}, "'hidden' must be at least 1"),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        encoders.create(name, **parameters, shape=AUDIO)
