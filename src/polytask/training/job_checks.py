"""What a training cannot do with the devices, the data and the processes that are there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from polytask.balancing import Balancer
from polytask.config import Config, TrainingConfig
from polytask.data.encoded_rows import EncodedRows
from polytask.data.request import Request, Share
from polytask.errors import UserError, listing
from polytask.model import MultiTaskModel
from polytask.schedules import Schedule
from polytask.tasks.unlabelled import Unlabelled
from polytask.training.semi_supervised import require_two_views

_TRIED = 8
"""Rows that the network is tried on, where it has to be."""


def check_device(settings: TrainingConfig) -> None:
    """Make sure that what is asked for is there: Lightning would fail late, or take something else."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(settings.accelerator, True):
        raise UserError(
            f"training.accelerator is {settings.accelerator}, but there is no such device here. "
            "Allowed everywhere: auto, cpu."
        )
    if settings.precision == "16-mixed" and (settings.accelerator == "cpu" or not any(there.values())):
        raise UserError(
            "training.precision is 16-mixed, but float16 needs a GPU and there is none here. Allowed on the CPU: 32, "
            "bf16-mixed."
        )


def check_meta_learning(schedule: Schedule, settings: TrainingConfig, share: Share) -> None:
    """Make sure that meta-learning has what it needs: a batch for each inner step, and all of them in one process."""
    if schedule.inner is None:
        return
    if settings.accumulate > 1:
        raise UserError(
            f"training.accumulate is {settings.accumulate}, but in meta-learning a step has a batch for each inner "
            "step. Leave it at 1, and set training.batch_size."
        )
    if share.processes > 1:
        raise UserError("Meta-learning runs in one process: set training.devices to 1.")


def check_balancer(config: Config, balancer: Balancer, share: Share) -> None:
    """Make sure that a balancer can work with the batches and processes of a step."""
    settings = config.training
    apart = [name for name, task in config.tasks.items() if not task.cls.needs_labels]
    if config.balancing.parameters.get("on") == "features" and apart:
        raise UserError(
            f"balancing: on: features looks at features that tasks have in common, but {listing(apart)} read changed "
            "inputs of their own and have other features. Take on: last, or leave it out."
        )
    if config.balancing.parameters.get("on") == "features" and (settings.accumulate > 1 or share.processes > 1):
        raise UserError(
            "balancing: on: features looks at the features of one batch, but a step has several here. Set both "
            "training.accumulate and training.devices to 1, or take on: last."
        )
    if share.processes > 1 and balancer.wants_validation:
        raise UserError(
            f"balancing: {config.balancing.type} looks ahead, in one process only. Set training.devices to 1, or take "
            "another method."
        )


def require_no_scores(config: Config, schedule: Schedule) -> None:
    """Make sure that nothing waits for scores that never come, where there are no validation data."""
    if schedule.wants_scores:
        raise UserError(
            f"schedule: '{config.schedule.type}' goes by scores on validation data here, but there are none. "
            "Give data.valid, or a data.split.valid above 0."
        )
    for name, own in config.training.tasks.items():
        for key in ("early_stopping", "lr_on_plateau"):
            if getattr(own, key) is not None:
                raise UserError(
                    f"training.tasks.{name}.{key} goes by scores on validation data, but there are none. Give "
                    "data.valid, or a data.split.valid above 0."
                )


def check_views(model: MultiTaskModel, uses: Mapping[str, Unlabelled], rows: EncodedRows) -> None:
    """Make sure that tasks which compare two views of a row have two."""
    if any(use.needs_other_view for use in uses.values()) and not rows.augmented:
        some = rows[Request(0, np.arange(min(len(rows), _TRIED)))]
        if some.error is not None:
            raise UserError(some.error)
        require_two_views(model, uses, some.batch)
