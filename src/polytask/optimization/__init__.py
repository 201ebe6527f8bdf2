"""Optimisers and learning-rate schedules: thin, named descriptions of PyTorch's own."""

from polytask.optimization import lr_schedules, optimizers
from polytask.optimization.lr_schedules import LRSchedule
from polytask.optimization.optimizers import Optimizer
from polytask.optimization.running import RunningSchedule
from polytask.optimization.turn_states import TurnStates

__all__ = ["LRSchedule", "Optimizer", "RunningSchedule", "TurnStates", "lr_schedules", "optimizers"]
