"""Tasks: what is learned, with its head, loss and metrics."""

from polytask.components import Family
from polytask.tasks.classification import Classification
from polytask.tasks.multi_label import MultiLabel
from polytask.tasks.regression import Regression
from polytask.tasks.task import Task

family: Family[Task] = Family(
    "task", Task, {"classification": Classification, "multi_label": MultiLabel, "regression": Regression}
)
names = family.names
create = family.create

__all__ = ["Classification", "MultiLabel", "Regression", "Task", "create", "family", "names"]
