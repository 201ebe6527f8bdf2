"""What sharing schemes cost over the bare modules that they are made of.

`hard`: the forward pass and the losses of `MultiTaskModel` over calls of its encoder, heads and losses by hand, for K
tasks; the aim is 1.05. `mmoe`: forward and backward, with heads, over one MLP whose layers are as wide as all experts'
together; the aim is 1.3. That MLP's later layers mix all its units, an expert's only its own, so beside it stand the
experts alone (their mean feeds the heads: no gates, the least that such experts cost) and a loop over separate experts.
The variants take turns; the ratios are those of medians.

    python benchmarks/sharing.py [--parts hard mmoe] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from interleave import interleaved
from torch import Tensor, nn

from polytask import encoders, sharing, tasks
from polytask.data.batch import Batch
from polytask.encoders import Encoder, Features, FeatureShape
from polytask.encoders.encoder import Stage
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.sharing.experts import MLPExperts

ROWS = 256
COLUMNS = 64
WIDTH = 256
EXPERTS = 8
EXPERT_WIDTH = 64
CLASSES = 10
HARD_AIM, MMOE_AIM = 1.05, 1.3
TURN_STEPS = 5


@dataclass(frozen=True)
class Row:
    """A variant's figures.

    Attributes:
        over: The variant that the ratio refers to.
        aim: What the ratio is to be at most.
    """

    problem: str
    variant: str
    milliseconds: float
    ratio: float
    over: str
    aim: float | None = None


def compared(
    problem: str, variants: Mapping[str, Callable[[], object]], over: str, aims: Mapping[str, float], rounds: int
) -> list[Row]:
    """Time variants in turns of several steps."""

    def turn(variant: Callable[[], object]) -> Callable[[], None]:
        def steps() -> None:
            for _ in range(TURN_STEPS):
                variant()

        return steps

    seconds = interleaved({name: turn(variant) for name, variant in variants.items()}, rounds)
    return [
        Row(problem, name, 1000 * value / TURN_STEPS, value / seconds[over], over, aims.get(name))
        for name, value in seconds.items()
    ]


def hard(count: int, rounds: int) -> list[Row]:
    """`MultiTaskModel` against its own modules called by hand."""
    torch.manual_seed(0)
    encoder = encoders.create("mlp", width=WIDTH, depth=3, shape=TabularShape(numeric=COLUMNS, cardinalities=()))
    wanted = [
        tasks.Classification(f"t{number}", classes=CLASSES) if number % 2 else tasks.Regression(f"t{number}")
        for number in range(count)
    ]
    model = MultiTaskModel({"row": encoder}, wanted, sharing.Hard())
    inputs = {"row": {"numeric": torch.randn(ROWS, COLUMNS), "categorical": torch.zeros(ROWS, 0, dtype=torch.long)}}
    targets = {
        task.name: torch.randint(CLASSES, (ROWS,)) if isinstance(task, tasks.Classification) else torch.randn(ROWS, 1)
        for task in wanted
    }
    masks = {task: torch.ones_like(target, dtype=torch.bool) for task, target in targets.items()}
    batch = Batch.of(inputs, targets, masks, torch.arange(ROWS))

    def outputs() -> dict[str, Tensor]:
        features = encoder(inputs["row"]).values
        return {task: head(features) for task, head in model.heads.items()}

    def losses() -> dict[str, Tensor]:
        return {name: model.tasks[name].loss(value, targets[name], masks[name]) for name, value in outputs().items()}

    def stepped(found: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
        def step() -> None:
            torch.stack(list(found().values())).sum().backward()
            model.zero_grad()

        return step

    name = f"hard, K={count}"
    forward = compared(
        f"{name}, forward", {"by hand": outputs, "MultiTaskModel": lambda: model(inputs)}, "by hand",
        {"MultiTaskModel": HARD_AIM}, rounds,
    )  # fmt: skip
    with_losses = compared(
        f"{name}, forward and losses", {"by hand": losses, "MultiTaskModel": lambda: model.losses(batch)}, "by hand",
        {"MultiTaskModel": HARD_AIM}, rounds,
    )  # fmt: skip
    steps = compared(
        f"{name}, forward, losses and backward",
        {"by hand": stepped(losses), "MultiTaskModel": stepped(lambda: model.losses(batch))}, "by hand",
        {"MultiTaskModel": HARD_AIM}, rounds,
    )  # fmt: skip
    return forward + with_losses + steps


class GivenFeatures(Encoder):
    """Features as they come: what stands above them is what is measured."""

    modality = "tabular"

    def __init__(self) -> None:
        super().__init__({"given": Stage(nn.Identity(), FeatureShape("vector", WIDTH))})


class Looped(nn.Module):
    """Experts one by one, and gates."""

    def __init__(self, count: int, depth: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(perceptron(EXPERT_WIDTH, depth) for _ in range(EXPERTS))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, EXPERTS) for _ in range(count))

    def forward(self, features: Tensor) -> list[Tensor]:
        found = torch.stack([expert(features) for expert in self.experts], dim=1)
        return [torch.einsum("be,beh->bh", gate(features).softmax(1), found) for gate in self.gates]


def perceptron(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(width if number else WIDTH, width), nn.ReLU()]
    return nn.Sequential(*layers)


def mmoe(count: int, depth: int, rounds: int) -> list[Row]:
    """Eight experts of so many layers under so many tasks."""
    torch.manual_seed(0)
    # What comes from the layers below needs a gradient, as it does in training.
    features = torch.randn(ROWS, WIDTH, requires_grad=True)
    names = [f"t{number}" for number in range(count)]
    trunk = sharing.MMoE(EXPERTS, hidden=[EXPERT_WIDTH] * depth).build({"row": GivenFeatures()}, names)
    whole = perceptron(EXPERTS * EXPERT_WIDTH, depth)
    experts = MLPExperts(WIDTH, [EXPERT_WIDTH] * depth, EXPERTS)
    looped = Looped(count, depth)

    def step(trunk: Callable[[], list[Tensor]], width: int) -> Callable[[], None]:
        heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(count))

        def run() -> None:
            found = trunk()
            torch.stack([head(each).square().mean() for head, each in zip(heads, found, strict=True)]).sum().backward()

        return run

    def of_trunk() -> list[Tensor]:
        found = trunk({"row": features}, names, {}).features
        return [found[name].values for name in names]

    def of_experts() -> list[Tensor]:
        return [experts(Features(features)).values.mean(1)] * count

    variants: dict[str, Callable[[], object]] = {
        "one MLP of the same total width": step(lambda: [whole(features)] * count, EXPERTS * EXPERT_WIDTH),
        "mmoe": step(of_trunk, EXPERT_WIDTH),
        "the experts alone": step(of_experts, EXPERT_WIDTH),
        "separate experts, one by one": step(lambda: looped(features), EXPERT_WIDTH),
    }
    problem = f"{EXPERTS} experts of {depth} x {EXPERT_WIDTH}, K={count}"
    return compared(problem, variants, "one MLP of the same total width", {"mmoe": MMOE_AIM}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["hard", "mmoe"], default=["hard", "mmoe"])
    parser.add_argument("--rounds", type=int, default=41, help="how often each variant takes its turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Row] = []
    runs: list[tuple[Callable[..., list[Row]], tuple[Any, ...]]] = [
        *((hard, (count,)) for count in (3, 10, 40)),
        *((mmoe, (count, depth)) for depth in (1, 2, 3) for count in (2, 8)),
    ]
    for measure, arguments in (run for run in runs if run[0].__name__ in options.parts):
        rows = measure(*arguments, options.rounds)
        for problem in dict.fromkeys(row.problem for row in rows):
            print(f"\n{problem}")
            for row in (row for row in rows if row.problem == problem):
                aim = "" if row.aim is None else f"   (at most {row.aim})"
                print(f"  {row.variant:<34}{row.milliseconds:9.3f} ms{row.ratio:8.3f}{aim}", flush=True)
        found += rows
    if options.json:
        record = {"torch": torch.__version__, "threads": 1, "rows": [asdict(row) for row in found]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
