"""Schedules: which tasks take part in which step."""

from polytask.components import Family
from polytask.schedules import orders
from polytask.schedules.alternating import Alternating
from polytask.schedules.curriculum import Curriculum
from polytask.schedules.hybrid import Hybrid
from polytask.schedules.joint import Joint
from polytask.schedules.meta import Meta
from polytask.schedules.pretrain_finetune import PretrainFinetune
from polytask.schedules.report import EpochReport, Turn
from polytask.schedules.schedule import Freeze, InnerLoop, Schedule

family: Family[Schedule] = Family(
    "schedule",
    Schedule,
    {
        "alternating": Alternating,
        "curriculum": Curriculum,
        "hybrid": Hybrid,
        "joint": Joint,
        "meta": Meta,
        "pretrain_finetune": PretrainFinetune,
    },
)
names = family.names
create = family.create

__all__ = [
    "Alternating",
    "Curriculum",
    "EpochReport",
    "Freeze",
    "Hybrid",
    "InnerLoop",
    "Joint",
    "Meta",
    "PretrainFinetune",
    "Schedule",
    "Turn",
    "create",
    "names",
    "orders",
]
