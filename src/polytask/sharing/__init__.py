"""Sharing: which parameters tasks have in common."""

from polytask.components import Family
from polytask.sharing import relations
from polytask.sharing.adapters import Adapters
from polytask.sharing.adashare import AdaShare
from polytask.sharing.adatt import AdaTT
from polytask.sharing.adversarial import Adversarial
from polytask.sharing.branching import Branching
from polytask.sharing.covariance import Covariance
from polytask.sharing.cross_stitch import CrossStitch
from polytask.sharing.dselect_k import DSelectK
from polytask.sharing.film import FiLM
from polytask.sharing.hard import Hard
from polytask.sharing.hypernetwork import Hypernetwork
from polytask.sharing.ltb import LTB
from polytask.sharing.man import MAN
from polytask.sharing.mmoe import MMoE
from polytask.sharing.mtan import MTAN
from polytask.sharing.nddr import NDDR
from polytask.sharing.ple import CGC, PLE
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, Sharing, Trunk, TrunkOutput
from polytask.sharing.sluice import Sluice
from polytask.sharing.soft import Soft
from polytask.sharing.stacked import StackedExperts
from polytask.sharing.task_norm import TaskNorm

family: Family[Sharing] = Family(
    "sharing scheme",
    Sharing,
    {
        "adapters": Adapters,
        "adashare": AdaShare,
        "adatt": AdaTT,
        "adversarial": Adversarial,
        "branching": Branching,
        "cgc": CGC,
        "covariance": Covariance,
        "cross_stitch": CrossStitch,
        "dselect_k": DSelectK,
        "film": FiLM,
        "hard": Hard,
        "hypernetwork": Hypernetwork,
        "ltb": LTB,
        "man": MAN,
        "mmoe": MMoE,
        "mtan": MTAN,
        "nddr": NDDR,
        "ple": PLE,
        "sluice": Sluice,
        "soft": Soft,
        "stacked_experts": StackedExperts,
        "task_norm": TaskNorm,
    },
)
names = family.names
create = family.create

__all__ = [
    "CGC",
    "LTB",
    "MAN",
    "MTAN",
    "NDDR",
    "PLE",
    "AdaShare",
    "AdaTT",
    "Adapters",
    "Adversarial",
    "Branching",
    "Covariance",
    "CrossStitch",
    "DSelectK",
    "EncoderTrunk",
    "FiLM",
    "Hard",
    "Hypernetwork",
    "LearnedTable",
    "MMoE",
    "Part",
    "Sharing",
    "Sluice",
    "Soft",
    "StackedExperts",
    "TaskNorm",
    "Trunk",
    "TrunkOutput",
    "create",
    "family",
    "names",
    "relations",
]
