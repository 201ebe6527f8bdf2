"""What many small tasks cost in one run, beside the same network written by hand with one grouped loss.

A table of 32 columns, an MLP, and K heads: half of them tell five classes apart, half predict a number. By hand, all
heads of a kind are one linear map, and their losses one call. `own heads` is the same with a linear layer for each
task, so that the optimiser and clipping have as many parameters to look at as Polytask's have: what is more than that
is spent on losses and logging. Polytask's steps go through its training loop, with the losses looked at every 20 steps.
The loops take turns, an epoch each; figures are medians of processor time. Run it with `OMP_NUM_THREADS=1`.

    python benchmarks/many_tasks.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from taking_turns import TakingTurns
from torch import nn

from polytask import balancing, encoders, optimization
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, Regression, Task
from polytask.training.module import MultiTaskModule
from polytask.training.scoring import Scorer
from polytask.training.selection import Best
from polytask.training.steps import StepBatches
from polytask.training.transfer import Transfer

STEPS = 40
WARM_UP = 2
ROWS = 128
COLUMNS = 32
WIDTH = 256
CLASSES = 5


def new_model(count: int) -> MultiTaskModel:
    torch.manual_seed(0)
    wanted: list[Task] = []
    for number in range(count):
        if number % 2:
            wanted.append(Regression(f"number{number}"))
        else:
            wanted.append(Classification(f"class{number}", classes=CLASSES, counts=[1] * CLASSES))
    return MultiTaskModel({"row": encoders.MLP(width=WIDTH, depth=3, shape=TabularShape(COLUMNS))}, wanted)


def batches(model: MultiTaskModel, missing: float) -> list[Batch]:
    """Batches whose labels lie side by side in one tensor for each kind, as those of the network by hand."""
    made = []
    for _ in range(STEPS):
        targets, masks = {}, {}
        for name, task in model.tasks.items():
            is_class = isinstance(task, Classification)
            targets[name] = torch.randint(CLASSES, (ROWS,)) if is_class else torch.randn(ROWS, 1)
            masks[name] = torch.rand(targets[name].shape) >= missing
        inputs = {"row": {"numeric": torch.randn(ROWS, COLUMNS), "categorical": torch.zeros(ROWS, 0, dtype=torch.long)}}
        made.append(Batch.of(inputs, targets, masks, torch.arange(ROWS)))
    return made


class ByHand(nn.Module):
    """The same network with one linear map for all heads of a kind.

    Args:
        count: The number of tasks.
        own_heads: Whether each task has parameters of its own, put together at each step.
    """

    def __init__(self, count: int, *, own_heads: bool) -> None:
        super().__init__()
        self.trunk = new_model(1).trunk
        sizes = [(count - count // 2, CLASSES), (count // 2, 1)]
        if own_heads:
            kinds = [[nn.Linear(WIDTH, outputs) for _ in range(tasks)] for tasks, outputs in sizes]
        else:
            kinds = [[nn.Linear(WIDTH, tasks * outputs)] for tasks, outputs in sizes]
        self.kinds = nn.ModuleList(nn.ModuleList(heads) for heads in kinds)

    def forward(self, inputs: dict[str, dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        features = self.trunk(inputs, ["class0"], {}).features["class0"].values
        return [
            F.linear(features, torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))
            for heads in self.kinds
        ]


def grouped_loop(count: int, data: Sequence[Batch], *, own_heads: bool) -> Callable[[], None]:
    network = ByHand(count, own_heads=own_heads)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    classes = [torch.stack([t for t in batch.targets.values() if t.ndim == 1], dim=1) for batch in data]
    numbers = [torch.cat([t for t in batch.targets.values() if t.ndim == 2], dim=1) for batch in data]
    known = [
        torch.cat([mask.view(ROWS, 1) for mask in sorted(batch.masks.values(), key=lambda mask: mask.ndim)], dim=1)
        for batch in data
    ]

    def epoch() -> None:
        for batch, labels, values, mask in zip(data, classes, numbers, known, strict=True):
            logits, predicted = network(batch.inputs)
            wrong = F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1), reduction="none").view_as(labels)
            entries = torch.cat([wrong, F.mse_loss(predicted, values, reduction="none")], dim=1)
            ((entries * mask).sum(dim=0) / mask.sum(dim=0)).sum().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def new_module(model: MultiTaskModel, rounds: int) -> MultiTaskModule:
    balancer = balancing.create("equal")
    balancer.prepare(model.task_names)
    return MultiTaskModule(
        model,
        balancer,
        optimizer=optimization.optimizers.family.create("adamw"),
        lr_schedule=optimization.lr_schedules.family.create("constant"),
        transfer=Transfer(),
        best=Best(),
        stopping=None,
        steps_per_epoch=STEPS,
        epochs=rounds + WARM_UP,
        gradient_clip=1.0,
    )


def step_seconds(count: int, missing: float, rounds: int) -> dict[str, float]:
    """Median seconds of a step, of each loop."""
    model = new_model(count)
    data = batches(model, missing)
    turns = TakingTurns(
        {
            "by hand": grouped_loop(count, data, own_heads=False),
            "own heads": grouped_loop(count, data, own_heads=True),
        },
        time.process_time,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=rounds + WARM_UP,
        callbacks=[turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        new_module(model, rounds),
        torch.utils.data.DataLoader([StepBatches([batch]) for batch in data], batch_size=None),
    )
    return {name: statistics.median(values[WARM_UP:]) / STEPS for name, values in turns.seconds.items()}


def scoring_seconds(count: int) -> float:
    """Seconds that scoring `STEPS` batches takes, the network left out."""
    model = new_model(count)
    data = batches(model, 0.0)
    with torch.no_grad():
        outputs = [model(batch.inputs) for batch in data]
    seconds = []
    scorer = Scorer(list(model.tasks.values()))
    for _ in range(3):
        start = time.process_time()
        for output, batch in zip(outputs, data, strict=True):
            scorer.update(output, batch)
        scorer.compute()
        scorer.reset()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def measure(rounds: int, counts: Sequence[int]) -> list[dict[str, float]]:
    rows = []
    for count in counts:
        for missing in (0.0, 0.2):
            seconds = step_seconds(count, missing, rounds)
            rows.append(
                {
                    "tasks": count,
                    "missing labels": missing,
                    **{f"step {name}, ms": 1e3 * value for name, value in seconds.items()},
                    **{
                        f"per task over {loop}, us": 1e6 * (seconds["polytask"] - seconds[loop]) / count
                        for loop in ("by hand", "own heads")
                    },
                    "scoring per task and 1000 rows, us": 1e6 * scoring_seconds(count) / count / (STEPS * ROWS / 1000),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    rows = measure(options.rounds, options.tasks)
    for row in rows:
        print("  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
