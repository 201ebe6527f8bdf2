"""A run: the folder that holds everything one training produced."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polytask.data.overlap import LabelCounts
from polytask.data.splits import Split
from polytask.errors import UserError, closest
from polytask.training.atomic import replacing, write_text


class RunFolder:
    """Where each part of a run lies.

    ```
    config.yaml   the complete, resolved configuration      metrics.csv   one row an epoch
    summary.json  what came out                             split.parquet which row is in which part
    checkpoints/{best,last}.ckpt                            model/        weights and all that prediction needs
    log.txt                                                 tensorboard/
    overlap.csv   for each task, the share of its labelled rows that are labelled for each other task as well
    auxiliary.json  where it was checked, what the auxiliary tasks changed for the others
    sharing.csv, sharing.svg   what the sharing scheme has learned (gates, mixing weights), if it learns anything
    ```

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.csv"
        self.summary = root / "summary.json"
        self.overlap = root / "overlap.csv"
        self.auxiliary = root / "auxiliary.json"
        self.sharing = root / "sharing.csv"
        self.sharing_plot = root / "sharing.svg"
        self.split = root / "split.parquet"
        self.log = root / "log.txt"
        self.model = root / "model"
        self.tensorboard = root / "tensorboard"
        self.best = root / "checkpoints" / "best.ckpt"
        self.last = root / "checkpoints" / "last.ckpt"

    @classmethod
    def create(cls, root: Path) -> RunFolder:
        """A new run folder.

        Raises:
            UserError: Something is there already.
        """
        check_free(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The run folder '{root}' cannot be made: {error.strerror}.") from error
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            UserError: It is not there, or is not a run.
        """
        if not root.is_dir():
            siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
            raise UserError(f"There is no run '{root}'.{closest(root.name, siblings)}")
        folder = cls(root)
        if not folder.config.is_file():
            raise UserError(f"'{root}' is not a run of polytask: it has no config.yaml.")
        return folder

    def best_of(self, task: str) -> Path:
        """The checkpoint of a task's own best epoch, where `training.keep_best_per_task` asks for it."""
        return self.best.with_name(f"best-{task}.ckpt")

    def write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write metrics.csv: one row an epoch, one column a `task/split/metric`."""
        _write_csv(self.metrics, list(dict.fromkeys(key for record in history for key in record)), history)

    def write_learned(self, numbers: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write sharing.csv: one row a number that the sharing scheme had learned by the end of an epoch."""
        _write_csv(self.sharing, columns, numbers)

    def write_overlap(self, labels: LabelCounts) -> None:
        """Write overlap.csv: a line and a column for each task; the column of the lines' names has no name itself."""
        shares = [
            {"": task, **{other: json_number(round(share, 6)) for other, share in zip(labels.tasks, line, strict=True)}}
            for task, line in zip(labels.tasks, labels.overlap.tolist(), strict=True)
        ]
        _write_csv(self.overlap, ["", *labels.tasks], shares)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_text(self.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def write_auxiliary(self, check: Mapping[str, Any]) -> None:
        """Write auxiliary.json."""
        write_text(self.auxiliary, json.dumps(check, indent=2, allow_nan=False) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """What summary.json says, or nothing where there is none."""
        if not self.summary.is_file():
            return {}
        return json.loads(self.summary.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def read_split(self) -> Split | None:
        """Which row of the training table is in which part; None where the table was not split."""
        return Split.load(self.split) if self.split.is_file() else None

    def keep_as_best(self, task: str | None = None) -> None:
        """Make the last checkpoint the best one too, of all tasks or of one."""
        with replacing(self.best if task is None else self.best_of(task)) as temporary:
            shutil.copyfile(self.last, temporary)


def check_free(root: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        UserError: It exists and is not empty; nothing is ever overwritten.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    ways = "Choose another name with --output FOLDER."
    if RunFolder(root).config.is_file() and RunFolder(root).read_summary().get("status") != "finished":
        ways = f"Go on with it by: polytask train --resume {root}    Or choose another name with --output FOLDER."
    raise UserError(f"'{root}' exists already and is never overwritten. {ways}")


def json_number(value: float) -> float | None:
    """A number for a JSON file, which knows no NaN: an undefined value is null."""
    return value if math.isfinite(value) else None


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
