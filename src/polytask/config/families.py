"""The families of components that a configuration draws on."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from polytask.components import Family


class Kind(StrEnum):
    """The kinds of component in a configuration."""

    INPUT = "input"
    TASK = "task"
    ENCODER = "encoder"
    FUSION = "fusion"
    SHARING = "sharing"
    RELATION = "relation"
    BALANCER = "balancer"
    OPTIMIZER = "optimizer"
    LR_SCHEDULE = "lr_schedule"
    SCHEDULE = "schedule"
    SAMPLER = "sampler"
    MIXING = "mixing"
    UNLABELLED = "unlabelled"
    ORDER = "order"

    @property
    def fixed(self) -> frozenset[str]:
        """Parameters that are not the component's own to set: a task's name is its key."""
        return frozenset({"name"}) if self is Kind.TASK else frozenset()


def family_of(kind: Kind) -> Family[Any]:
    """The family of a kind; all are imported when the first is asked for, as a configuration needs each."""
    from polytask import balancing, encoders, fusion, schedules, sharing, tasks
    from polytask.data import inputs, mixing, samplers
    from polytask.optimization import lr_schedules, optimizers
    from polytask.sharing import relations
    from polytask.tasks import unlabelled

    families: dict[Kind, Family[Any]] = {
        Kind.INPUT: inputs.family,
        Kind.TASK: tasks.family,
        Kind.ENCODER: encoders.family,
        Kind.FUSION: fusion.family,
        Kind.SHARING: sharing.family,
        Kind.RELATION: relations.family,
        Kind.BALANCER: balancing.family,
        Kind.OPTIMIZER: optimizers.family,
        Kind.LR_SCHEDULE: lr_schedules.family,
        Kind.SCHEDULE: schedules.family,
        Kind.SAMPLER: samplers.family,
        Kind.MIXING: mixing.family,
        Kind.UNLABELLED: unlabelled.family,
        Kind.ORDER: schedules.orders.family,
    }
    return families[kind]
