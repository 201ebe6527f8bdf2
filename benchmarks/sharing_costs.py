"""What each sharing scheme costs on a common example: the demo's network with ten tasks, as a Markdown table.

Parameters, and multiply-adds of a prediction for all tasks, over those of ten separate networks; with the schemes'
default parameters. Nothing is timed, so it runs anywhere.

    python benchmarks/sharing_costs.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polytask import encoders, sharing, tasks
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape
from polytask.training.costs import count_costs

TASKS = [f"task{number}" for number in range(1, 11)]
HALVES = [TASKS[:5], TASKS[5:]]
SCHEMES: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in sharing.names() if name != "branching"},
    "hard, share_until: conv2": ("hard", {"share_until": "conv2"}),
    "branching in two from conv3": ("branching", {"tree": {"conv3": HALVES}}),
    "mmoe, share_until: conv2": ("mmoe", {"share_until": "conv2", "experts": 4}),
    "film, after: [conv3]": ("film", {"after": ["conv3"]}),
}


def model_of(name: str, parameters: Mapping[str, Any]) -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = encoders.CNN(grid=1, shape=ImageShape(3, 32, 32))
    wanted = [tasks.Classification(task, classes=10) for task in TASKS]
    return MultiTaskModel({"image": encoder}, wanted, sharing.create(name, **parameters))


def main() -> None:
    single = model_of("hard", {})
    inputs = {"image": torch.randn(1, 3, 32, 32)}
    print("| `model.sharing` | parameters | of them shared | multiply-adds |")
    print("| --- | --- | --- | --- |")
    rows = []
    for title, (name, parameters) in SCHEMES.items():
        try:
            costs = count_costs(model_of(name, parameters), single, inputs)
        except UserError as error:
            print(f"{title}: {error}")
            continue
        together, separate = costs.together, costs.separate
        shares = (together.parameters / separate.parameters, together.multiply_adds / separate.multiply_adds)
        cells = (title, f"{shares[0]:.2f}", f"{together.shared / together.parameters:.0%}", f"{shares[1]:.2f}")
        rows.append((shares[1], f"| {' | '.join(cells)} |"))
    for _, line in sorted(rows):
        print(line)


if __name__ == "__main__":
    main()
