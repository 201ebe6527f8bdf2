"""Sharing: which parameters tasks have in common."""

from polytask.components import Family
from polytask.sharing.hard import Hard
from polytask.sharing.sharing import Sharing, Trunk

family: Family[Sharing] = Family("sharing scheme", Sharing, {"hard": Hard})
names = family.names
create = family.create

__all__ = ["Hard", "Sharing", "Trunk", "create", "family", "names"]
