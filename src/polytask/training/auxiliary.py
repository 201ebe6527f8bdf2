"""Tasks that are learned for the sake of others: what balancers and criteria are told of them."""

from __future__ import annotations

import logging

from polytask.balancing import Balancer
from polytask.config import Config
from polytask.config.checks import main_tasks
from polytask.config.component import ComponentSpec
from polytask.config.training_schema import MEAN_GAIN

logger = logging.getLogger("polytask")


def make_balancer(config: Config) -> Balancer:
    """The balancer, prepared for the tasks.

    A method that has main tasks (a parameter `main`) takes those that are not auxiliary, unless they are named.

    Raises:
        UserError: Its parameters do not fit the tasks, or it is not known which are the main ones.
    """
    spec, main = config.balancing, main_tasks(config.tasks)
    if "main" in spec.parameters and spec.parameters["main"] is None and len(main) < len(config.tasks):
        spec = ComponentSpec(spec.type, {**spec.parameters, "main": main[0] if len(main) == 1 else main}, spec.kind)
    balancer: Balancer = spec.create()
    balancer.prepare(list(config.tasks))
    return balancer


def warn_of_auxiliary_criteria(config: Config) -> None:
    """Say it where a choice goes by the metric of a task that choices are not to look at; it is allowed."""
    criteria = {"training.selection": config.training.selection}
    if config.training.early_stopping is not None:
        criteria["training.early_stopping.metric"] = config.training.early_stopping.metric
    for key, criterion in criteria.items():
        task = criterion.partition("/")[0]
        if criterion != MEAN_GAIN and task not in main_tasks(config.tasks):
            logger.warning(
                "%s is '%s', but '%s' is an auxiliary task. It is followed as it stands.", key, criterion, task
            )
