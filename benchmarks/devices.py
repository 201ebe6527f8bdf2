"""What several processes gain: seconds a step in one process and in several, for a method at each level.

Each cell is a training of its own (`polytask train`, a convolutional network on `multidigits`), in turns. What is
reported is the median over the rounds of the time of the steps alone, without start, validation and checkpoints. Every
process has one CPU thread, so that two processes have twice the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("equal", "uncertainty", "upgrad", "graddrop")


def seconds_per_step(folder: Path, method: str, devices: int, accelerator: str, batch_size: int) -> float:
    """Train once; seconds a step."""
    config = {
        "data": {"train": "multidigits"},
        "inputs": {"image": {"type": "image", "column": "image", "channels": 1}},
        "tasks": {"left": {"type": "classification"}, "right": {"type": "classification"}},
        "model": {"encoders": {"image": {"type": "cnn"}}},
        "balancing": {"type": method},
        "training": {
            "epochs": 2,
            "batch_size": batch_size,
            "devices": devices,
            "accelerator": accelerator,
            "tensorboard": False,
        },
    }
    path, run = folder / "config.json", folder / f"{method}-{devices}-{len(list(folder.iterdir()))}"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "polytask", "train", str(path), "--quiet", "--output", str(run)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    summary = json.loads((run / "summary.json").read_text())
    return float(sum(task["seconds"] for task in summary["tasks"].values()) / summary["steps"])


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for method in METHODS:
                for devices in arguments.devices:
                    found = seconds_per_step(Path(folder), method, devices, arguments.accelerator, arguments.batch_size)
                    times.setdefault((method, devices), []).append(found)
    milliseconds = {key: 1000 * statistics.median(each) for key, each in times.items()}
    rows = []
    print(f"{'method':<14}{'processes':>10}{'ms a step':>12}{'of the first':>14}")
    for (method, devices), each in milliseconds.items():
        ratio = each / milliseconds[method, arguments.devices[0]]
        rows.append({"method": method, "devices": devices, "ms": each, "ratio": ratio})
        print(f"{method:<14}{devices:>10}{each:>12.1f}{ratio:>14.2f}")
    if arguments.json is not None:
        given = {"accelerator": arguments.accelerator, "batch_size": arguments.batch_size, "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps({**given, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
