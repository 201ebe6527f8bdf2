"""Training from start to end: `train` makes a run folder, `resume` goes on with one."""

from __future__ import annotations

import logging
import platform
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from polytask.config import Config, load_config
from polytask.data.request import Share
from polytask.errors import UserError
from polytask.training.atomic import write_text
from polytask.training.display import Display
from polytask.training.job import Job, make_job
from polytask.training.learned_plot import plot_learned
from polytask.training.run_folder import RunFolder, check_free, json_number
from polytask.training.run_writer import RunWriter, Saver, WithinEpochs
from polytask.training.saved_model import load_description, save_description, save_weights
from polytask.training.signals import OwnSigterm
from polytask.training.task_account import log_account
from polytask.training.together import Place, count_processes, leave, partners, trainer_arguments

logger = logging.getLogger("polytask")


def train(config: Config, output: Path | None = None, *, display: Display | None = None) -> RunFolder:
    """Train a model.

    Args:
        config: What to train.
        output: The run folder, new or empty; None: `runs/<the configuration's name>`.
        display: Shows what happens; None: nothing is shown.

    Returns:
        The run folder.

    Raises:
        UserError: The data or the configuration do not allow it, the folder is taken, a loss stopped being a number,
            or the disk is full.
    """
    root = output or Path("runs") / config.run_name()
    check_free(root)
    job = make_job(config, share=Share(0, count_processes(config.training)))
    if display is not None:
        display.job(job)
    folder = RunFolder.create(root)
    write_text(folder.config, config.to_yaml())
    _write_start(job, folder)
    _run(job, folder, display)
    return folder


def resume(root: Path, *, display: Display | None = None) -> RunFolder:
    """Go on with a run that was stopped, from its last checkpoint: the end of an epoch, or `training.checkpoint_every`.

    Args:
        root: The run folder.
        display: Shows what happens; None: nothing is shown.

    Returns:
        The run folder; its numbers are those of an uninterrupted run.

    Raises:
        UserError: It is not a run, it has finished, or its data have changed.
    """
    folder = RunFolder.open(root)
    summary = folder.read_summary()
    if summary.get("status") == "finished":
        raise UserError(f"'{root}' has finished already; there is nothing to resume.")
    config = load_config(folder.config)
    split = folder.read_split()
    # Before the first checkpoint there are no weights to go on with: it begins anew, with those that it began with.
    known = folder.last.is_file() and (folder.model / "config.json").is_file()
    share = Share(0, count_processes(config.training))
    job = make_job(config, split, load_description(folder.model) if known else None, share)
    if "fingerprint" in summary and summary["fingerprint"] != job.sources.fingerprint:
        raise UserError(
            f"The data of '{root}' have changed since it was started, so that it cannot go on as it would have. "
            "Put the data back, or start a new run."
        )
    if not known:
        _write_start(job, folder)
    if display is not None:
        display.job(job)
    _run(job, folder, display)
    return folder


def assist(root: Path, place: Place, ready: Callable[[], None]) -> None:
    """Train along in another process than the first, which has written the run's start and writes all else.

    Args:
        root: The run folder.
        place: Where this process stands.
        ready: Is called when the data have been read.

    Raises:
        UserError: The data or the configuration do not allow it, or a loss stopped being a number.
    """
    folder = RunFolder.open(root)
    share = Share(place.rank, place.processes)
    job = make_job(load_config(folder.config), folder.read_split(), load_description(folder.model), share)
    job.module.sinks = [saver := Saver(folder, job.module)]
    ready()
    try:
        _fit(job, folder, place, _within_epochs(job, saver))
    finally:
        leave()


def _write_start(job: Job, folder: RunFolder) -> None:
    """What a resumed run needs to go on as this one would have."""
    if job.sources.split is not None:
        job.sources.split.save(folder.split)
    folder.write_summary({"status": "running", "fingerprint": job.sources.fingerprint})
    folder.write_overlap(job.labels)
    save_description(folder.model, job.description, job.preparation.shapes)


def _run(job: Job, folder: RunFolder, display: Display | None) -> None:
    module, settings = job.module, job.config.training
    writer = RunWriter(folder, module, tensorboard=settings.tensorboard, best_per_task=settings.keep_best_per_task)
    module.sinks = [writer] if display is None else [writer, display]
    resumed = folder.last.is_file()
    if resumed:
        _catch_up(folder, best_per_task=settings.keep_best_per_task)
    callbacks = _within_epochs(job, writer)
    if display is not None:
        callbacks.append(display.callback())
    with _log_file(folder.log):
        logger.info("%s in %s", "Resumed" if resumed else "Started", folder.root)
        started = time.monotonic()
        try:
            with partners(folder.root, job.share.processes) as place:
                if place.processes > 1:
                    logger.info("%d processes, each with its part of every batch", place.processes)
                _fit(job, folder, place, callbacks)
        finally:
            writer.close()
            if display is not None:
                display.stop()
        _finish(job, folder, seconds=time.monotonic() - started)
        log_account(module.account.totals())
        logger.info("Finished; best epoch %d", module.epochs.best.epoch + 1)


def _within_epochs(job: Job, saver: Saver) -> list[Callback]:
    every = job.config.training.checkpoint_every
    return [] if every is None else [WithinEpochs(saver, every)]


def _fit(job: Job, folder: RunFolder, place: Place, callbacks: list[Callback]) -> None:
    """Train, from the last checkpoint where there is one.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    settings = job.config.training
    with _quiet_lightning():
        trainer = Trainer(
            accelerator=settings.accelerator,
            precision=settings.precision,
            max_epochs=settings.epochs,
            reload_dataloaders_every_n_epochs=1,  # asked for its length again: epochs can have different ones
            callbacks=[*callbacks, OwnSigterm()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **trainer_arguments(place),
        )
        checkpoint = str(folder.last) if folder.last.is_file() else None
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(job.module, job.train, job.valid, ckpt_path=checkpoint)
        except SystemExit:
            # Lightning ends the whole process where the user stops a training, and never hears of it again.
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
        if job.module.processes is not None:
            for unreadable in job.module.processes.each(dict(job.train.loader.unreadable)):
                job.train.loader.note_unreadable(unreadable)


def _catch_up(folder: RunFolder, *, best_per_task: bool) -> None:
    """Write what follows from the last checkpoint, in case that the run was stopped right after it."""
    state = torch.load(folder.last, map_location="cpu", weights_only=True, mmap=True)["polytask"]
    history, best_epoch = state["epochs"]["history"], state["epochs"]["best"]["epoch"]
    epochs = len(history)
    if epochs and state["plan"]["done"] == 0 and best_epoch == epochs - 1:
        folder.keep_as_best()
    for task, best in state["own"]["best"].items() if best_per_task else ():
        if epochs and state["plan"]["done"] == 0 and best["epoch"] == epochs - 1:
            folder.keep_as_best(task)
    folder.write_history(history)


def _finish(job: Job, folder: RunFolder, seconds: float) -> None:
    """Put the best epoch's weights into the model folder, and write the summary."""
    checkpoint = torch.load(folder.best, map_location="cpu", weights_only=True)
    prefix = "model."
    weights = {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }
    job.model.load_state_dict(weights)
    save_weights(folder.model, job.model)
    folder.write_summary(summarise(job, seconds))
    if learned := job.module.epochs.learned:
        try:
            plot_learned(learned, folder.sharing_plot)
        except Exception as error:  # A picture is not worth a run.
            logger.warning("sharing.svg could not be drawn (%s); its numbers are in sharing.csv.", error)


def summarise(job: Job, seconds: float) -> dict[str, Any]:
    """The content of summary.json: what came out, on validation data, and what made it."""
    module = job.module
    chosen, best = module.epochs.best, module.epochs.best_record
    spent, baseline = module.account.totals(), module.validation.baseline
    tasks = {}
    for name, task in job.model.tasks.items():
        scores = {key.removeprefix(f"{name}/valid/"): best[key] for key in best if key.startswith(f"{name}/valid/")}
        tasks[name] = {
            "metric": task.metric,
            "auxiliary": task.auxiliary,
            "steps": spent[name].steps,
            "samples": spent[name].samples,
            "seconds": round(spent[name].seconds, 3),
            "valid": {metric: json_number(value) for metric, value in scores.items()},
            "baseline": {metric: json_number(value) for metric, value in baseline.get(name, {}).items()},
            "best_epoch": own.epoch + 1 if (own := module.own.best[name]).epoch >= 0 else None,
            "best_value": json_number(own.value),
            "stopped_epoch": module.own.stopped[name] + 1 if name in module.own.stopped else None,
        }
    return {
        "status": "finished",
        "selection": chosen.criterion if job.valid is not None else "last epoch (no validation data)",
        "best_epoch": chosen.epoch + 1,
        "best_value": json_number(chosen.value),
        "epochs": len(module.epochs.history),
        "steps": module.steps,
        "seconds": round(seconds, 1),
        "tasks": tasks,
        "rows": {name: len(part) for name, part in job.sources.parts.items()},
        "labels": job.labels.as_json(),
        "skipped_rows": job.train.loader.skipped,
        "parameters": job.count_parameters(),
        "fingerprint": job.sources.fingerprint,
        "versions": {"polytask": version("polytask"), "torch": torch.__version__, "python": platform.python_version()},
    }


@contextmanager
def _log_file(path: Path) -> Any:
    """Everything that Polytask logs, into the run's log as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    except Exception as error:
        # Into the file alone: whoever catches the error shows it.
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, "Stopped: %s", (error,), None))
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)


@contextmanager
def _quiet_lightning() -> Any:
    """Without the remarks that Lightning makes about hardware, workers and logging intervals."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
