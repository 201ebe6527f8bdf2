"""What missing labels and several data sets cost.

`sources`: a step on a batch of four tasks, each labelled on rows of its own, over four steps on the same rows, one task
at a time; forward and backward; the aim is 1.10. `tox21`: an epoch of training on 12 tasks with 17 % of the labels
missing, masked, over 12 epochs, each on the rows that are labelled for one task, with the same network; the masked one
is to be at least 1.5 times as fast.

    python benchmarks/partial_labels.py [--tox21 FILE.csv] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import interleaved

from polytask.balancing import Equal
from polytask.config import Config
from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, Regression
from polytask.training.balanced_step import BalancedStep
from polytask.training.job import make_job

ROWS = 64
COLUMNS = 64
SOURCES_AIM = 1.10
TOX21_AIM = 1 / 1.5
TOX21_TASKS = (
    "NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma",
    "SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53",
)  # fmt: skip


def sources(rounds: int) -> dict[str, float]:
    """Seconds of a step on four sources together, and of four steps on one each."""
    torch.manual_seed(0)
    names = [f"task{number}" for number in range(4)]
    tasks = [
        Classification(name, classes=5) if number % 2 else Regression(name, mean=[0.0], std=[1.0])
        for number, name in enumerate(names)
    ]
    network = MultiTaskModel({"row": MLP(width=512, depth=3, shape=TabularShape(COLUMNS))}, tasks)
    rows = 4 * ROWS
    inputs = {"row": {"numeric": torch.randn(rows, COLUMNS), "categorical": torch.zeros(rows, 0).long()}}
    owner = torch.arange(rows) % 4
    targets, masks = {}, {}
    for number, name in enumerate(names):
        labelled = owner == number
        targets[name] = torch.randint(5, (rows,)) if number % 2 else torch.randn(rows, 1)
        masks[name] = labelled if number % 2 else labelled.unsqueeze(1)
    together = Batch.of(inputs, targets, masks, torch.arange(rows))
    apart = [together.part((owner == number).nonzero().squeeze(1)) for number in range(4)]

    def step(batch: Batch) -> None:
        torch.stack(list(network.objectives(batch).losses.values())).sum().backward()
        network.zero_grad()

    return interleaved({"one step": lambda: step(together), "four steps": lambda: [step(b) for b in apart]}, rounds)


def tox21(table: Path, rounds: int) -> dict[str, float]:
    """Seconds of a masked epoch, and of an epoch for each task on its own rows."""
    config = Config.from_mapping(
        {
            "data": {"train": str(table)},
            "inputs": {"molecule": {"type": "text", "column": "smiles", "length": 64}},
            "tasks": {name: {"type": "classification"} for name in TOX21_TASKS},
            "model": {"encoders": {"molecule": {"type": "text_cnn", "dim": 64, "filters": 64}}},
            "training": {"batch_size": 128},
        }
    )

    def epoch(chosen: Config) -> Callable[[], None]:
        job = make_job(chosen)
        step = BalancedStep(job.model, Equal(), dict.fromkeys(job.model.task_names, 1.0))
        optimizer = torch.optim.AdamW(job.model.parameters(), fused=True)

        def run() -> None:
            for batches, *_ in job.train:
                step.backward(batches, job.model.shared_parameters(), None)
                optimizer.step()
                optimizer.zero_grad()

        return run

    single = [epoch(config.only_task(name)) for name in TOX21_TASKS]
    return interleaved({"masked": epoch(config), "one by one": lambda: [run() for run in single]}, rounds, warm_up=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tox21", type=Path, help="the Tox21 table; left out if not given")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    seconds = sources(options.rounds)
    ratio = seconds["one step"] / seconds["four steps"]
    record = {"sources": {**seconds, "ratio": ratio, "aim": SOURCES_AIM}}
    print(f"a step on four sources over four steps on one each: {ratio:.2f} (aim {SOURCES_AIM:.2f})")
    if options.tox21:
        seconds = tox21(options.tox21.absolute(), max(1, options.rounds // 7))
        ratio = seconds["masked"] / seconds["one by one"]
        record["tox21"] = {**seconds, "ratio": ratio, "aim": TOX21_AIM}
        print(f"masked training on Tox21 over a training for each task: {ratio:.2f} (aim {TOX21_AIM:.2f})")
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, **record}, indent=2) + "\n")


if __name__ == "__main__":
    main()
