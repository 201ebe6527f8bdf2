"""Sharing: which parameters tasks have in common."""

from polytask.components import Family
from polytask.sharing.hard import Hard
from polytask.sharing.sharing import LearnedTable, Part, Sharing, Trunk, TrunkOutput

family: Family[Sharing] = Family(
    "sharing scheme",
    Sharing,
    {
        "hard": Hard,
    },
)
names = family.names
create = family.create

__all__ = [
    "Hard",
    "LearnedTable",
    "Part",
    "Sharing",
    "Trunk",
    "TrunkOutput",
    "create",
    "family",
    "names",
]
