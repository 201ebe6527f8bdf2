"""What is written into a run's folder while it trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from polytask.training.atomic import replacing, unwritable
from polytask.training.epochs import EpochSink
from polytask.training.learned_numbers import LearnedNumber
from polytask.training.module import MultiTaskModule
from polytask.training.run_folder import RunFolder

logger = logging.getLogger("polytask")


class Saver(EpochSink):
    """Takes part in writing checkpoints, as every process of a training has to: the first one writes them.

    Args:
        folder: The run folder.
        module: What is trained.
    """

    def __init__(self, folder: RunFolder, module: MultiTaskModule) -> None:
        self._folder = folder
        self._module = module

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        """See `EpochSink.epoch_done`."""
        self.save()

    def save(self) -> None:
        """Write the last checkpoint anew.

        Raises:
            UserError: It cannot be written; the one before it is still there.
        """
        trainer = self._module.trainer
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder.last)
            return
        # Lightning's own way is to move it here from the folder for temporary files, which may be another disk.
        with replacing(self._folder.last) as temporary:
            trainer.save_checkpoint(temporary)


class RunWriter(Saver):
    """Writes an epoch's numbers and checkpoints into the run folder."""

    def __init__(
        self, folder: RunFolder, module: MultiTaskModule, *, tensorboard: bool, best_per_task: bool = False
    ) -> None:
        super().__init__(folder, module)
        self._tensorboard = tensorboard
        self._best_per_task = best_per_task
        self._writer: Any = None

    def epoch_done(self, record: Mapping[str, float], improved: bool) -> None:
        """See `EpochSink.epoch_done`. The checkpoint comes first: all else can be made again from it."""
        self.save()
        if improved or not self._folder.best.is_file():
            self._folder.keep_as_best()
        for task in self._module.own.improved if self._best_per_task else ():
            self._folder.keep_as_best(task)
        self._folder.write_history(self._module.epochs.history)
        if self._module.epochs.learned:
            self._folder.write_learned([n._asdict() for n in self._module.epochs.learned], LearnedNumber._fields)
        if self._tensorboard:
            self._write_events(record)
        logger.debug("%s", record)

    def close(self) -> None:
        """Complete what TensorBoard reads."""
        if self._writer is not None:
            self._writer.close()

    def _write_events(self, record: Mapping[str, float]) -> None:
        step = int(record["step"])
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder.tensorboard), purge_step=step)
        try:
            for key, value in record.items():
                if key not in ("epoch", "step"):
                    self._writer.add_scalar(key, value, step)
            for number in self._module.epochs.learned:
                if number.epoch == record["epoch"]:
                    self._writer.add_scalar(f"sharing/{number.table}/{number.row}/{number.column}", number.value, step)
            self._writer.flush()
        except OSError as error:
            raise unwritable(self._folder.tensorboard, error) from error


class WithinEpochs(Callback):
    """Writes the last checkpoint in the middle of epochs too.

    Args:
        saver: Writes it.
        every: Steps from one to the next.
    """

    def __init__(self, saver: Saver, every: int) -> None:
        self._saver = saver
        self._every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Called after each step; the end of an epoch has a checkpoint of its own."""
        assert isinstance(pl_module, MultiTaskModule)
        if pl_module.steps % self._every == 0 and not trainer.is_last_batch:
            self._saver.save()
