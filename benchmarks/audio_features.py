"""How many times faster than real time recordings become features, on one core: log-mel and MFCC, and a whole encoder.

Batches of 16 recordings of 10 s at 16 kHz. Medians over rounds of turns in which all variants are measured.

python benchmarks/audio_features.py [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from polytask import encoders
from polytask.encoders.audio_stages import Spectra
from polytask.shapes import AudioShape

RATE, ROWS, SECONDS = 16_000, 16, 10
SHAPE = AudioShape(RATE, samples=RATE * SECONDS)


def spectra(kind: str, bands: int, mask_bands: int) -> Spectra:
    return Spectra(
        SHAPE,
        kind,
        bands=bands,
        window=0.025,
        hop=0.01,
        normalization="dataset",
        mask_bands=mask_bands,
        mask_time=0.1 if mask_bands else 0.0,
        multiple=1,
    ).train(bool(mask_bands))


def variants() -> dict[str, Callable[[dict[str, torch.Tensor]], object]]:
    cnn = encoders.create("audio_cnn", width=16, shape=SHAPE).eval()
    return {
        "64 log-mel bands": spectra("log_mel", 64, 0),
        "64 log-mel bands, SpecAugment and statistics of training": spectra("log_mel", 64, 8),
        "40 MFCC": spectra("mfcc", 40, 0),
        "audio_cnn of width 16, forward pass": cnn,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = {
        "waveform": 0.1 * torch.randn(ROWS, 1, RATE * SECONDS),
        "lengths": torch.randint(RATE * SECONDS // 2, RATE * SECONDS + 1, (ROWS,)),
    }
    inputs["lengths"][0] = RATE * SECONDS
    recorded = float(inputs["lengths"].sum()) / RATE
    measured = variants()
    times: dict[str, list[float]] = {name: [] for name in measured}
    with torch.no_grad():
        for turn in range(options.rounds + 1):
            for name, compute in measured.items():
                start = time.process_time()
                compute(inputs)
                if turn:  # the first one is for warming up
                    times[name].append(time.process_time() - start)
    found = {name: round(recorded / statistics.median(each)) for name, each in times.items()}
    for name, ratio in found.items():
        print(f"{name}: {ratio:,} times real time")
    if options.json:
        options.json.write_text(json.dumps({"times_real_time": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
