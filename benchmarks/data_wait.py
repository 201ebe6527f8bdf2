"""How long a training waits for its data: share of an epoch, on the images of `examples/pacs` with 2 workers.

    python benchmarks/data_wait.py PREPARED_FOLDER [KEY=VALUE...]

`PREPARED_FOLDER` is what `examples/pacs/prepare.py` has written. The time between asking the loader for a batch and
having it is summed over each epoch; the first epoch, in which the workers start, is shown apart.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from polytask.config import load_config
from polytask.training.job import make_job
from polytask.training.steps import StepBatches, Steps

EPOCHS = 5


class Timed(Callback):
    """A loader that measures how long each of its epochs waits; a callback, to know when an epoch ends."""

    def __init__(self, loader: Steps) -> None:
        self._loader = loader
        self._start = self._waited = 0.0
        self.epochs: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[StepBatches]:
        self._start, self._waited = time.perf_counter(), 0.0
        asked = self._start
        for batch in self._loader:
            self._waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append((self._waited, time.perf_counter() - self._start))


def main(folder: Path, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.yaml"
        shutil.copy(Path(__file__).parents[1] / "examples" / "pacs" / "config.yaml", config)
        job = make_job(load_config(config, [f"data.train={folder}", f"training.epochs={EPOCHS}", *overrides]))
        loader = Timed(job.train)
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=EPOCHS,
            callbacks=[loader],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(job.module, loader)
    shares = [waited / taken for waited, taken in loader.epochs]
    print(f"first epoch: {loader.epochs[0][1]:.2f} s, {100 * shares[0]:.1f} % of it waiting")
    print(f"later epochs: {statistics.median(taken for _, taken in loader.epochs[1:]):.2f} s each (median),", end=" ")
    print(f"{100 * statistics.median(shares[1:]):.1f} % of it waiting")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
