import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.signal import get_window

from polytask.encoders.spectrogram import (
    SpecAugment,
    Spectrogram,
    SpectrumNorm,
    cosine_transform,
    masked_moments,
    mel_filters,
    pad_frames,
)
from polytask.errors import UserError

RATE = 8000


def waves(*lengths, seed=0):
    found = 0.1 * torch.randn(len(lengths), 1, max(lengths), generator=torch.Generator().manual_seed(seed))
    return found * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None, None])


@pytest.mark.parametrize(("scale", "even_area"), [("htk", False), ("slaney", True), ("slaney", False)])
@pytest.mark.parametrize(("bins", "bands", "rate"), [(257, 40, 8000), (201, 80, 16000), (1025, 128, 44100)])
def test_mel_filters_are_those_of_transformers(bins, bands, rate, scale, even_area):
    from transformers.audio_utils import mel_filter_bank

    norm = "slaney" if even_area else None
    theirs = mel_filter_bank(bins, bands, 0.0, rate / 2, rate, norm=norm, mel_scale=scale)
    np.testing.assert_allclose(mel_filters(bins, bands, rate, scale, even_area=even_area), theirs, atol=1e-9)


def test_the_cosine_transform_is_scipys():
    values = np.random.default_rng(0).normal(size=(3, 20))
    expected = dct(values, norm="ortho")[:, :13]
    np.testing.assert_allclose(values @ cosine_transform(20, 13).numpy(), expected, atol=1e-5)


def test_log_mel_is_its_formula():
    wave = waves(1000)
    spectrogram = Spectrogram(RATE, 20, 0.025, 0.01)
    assert spectrogram.transform == 256
    padded = np.concatenate([np.zeros(128), wave[0, 0].numpy(), np.zeros(128)])
    window = np.zeros(256)
    window[28:228] = get_window("hann", 200)
    frames = [padded[80 * t : 80 * t + 256] * window for t in range(1 + 1000 // 80)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(power @ mel_filters(129, 20, RATE) + 1e-6).T
    np.testing.assert_allclose(spectrogram(wave)[0, 0].numpy(), expected, atol=1e-3)


def test_mfcc_are_the_cosine_transform_of_log_mel():
    wave = waves(900)
    mel = Spectrogram(RATE, 26, 0.03, 0.01)(wave)[0, 0].numpy()
    mfcc = Spectrogram(RATE, 13, 0.03, 0.01, "mfcc")(wave)[0, 0].numpy()
    np.testing.assert_allclose(mfcc, dct(mel, axis=0, norm="ortho")[:13], atol=1e-3)


def test_a_tone_is_loudest_in_its_band():
    spectrogram = Spectrogram(RATE, 32, 0.025, 0.01)
    filters = mel_filters(spectrogram.transform // 2 + 1, 32, RATE)
    for hertz in (300.0, 1000.0, 3000.0):
        tone = torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)[None, None]
        band = filters[round(hertz / RATE * spectrogram.transform)].argmax()
        assert spectrogram(tone)[0, 0, :, 50].argmax() == band


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.sampled_from(["log_mel", "mfcc"]))
@settings(max_examples=15, deadline=None)
def test_padding_does_not_change_a_recording(lengths, kind):
    spectrogram = Spectrogram(RATE, 12, 0.025, 0.01, kind)
    batch = waves(*lengths)
    together, frames = spectrogram(batch), spectrogram.frames(torch.tensor(lengths))
    assert together.shape[3] == frames.max()
    for row, length in enumerate(lengths):
        alone = spectrogram(batch[row : row + 1, :, :length])
        assert alone.shape[3] == frames[row]
        torch.testing.assert_close(together[row : row + 1, :, :, : frames[row]], alone, atol=1e-4, rtol=1e-4)


def test_transforms_grow_until_every_band_has_a_frequency():
    assert Spectrogram(RATE, 20, 0.025, 0.01).transform == 256
    many = Spectrogram(RATE, 120, 0.025, 0.01)
    assert many.transform > 256
    assert many.filters.amax(0).min() > 0
    with pytest.raises(UserError, match="100000 mel bands are more than 8,000 samples a second can tell apart"):
        Spectrogram(RATE, 100_000, 0.025, 0.01)


def test_spectra_are_computed_in_full_precision():
    spectrogram, wave = Spectrogram(RATE, 20, 0.025, 0.01), waves(1000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectrogram(wave), spectrogram(wave.clone()))
        assert spectrogram(wave).dtype == torch.float32
    assert spectrogram.double()(wave.double()).dtype == torch.float64


def masks(frames, size):
    return torch.arange(size) < torch.tensor(frames)[:, None]


def test_an_utterance_is_normalised_by_itself():
    values, mask = 3 + 2 * torch.randn(3, 2, 4, 9), masks([9, 5, 1], 9)
    found = SpectrumNorm(4, "utterance")(values, mask)
    expected = (values[1, :, :, :5] - values[1, :, :, :5].mean((0, 2), keepdim=True)[0]) / (
        values[1, :, :, :5].transpose(0, 1).flatten(1).var(1, correction=0) + 1e-5
    ).sqrt()[:, None]
    torch.testing.assert_close(found[1, :, :, :5], expected, atol=1e-4, rtol=1e-4)
    assert (found[1, :, :, 5:] == 0).all()
    assert found.isfinite().all()
    louder = SpectrumNorm(4, "utterance")(values + 7, mask)
    torch.testing.assert_close(found, louder, atol=1e-4, rtol=1e-3)


def test_the_data_sets_moments_are_exact_over_all_batches():
    norm = SpectrumNorm(4, "dataset").train()
    draw = torch.Generator().manual_seed(0)
    seen = []
    for frames in ([9, 5, 1], [3], [8, 8]):
        values, mask = 5 + 2 * torch.randn(len(frames), 2, 4, 9, generator=draw), masks(frames, 9)
        values[:, :, 1] += 3
        norm(values, mask)
        seen.append(values.permute(0, 3, 1, 2)[mask].flatten(0, 1))
    seen = torch.cat(seen)
    torch.testing.assert_close(norm.mean[:, 0], seen.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.variance[:, 0], seen.var(0, correction=0), atol=1e-4, rtol=1e-3)
    before = norm.mean.clone()
    norm.eval()(values, mask)
    assert torch.equal(norm.mean, before), "nothing is learned in evaluation"


def test_without_a_frame_nothing_is_learned():
    norm = SpectrumNorm(4, "dataset").train()
    norm(torch.randn(2, 1, 4, 3), masks([0, 0], 3))
    assert norm.mean.tolist() == [[0.0]] * 4
    assert norm.variance.tolist() == [[1.0]] * 4


def test_masked_moments_leave_out_what_is_masked():
    values, mask = torch.randn(3, 2, 4, 9), masks([9, 5, 0], 9)
    mean, variance = masked_moments(values, mask[:, None, None, :].float(), (3,))
    torch.testing.assert_close(mean[1, :, :, 0], values[1, :, :, :5].mean(2))
    torch.testing.assert_close(variance[1, :, :, 0], values[1, :, :, :5].var(2, correction=0))
    assert (mean[2] == 0).all() and (variance[2] == 0).all()


@given(st.integers(0, 6), st.floats(0.0, 0.9), st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_spec_augment_masks_no_more_than_allowed(bands, time, frames):
    values = torch.ones(len(frames), 2, 8, 20)
    augment = SpecAugment(bands, time, masks=2)
    assert augment.eval()(values, torch.tensor(frames)) is values
    found = augment.train()(values, torch.tensor(frames))
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(found[:, 0], found[:, 1]), "both channels alike"
    for row, length in enumerate(frames):
        kept_bands, kept_time = (found[row, 0].amax(axis) > 0 for axis in (1, 0))
        if kept_time.any():
            assert (~kept_bands).sum() <= 2 * bands
        if kept_bands.any():
            assert (~kept_time).sum() <= 2 * math.floor(length * time)
            assert kept_time[length:].all(), "what is behind the end is not counted"


def test_spec_augment_masks_something_anywhere_and_differently_in_each_row():
    torch.manual_seed(0)
    found = SpecAugment(3, 0.3, masks=2)(torch.ones(400, 1, 8, 20), torch.full((400,), 20))
    hidden = found[:, 0] == 0
    assert (hidden.float().mean(0) > 0.1).all(), "each place is masked sometimes"
    assert len({tuple(row.flatten().tolist()) for row in hidden}) > 300
    widths = hidden.all(2).sum(1)
    assert set(widths.tolist()) == set(range(7)), "two masks of 0 to 3 bands"


def test_frames_are_padded_to_a_multiple():
    values, mask = pad_frames(torch.ones(2, 1, 3, 5), masks([5, 2], 5), 4)
    assert values.shape == (2, 1, 3, 8)
    assert values[..., 5:].sum() == 0
    assert mask.sum(1).tolist() == [5, 2]
    assert pad_frames(values, mask, 4)[0] is values
