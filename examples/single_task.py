"""Does sharing pay? Each task of a configuration alone, with the same recipe, beside all of them together.

    python single_task.py CONFIG.yaml OUTPUT_FOLDER [KEY=VALUE...]

Prints each task's main metric on test data. One seed is one draw: repeat with `training.seed=1` and so on before you
believe a small difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polytask as pt
from polytask.config import load_config


def main(config_path: Path, output: Path, overrides: list[str]) -> None:
    """Train everything and print the table."""
    config = load_config(config_path, overrides)
    together = pt.train(config, output / "together").evaluate()
    print(f"{'task':24s}{'metric':20s}{'baseline':>10s}{'alone':>10s}{'together':>10s}")
    for task in config.tasks:
        alone = pt.train(config.only_task(task), output / f"alone-{task}").evaluate()
        metric = together.main[task]
        values = (together.baseline[task][metric], alone.scores[task][metric], together.scores[task][metric])
        print(f"{task:24s}{metric:20s}" + "".join(f"{value:10.4f}" for value in values), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
