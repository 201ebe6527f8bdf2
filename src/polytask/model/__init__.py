"""The multi-task model: encoders, sharing, heads."""

from polytask.model.multi_task_model import MultiTaskModel, Objectives

__all__ = ["MultiTaskModel", "Objectives"]
