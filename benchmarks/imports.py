"""Start-up: `import polytask` over `import torch`, and `polytask --help`.

python benchmarks/imports.py [--rounds N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from interleave import interleaved


def process(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    seconds = interleaved(
        {
            "import torch": lambda: process("-c", "import torch"),
            "import torch, polytask": lambda: process("-c", "import torch, polytask"),
            "import torch, polytask.balancing": lambda: process("-c", "import torch, polytask.balancing"),
            "polytask --help": lambda: process("-m", "polytask", "--help"),
        },
        options.rounds,
    )
    for name, value in seconds.items():
        print(f"{name:35s} {value:.3f} s")
    print(f"{'polytask over torch':35s} {seconds['import torch, polytask'] - seconds['import torch']:.3f} s")


if __name__ == "__main__":
    main()
