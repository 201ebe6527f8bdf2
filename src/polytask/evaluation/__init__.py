"""Evaluation: how good a trained model is, and what it predicts."""

from polytask.evaluation.evaluate import Evaluation, evaluate
from polytask.evaluation.predict import predictions, write_predictions
from polytask.evaluation.run import Run

__all__ = ["Evaluation", "Run", "evaluate", "predictions", "write_predictions"]
