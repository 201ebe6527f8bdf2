"""What ends a training from outside: Lightning's answer to SIGTERM is taken back."""

from __future__ import annotations

import signal
import threading

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class OwnSigterm(Callback):
    """Lets SIGTERM end a training as Ctrl-C does; who had a handler for it before keeps it.

    Where there are several processes, Lightning sends them a message from within the handler. It gets among those of
    the step, and all wait for each other for ever. To hear of it, each process asks before every step, and waits for
    its device.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called before Lightning sets its handler."""
        self._before = signal.getsignal(signal.SIGTERM)
        trainer.fit_loop.epoch_loop.__dict__["_broadcast_sigterm_tensor"] = _nothing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called afterwards; when the training ends, Lightning puts back what was there before."""
        if threading.current_thread() is threading.main_thread():
            plain = self._before in (None, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.default_int_handler if plain else self._before)


def _nothing() -> None:
    """There is nothing to ask."""
