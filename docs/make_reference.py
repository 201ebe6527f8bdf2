"""Write the reference pages that follow from the code: the command line and the configuration.

python docs/make_reference.py            # writes both pages
python docs/make_reference.py --check    # exit code 1 where a page is not up to date
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from polytask.config.component import ComponentSpec
from polytask.config.config import Config
from polytask.config.reference import type_text
from polytask.config.schema import DataConfig, InitFromConfig, ModelConfig, SplitConfig
from polytask.config.training_schema import (
    EarlyStoppingConfig,
    LROnPlateauConfig,
    RatesConfig,
    TaskStoppingConfig,
    TaskTrainingConfig,
    TrainingConfig,
    TransferConfig,
)

PAGES = Path(__file__).parent / "reference"
SECTIONS: dict[str, type[BaseModel]] = {
    "": Config,
    "data": DataConfig,
    "data.split": SplitConfig,
    "model": ModelConfig,
    "model.init_from": InitFromConfig,
    "training": TrainingConfig,
    "training.tasks.NAME": TaskTrainingConfig,
    "training.tasks.NAME.lr_on_plateau": LROnPlateauConfig,
    "training.tasks.NAME.early_stopping": TaskStoppingConfig,
    "training.encoders.NAME": RatesConfig,
    "training.early_stopping": EarlyStoppingConfig,
    "training.transfer": TransferConfig,
}
FAMILIES = {
    "inputs": ("an input for each name", "inputs.md"),
    "tasks": ("a task for each name", "tasks.md"),
    "balancing": ("a balancer", "balancing.md"),
    "schedule": ("a schedule of tasks", "schedules.md"),
    "model.encoders": ("an encoder for each input's name", "encoders.md"),
    "model.fusion": ("a fusion", "fusion.md"),
    "model.sharing": ("a sharing scheme", "sharing.md"),
    "model.relations": ("a list of relations", "sharing.md#relations-between-tasks"),
    "training.sampler": ("a sampler", "samplers.md"),
    "training.tasks.NAME.sampler": ("a sampler", "samplers.md"),
    "training.tasks.NAME.mixing": ("a mixing", "mixing.md"),
    "training.tasks.NAME.unlabelled": ("a use of unlabelled rows", "tasks.md#rows-without-labels"),
    "training.optimizer": ("an optimiser", "optimization.md#optimisers"),
    "training.lr_schedule": ("a schedule", "optimization.md#learning-rate-schedules"),
}
MARK = "<!-- From here on written by docs/make_reference.py -->"
VERBS = ("demo", "init", "train", "evaluate", "predict", "methods", "schema", "validate", "render")


def command_line() -> str:
    """Every verb's own help text."""
    return "\n\n".join(f"## polytask {verb}\n\n```text\n{help_text(verb)}\n```" for verb in VERBS)


def help_text(verb: str) -> str:
    """What `polytask VERB --help` prints, without boxes."""
    polytask = Path(sys.executable).with_name("polytask")
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "TYPER_USE_RICH": "0"}
    run = subprocess.run([polytask, verb, "--help"], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def configuration() -> str:
    """Every section's keys."""
    return "\n\n".join(
        f"## {f'`{path}`' if path else 'The whole'}\n\n{section_table(path, section)}"
        for path, section in SECTIONS.items()
    )


def section_table(path: str, section: type[BaseModel]) -> str:
    """A table of a section's keys."""
    lines = ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in section.model_fields.items():
        full = f"{path}.{name}".lstrip(".")
        cells = (f"`{name}`", taken(full, field), default(full, field), field.description or "")
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def taken(path: str, field: FieldInfo) -> str:
    """What a key takes, in words."""
    if path in FAMILIES:
        words, page = FAMILIES[path]
        return f"[{words}]({page})"
    if path in SECTIONS:
        return f"[a section](#{path.replace('.', '').lower()})"
    if f"{path}.NAME" in SECTIONS:
        return f"[a section](#{path.replace('.', '')}name) for each name"
    return type_text(field.annotation) + limits(field)


def limits(field: FieldInfo) -> str:
    """The bounds of a number, in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [(words[key], getattr(limit, key, None)) for limit in field.metadata for key in words]
    found = [f"{word} {value:g}" for word, value in bounds if value is not None]
    return f", {' and '.join(found)}" if found else ""


def default(path: str, field: FieldInfo) -> str:
    """A key's default as YAML has it; none for a section, whose keys have their own."""
    if path == "model.encoders":
        return "by the input"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "" if path in SECTIONS else "must be given"
    if isinstance(value, BaseModel):
        return ""
    value = value.type if isinstance(value, ComponentSpec) else value
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def main() -> int:
    """Write the pages, or check them."""
    check = "--check" in sys.argv
    stale = []
    for name, generated in {"command-line.md": command_line(), "configuration.md": configuration()}.items():
        page = PAGES / name
        before = page.read_text(encoding="utf-8")
        after = f"{before.partition(MARK)[0]}{MARK}\n\n{generated}\n"
        if after != before:
            stale.append(name)
            if not check:
                page.write_text(after, encoding="utf-8")
    print(f"{'not up to date' if check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
