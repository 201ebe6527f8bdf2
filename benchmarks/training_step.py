"""What a step of `MultiTaskModel` through the Lightning loop costs over the same network in a bare PyTorch loop.

All train the same three heads on the same batches with AdamW. The bare loop runs twice: as most people write it, and
with `AdamW(fused=True)`, which Polytask asks for on the CPU. The loops take turns, an epoch each; the ratios are those
of the medians.

    python benchmarks/training_step.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from taking_turns import TakingTurns

from polytask import balancing, encoders, optimization, tasks
from polytask.data.batch import Batch
from polytask.encoders import Encoder
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape, TabularShape
from polytask.training.module import MultiTaskModule
from polytask.training.selection import Best
from polytask.training.steps import StepBatches
from polytask.training.transfer import Transfer

STEPS = 60
WARM_UP = 2
CLASSES = 10


def new_model(encoder: Callable[[], Encoder], name: str) -> MultiTaskModel:
    torch.manual_seed(0)
    wanted = [
        tasks.Classification("a", classes=CLASSES),
        tasks.Classification("b", classes=CLASSES),
        tasks.Regression("c"),
    ]
    return MultiTaskModel({name: encoder()}, wanted)


def batches(name: str, inputs: Callable[[], object], rows: int) -> list[Batch]:
    made = []
    for _ in range(STEPS):
        targets = {
            "a": torch.randint(CLASSES, (rows,)),
            "b": torch.randint(CLASSES, (rows,)),
            "c": torch.randn(rows, 1),
        }
        masks = {task: torch.ones_like(target, dtype=torch.bool) for task, target in targets.items()}
        made.append(Batch.of({name: inputs()}, targets, masks, torch.arange(rows)))
    return made


def bare_loop(model: MultiTaskModel, data: list[Batch], *, fused: bool | None) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    cross_entropy, squared = torch.nn.functional.cross_entropy, torch.nn.functional.mse_loss

    def epoch() -> None:
        model.train()
        for batch in data:
            outputs = model(batch.inputs)
            loss = (
                cross_entropy(outputs["a"], batch.targets["a"])
                + cross_entropy(outputs["b"], batch.targets["b"])
                + squared(outputs["c"], batch.targets["c"])
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def take_turns(
    model: MultiTaskModel, bare: dict[str, Callable[[], None]], data: list[Batch], rounds: int
) -> dict[str, float]:
    module = MultiTaskModule(
        model,
        balancing.create("equal"),
        optimizer=optimization.optimizers.family.create("adamw"),
        lr_schedule=optimization.lr_schedules.family.create("constant"),
        transfer=Transfer(),
        best=Best(),
        stopping=None,
        steps_per_epoch=len(data),
        epochs=rounds + WARM_UP,
        gradient_clip=None,
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    turns = TakingTurns(bare, time.perf_counter)
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=rounds + WARM_UP,
        callbacks=[turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([StepBatches([batch]) for batch in data], batch_size=None))
    return {name: statistics.median(values[WARM_UP:]) for name, values in turns.seconds.items()}


def measure(rounds: int) -> list[dict[str, object]]:
    problems = {
        "mlp, 1M parameters, batch 128": (
            lambda: encoders.MLP(width=512, depth=4, shape=TabularShape(256)),
            "row",
            lambda: {"numeric": torch.randn(128, 256), "categorical": torch.zeros(128, 0, dtype=torch.long)},
            128,
        ),
        "resnet-18, 32x32, batch 64": (
            lambda: encoders.ResNet(depth=18, shape=ImageShape(3, 32, 32)),
            "image",
            lambda: torch.randn(64, 3, 32, 32),
            64,
        ),
    }
    rows = []
    for problem, (encoder, name, inputs, size) in problems.items():
        data = batches(name, inputs, size)
        data = data if "mlp" in problem else data[:5]
        model = new_model(encoder, name)
        bare = {
            "bare": bare_loop(new_model(encoder, name), data, fused=None),
            "bare, fused": bare_loop(new_model(encoder, name), data, fused=True),
        }
        seconds = take_turns(model, bare, data, rounds)
        rows.append(
            {
                "problem": problem,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                **{f"{loop} ms": 1000 * taken / len(data) for loop, taken in seconds.items()},
                **{f"ratio to {loop}": seconds["polytask"] / seconds[loop] for loop in bare},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.rounds)
    for row in rows:
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
