import io
import json
import pickle
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import AudioInput
from polytask.data.inputs.audio_augmentation import AudioAugmentation
from polytask.data.inputs.audio_decoding import resampled
from polytask.data.inputs.draws import Draws
from polytask.data.request import Request
from polytask.data.table import Table
from polytask.errors import MissingExtra, UserError
from polytask.shapes import AudioShape

soundfile = pytest.importorskip("soundfile")

RATE = 8000


def _wave(samples, channels=1, seed=0):
    return 0.3 * np.random.default_rng(seed).uniform(-1, 1, (samples, channels))


def _file(samples, rate=RATE, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def _table(cells, **others):
    return Table.from_arrow(pa.table({"audio": pa.array(cells)}), source="calls.parquet", **others)


def _fitted(table, rows=None, **parameters):
    source = AudioInput(**parameters)
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)) if rows is None else np.array(rows), {})
    return source


def _encode(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    return source.encode(table.take(rows), rows, table)


def _batch(source, table, draws=None):
    return source.collate(_encode(source, table).values, np.arange(len(table)), draws)


WAVES = [_wave(samples, seed=samples) for samples in (800, 300, 1600)]


@pytest.fixture(scope="module")
def table():
    return _table([_file(wave) for wave in WAVES])


def test_recordings_of_several_lengths_are_followed_by_zeros(table):
    source = _fitted(table)
    batch = _batch(source, table)
    assert source.shape == AudioShape(RATE, 1, 30 * RATE)
    assert batch["waveform"].shape == (3, 1, 1600)
    assert batch["waveform"].dtype == torch.float32
    assert batch["lengths"].tolist() == [800, 300, 1600]
    for wave, found, length in zip(WAVES, batch["waveform"].numpy(), batch["lengths"].tolist(), strict=True):
        np.testing.assert_allclose(found[0, :length], wave[:, 0], atol=2 / 2**15)
        assert (found[0, length:] == 0).all()


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")])
def test_files_of_16_bits_are_kept_exactly(kind, subtype):
    whole = np.random.default_rng(0).integers(-32768, 32768, 500, dtype=np.int16)
    table = _table([_file(whole, kind=kind, subtype=subtype)])
    assert _encode(_fitted(table), table).values.values[:, 0].tolist() == whole.tolist()


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "FLOAT")])
def test_compressed_files_and_floats_are_read(kind, subtype):
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    table = _table([_file(tone, 16000, kind, subtype)])
    found = _batch(_fitted(table), table)["waveform"][0, 0, :15000].numpy()
    spectrum = np.abs(np.fft.rfft(found))
    assert abs(spectrum.argmax() * 16000 / len(found) - 440) < 3
    assert abs(np.abs(found[4000:10000]).max() - 0.4) < 0.05


def test_samples_beyond_full_scale_are_cut():
    table = _table([_file(np.array([1.5, -1.5, 0.5]), subtype="FLOAT")])
    assert _encode(_fitted(table), table).values.values[:, 0].tolist() == [32767, -32768, 16384]


def test_cells_are_paths_bytes_or_records(tmp_path):
    content = _file(WAVES[0])
    (tmp_path / "a.wav").write_bytes(content)
    record = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        pa.array(["a.wav", "a.wav"]),
        pa.array([content, content]),
        pa.array([{"bytes": content, "path": "x.wav"}, {"bytes": None, "path": "a.wav"}], record),
    ]
    for column in cells:
        table = Table.from_arrow(pa.table({"audio": column}), folder=tmp_path)
        batch = _batch(_fitted(table), table)
        assert torch.equal(batch["waveform"][0], batch["waveform"][1])
        assert batch["lengths"].tolist() == [800, 800]
        assert table.types["audio"] == "audio"


def test_channels_are_mixed_or_doubled():
    stereo, mono = _wave(50, 2), _wave(50, 1, seed=1)
    table = _table([_file(stereo), _file(mono)])
    mixed = _batch(_fitted(table), table)["waveform"].numpy()
    np.testing.assert_allclose(mixed[0, 0], stereo.mean(1), atol=2 / 2**15)
    both = _batch(_fitted(table, channels=2), table)["waveform"].numpy()
    np.testing.assert_allclose(both[0], stereo.T, atol=2 / 2**15)
    np.testing.assert_allclose(both[1], np.repeat(mono.T, 2, 0), atol=2 / 2**15)
    with pytest.raises(UserError, match=r"row 1: the recording in the cell has 3 channels.*channels: 1 takes their"):
        _fitted(_table([_file(_wave(50, 3))]), channels=2)


def test_recordings_are_brought_to_one_rate():
    seconds = np.arange(11025) / 11025
    table = _table([_file(0.5 * np.sin(2 * np.pi * 440 * seconds), 11025), _file(_wave(16000), 16000)])
    source = _fitted(table, sample_rate=8000)
    batch = _batch(source, table)
    assert source.shape.sample_rate == 8000
    assert batch["lengths"].tolist() == [8000, 8000]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    np.testing.assert_allclose(batch["waveform"][0, 0, 200:-200], expected[200:-200], atol=2e-3)


@given(st.integers(1, 400), st.sampled_from([8000, 11025, 16000, 44100]), st.sampled_from([8000, 16000, 22050]))
@settings(max_examples=30, deadline=None)
def test_resampling_keeps_length_in_seconds_and_level(samples, rate, wanted):
    found = resampled(np.ones((samples, 2)), rate, wanted)
    assert len(found) == -(-samples * wanted // rate)
    if samples > 200:
        assert abs(found[len(found) // 2] - 1).max() < 0.02


def test_another_rate_is_an_error_that_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "a.wav").write_bytes(_file(_wave(10)))
    (tmp_path / "b.wav").write_bytes(_file(_wave(10), 16000))
    table = _table(["a.wav", "b.wav"], folder=tmp_path)
    for on_error in ("error", "skip"):
        source = _fitted(table, on_error=on_error)
        with pytest.raises(
            UserError,
            match=r"calls.parquet, row 2: the recording 'b.wav' has 16,000 samples a second, but the first training "
            r"recording has 8,000. Set sample_rate: 8000",
        ):
            _encode(source, table)


def test_long_recordings_are_cut():
    table = _table([_file(_wave(3000)), _file(_wave(16000), 16000)])
    source = _fitted(table, max_seconds=0.25, sample_rate=RATE)
    assert source.shape.samples == 2000
    assert _batch(source, table)["lengths"].tolist() == [2000, 2000]
    assert source.row_bytes == 4000


BROKEN = {
    "nothing": (None, "there is no recording"),
    "no sound": (b"these are no sounds at all", "the recording in the cell cannot be read: it is no recording of a"),
    "cut off": (_file(_wave(1000))[:30], "the recording in the cell cannot be read"),
    "broken flac": (_file(_wave(1000), kind="FLAC")[:60], "the recording in the cell"),
    "no samples": (_file(np.zeros((0, 1))), "the recording in the cell has no samples"),
    "silence": (_file(np.zeros((80, 1))), r"is silent: all its samples are 0 \(silence: keep reads such\)"),
    "not a number": (_file(np.array([0.1, np.nan]), subtype="FLOAT"), "cannot be read: some samples are not numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_an_error_or_skipped(name):
    cell, problem = BROKEN[name]
    table = _table([_file(WAVES[0]), cell, _file(WAVES[1])])
    source = _fitted(table)
    with pytest.raises(UserError, match=f"calls.parquet, row 2:.* {problem}") as raised:
        _encode(source, table)
    assert "on_error: skip to leave out every row of this kind" in str(raised.value)
    source = _fitted(table, on_error="skip")
    encoding = _encode(source, table)
    assert list(encoding.failures) == [1]
    for cache_bytes in (10**6, 0):
        rows = EncodedRows(table, np.arange(3), {"audio": source}, {}, seed=None, cache_bytes=cache_bytes)
        fetched = rows[Request(0, np.arange(len(rows))[::-1].copy())]
        assert fetched.batch.inputs["audio"]["lengths"].tolist() == [300, 800]
    assert rows.lengths().tolist()[0] == 800, "by_length reads them"


def test_silence_can_be_kept():
    table = _table([_file(np.zeros((80, 1)))])
    source = _fitted(table, silence="keep", gain=6, noise=[0, 10], shift=1)
    assert (_batch(source, table, Draws(0, 0))["waveform"] == 0).all()


def test_not_one_readable_recording_is_an_error(tmp_path):
    table = _table(["a.wav", "b.wav"], folder=tmp_path)
    with pytest.raises(UserError, match=r"none of the training recordings in 'audio' can be read; .*'b.wav' does not"):
        _fitted(table, on_error="skip")
    with pytest.raises(UserError, match=r"row 1: the recording 'a.wav' does not exist"):
        _fitted(table)


def test_a_column_of_numbers_holds_no_recordings():
    with pytest.raises(UserError, match=r"the column 'audio' holds int64, not recordings"):
        _fitted(_table([1, 2]))


def test_a_state_that_went_through_json_reads_the_same_in_a_process_of_its_own(table):
    source = _fitted(table)
    restored = AudioInput()
    restored.load_state_dict(json.loads(json.dumps(source.state_dict())))
    restored = pickle.loads(pickle.dumps(restored))
    assert restored.shape == source.shape
    assert restored.columns == ("audio",)
    assert torch.equal(_batch(restored, table)["waveform"], _batch(source, table)["waveform"])
    with pytest.raises(RuntimeError, match="not fitted"):
        _ = AudioInput().shape


def test_says_what_to_install(monkeypatch, table):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra, match=r"The input 'audio' needs the library 'soundfile'.*polytask\[audio\]"):
        _fitted(table)


def test_augmentation_depends_on_seed_epoch_and_row_alone(table):
    parameters = {"crop": 0.05, "shift": 0.01, "gain": 6.0, "noise": [0, 20]}
    source = _fitted(table, **parameters)
    assert source.augments
    assert not _fitted(table).augments
    plain = _batch(source, table)
    assert torch.equal(plain["waveform"], _batch(_fitted(table), table)["waveform"]), "none in evaluation"
    first = _batch(source, table, Draws(0, 0))
    assert torch.equal(first["waveform"], _batch(source, table, Draws(0, 0))["waveform"])
    assert not torch.equal(first["waveform"], _batch(source, table, Draws(0, 1))["waveform"])
    alone = source.collate(_encode(source, table, [2]).values, np.array([2]), Draws(0, 0))
    length = int(alone["lengths"][0])
    assert torch.equal(alone["waveform"][0], first["waveform"][2, :, :length])
    assert first["lengths"].tolist() == [400, 300, 400]


def test_crops_lie_anywhere_in_a_recording():
    wave = np.arange(1, 1001)[:, None] / 32768
    table = _table([_file(wave)])
    source = _fitted(table, crop=0.1)
    starts = set()
    for epoch in range(300):
        found = (_batch(source, table, Draws(0, epoch))["waveform"][0, 0] * 32768).round()
        assert found.shape == (800,)
        assert (found.diff() == 1).all()
        starts.add(int(found[0]))
    assert min(starts) < 10 and max(starts) > 191 and len(starts) > 120


LENGTHS = np.array([900, 1000, 10])


def _waves():
    waves = np.zeros((3, 2, 1000), dtype=np.float32)
    for row, length in enumerate(LENGTHS):
        waves[row, :, :length] = _wave(length, 2, seed=row).T
    return waves


def test_gain_is_within_its_decibels():
    before, after = _waves(), _waves()
    AudioAugmentation(None, 0.0, 12.0, None).apply(after, LENGTHS, RATE, np.arange(3), Draws(0, 0))
    factors = [after[row, 0, 0] / before[row, 0, 0] for row in range(3)]
    decibels = 20 * np.log10(factors)
    assert (np.abs(decibels) <= 12.001).all()
    assert len(set(decibels.round(3))) == 3
    np.testing.assert_allclose(after, before * np.array(factors)[:, None, None], rtol=1e-5)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_has_the_ratio_asked_for_and_ends_with_the_recording(decibels):
    before, after = _waves(), _waves()
    augmentation = AudioAugmentation(None, 0.0, 0.0, [decibels, decibels])
    augmentation.apply(after, LENGTHS, RATE, np.arange(3), Draws(0, 0))
    noise = after - before
    for row in (0, 1):
        length = LENGTHS[row]
        ratio = 10 * np.log10((before[row, :, :length] ** 2).mean() / (noise[row, :, :length] ** 2).mean())
        assert abs(ratio - decibels) < 0.7
        assert (noise[row, :, length:] == 0).all()
    gentle = _waves()
    augmentation.apply(gentle, LENGTHS, RATE, np.arange(3), Draws(0, 0, gentle=True))
    assert (gentle == before).all()


def test_shifts_bring_zeros_and_stay_within_the_recording():
    moves = set()
    for epoch in range(60):
        before, after = _waves(), _waves()
        AudioAugmentation(None, 0.05, 0.0, None).apply(after, LENGTHS, RATE, np.arange(3), Draws(0, epoch))
        for row, length in enumerate(LENGTHS):
            most = min(400, length // 2)
            move = next(
                move
                for move in range(-most, most + 1)
                if np.array_equal(
                    after[row, :, max(0, move) : length + min(0, move)],
                    before[row, :, max(0, -move) : length - max(0, move)],
                )
            )
            assert (after[row, :, :length] == 0).sum() == 2 * abs(move)
            moves.add((row, move))
    assert min(moves)[1] < -300 and {row for row, move in moves if move > 3} == {0, 1, 2}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"channels": 3}, r"channels is 3. Allowed: 1 \(mono\), 2 \(stereo\)"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"crop": 0}, "crop is 0"),
        ({"shift": -1}, "shift is -1, but must be seconds of at least 0"),
        ({"gain": -1}, "gain is -1, but must be decibels of at least 0"),
        ({"noise": [20, 10]}, r"noise is \[20, 10\]. Allowed"),
        ({"noise": [20]}, "noise is"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        AudioInput(**parameters)


def test_spoken_digits(data_root, tmp_path):
    with zipfile.ZipFile(data_root / "fsdd" / "recordings.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith("_7.wav"))
        archive.extractall(tmp_path, names)
    table = Table.from_arrow(pa.table({"audio": names}), source="fsdd", folder=tmp_path)
    source = _fitted(table, max_seconds=1.0)
    batch = _batch(source, table)
    assert len(names) == 60
    assert source.shape == AudioShape(8000, 1, 8000)
    assert 1000 < batch["lengths"].min() < batch["lengths"].max() <= 8000
    assert (batch["waveform"].abs().amax((1, 2)) > 0.01).all()
    assert _batch(_fitted(table, sample_rate=16000), table)["lengths"].min() >= 2 * batch["lengths"].min() - 1
