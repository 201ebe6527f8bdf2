"""Several processes on one machine: the first starts the others, watches them, and ends them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy

from polytask.config import TrainingConfig
from polytask.errors import UserError

logger = logging.getLogger("polytask")

_PATIENCE = 30.0
"""Seconds after the end of one process in which the others have to notice it."""


class Place(NamedTuple):
    """Where a process stands among those that train together.

    Attributes:
        rank: Its number, from 0.
        processes: How many there are.
        port: Where they meet.
    """

    rank: int
    processes: int
    port: int


def count_processes(settings: TrainingConfig) -> int:
    """How many processes `training.devices` asks for: one for each device.

    Raises:
        UserError: There are not as many devices, or something else has started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "Polytask starts its processes itself, but WORLD_SIZE says that something else has started several, as "
            "torchrun does. Start it once, and set training.devices."
        )
    cuda = torch.cuda.is_available() and settings.accelerator in ("auto", "cuda")
    there = torch.cuda.device_count() if cuda else None
    if settings.devices == "auto":
        return there or 1
    if there is not None and settings.devices > there:
        raise UserError(
            f"training.devices is {settings.devices}, but there are {there} GPUs. Allowed: 1 to {there}, or auto."
        )
    if settings.devices > 1 and settings.accelerator == "mps":
        raise UserError(f"training.devices is {settings.devices}, but there is one device of this kind. Allowed: 1.")
    return settings.devices


def trainer_arguments(place: Place) -> dict[str, Any]:
    """What Lightning's trainer has to know of the processes."""
    if place.processes == 1:
        return {"devices": 1}
    strategy = _Together(cluster_environment=_Meeting(place))
    return {"devices": place.processes, "strategy": strategy, "use_distributed_sampler": False}


@contextmanager
def partners(root: Path, count: int) -> Iterator[Place]:
    """Start the other processes of a training, and end them afterwards; yields where this one stands.

    Each of them opens the run folder, as one does to resume a run, so that nothing has to be handed over. What they
    print goes to `process-RANK.log` in the run folder, which is kept where one of them fails.

    Args:
        root: The run folder.
        count: How many processes there are, this one counted.

    Raises:
        UserError: One of them stopped.
    """
    if count == 1:
        yield Place(0, 1, 0)
        return
    port = find_free_network_port()
    with ExitStack() as stack:
        others = [stack.enter_context(_partner(root, Place(rank, count, port))) for rank in range(1, count)]
        for other in others:
            other.wait_until_ready()
        for other in others:
            other.meets = True
        try:
            yield Place(0, count, port)
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            # The connection breaks where another process ends: its reason is the reason.
            for other in others:
                other.explain(error)
            raise
        finally:
            leave()
        for other in others:
            other.finish()


def leave() -> None:
    """Take leave of the other processes, if there are any: once, when all work is done."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@contextmanager
def _partner(root: Path, place: Place) -> Iterator[_Partner]:
    path = root / f"process-{place.rank}.log"
    with path.open("w", encoding="utf-8") as log:
        partner = _Partner(root, place, path, log)
        kept = False
        try:
            yield partner
        except Exception as error:
            kept = not isinstance(error, UserError)  # perhaps because of the other one, which has not ended yet
            raise
        finally:
            partner.end()
            if partner.failed is None and not kept:
                path.unlink(missing_ok=True)


class _Partner:
    """Another process, seen from the first one.

    It reports on its standard output, in lines of JSON, and ends when its standard input does.

    Attributes:
        failed: Why it stopped before its work was done; None: it did not, as far as is known.
        meets: Whether the first process may be waiting for it in the middle of a step.
    """

    def __init__(self, root: Path, place: Place, path: Path, log: Any) -> None:
        self.failed: str | None = None
        self.meets = False
        self._name = f"Process {place.rank + 1} of {place.processes}"
        self._path = path
        self._ready = threading.Event()
        self._explained = threading.Event()
        self._ended = threading.Event()
        self._noticed = threading.Event()
        self._killed = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "polytask.training.partner", str(root), *map(str, place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            # Components of the user's own are found where this process finds them.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_until_ready(self) -> None:
        """Wait until it has read its data.

        Raises:
            UserError: It cannot.
        """
        self._ready.wait()
        if self.failed is not None:
            raise UserError(self.failed)

    def explain(self, error: Exception) -> None:
        """If it has failed, say so instead of what that led to.

        Raises:
            UserError: It has failed.
        """
        self._noticed.set()
        self._explained.wait(timeout=10)
        if self.failed is not None:
            raise UserError(self.failed) from error

    def finish(self) -> None:
        """Wait until it has ended; what goes wrong now changes nothing any more."""
        self._noticed.set()
        self._ended.wait()
        if self.failed is not None:
            logger.warning("%s", self.failed)

    def end(self) -> None:
        """End it, whatever it does."""
        self._noticed.set()
        if not self._ended.is_set():
            self._killed = True
            self._process.kill()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = _message(line)
            if "error" in message:
                # It takes a while to end afterwards.
                self.failed = f"{self._name} stopped: {message['error']}"
                self._explained.set()
            if "ready" in message:
                self._ready.set()
        code = self._process.wait()
        if code and not self._killed and self.failed is None:
            self.failed = f"{self._name} stopped: exit code {code}. Its last words: {self._path}"
        self._explained.set()
        self._ended.set()
        self._ready.set()
        if self.failed is not None and self.meets and not self._noticed.wait(_PATIENCE):
            # On GPUs a message to a process that is gone can wait for half an hour.
            logger.error("%s", self.failed)
            os._exit(2)


def _message(line: str) -> Mapping[str, str]:
    """What a process says in a line; nothing where something else in it has printed before its work began."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class _Together(DDPStrategy):
    """Lightning's strategy for several processes, without its wrapper: steps add up their gradients themselves.

    The wrapper averages what each process finds by itself, but balancers need the losses and gradients of all.
    """

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


class _Meeting(ClusterEnvironment):
    """Tells Lightning where a process stands."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """This machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """See `Place`."""
        return self._place.port

    @staticmethod
    def detect() -> bool:
        """It is given, never found."""
        return False

    def world_size(self) -> int:
        """See `Place`."""
        return self._place.processes

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """See `Place`."""
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """See `Place`."""
        return self._place.rank

    def node_rank(self) -> int:
        """There is one machine."""
        return 0
