"""How the tasks' gradients for what they share agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from polytask.balancing import gramian
from polytask.data.batch import Batch
from polytask.model import MultiTaskModel


def gradient_cosines(
    model: MultiTaskModel, batches: Iterable[Batch], shared: Sequence[nn.Parameter]
) -> np.ndarray | None:
    """The cosines between the tasks' gradients, their mean over some batches.

    The model is as in evaluation, so that neither dropout nor batch statistics play a part, and none of it changes.

    Args:
        model: The network.
        batches: What to measure on.
        shared: The parameters to take gradients for.

    Returns:
        `[K, K]`, in the model's order; NaN for a pair that had no gradients in the same batch. None where nothing is
        shared that learns.
    """
    if not shared:
        return None
    tasks = model.task_names
    total, measured = np.zeros((len(tasks), len(tasks))), np.zeros((len(tasks), len(tasks)))
    with _as_in_evaluation(model), torch.enable_grad():
        for batch in batches:
            losses = model.losses(batch)
            if not losses:
                continue
            products = gramian(losses, shared).double().cpu().numpy()
            lengths = np.sqrt(products.diagonal())
            seen = np.outer(lengths > 0, lengths > 0)
            present = np.array([tasks.index(task) for task in losses])
            where = np.ix_(present, present)
            total[where] += np.where(seen, products / np.where(seen, np.outer(lengths, lengths), 1), 0)
            measured[where] += seen
    return np.where(measured > 0, total / np.maximum(measured, 1), np.nan)


@contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.train()  # cuDNN has no backward pass for them otherwise; dropout between layers stays off below
    dropouts = [(module, module.dropout) for module in model.modules() if isinstance(module, nn.RNNBase)]
    for module, _ in dropouts:
        module.dropout = 0.0
    try:
        yield
    finally:
        for module, rate in dropouts:
            module.dropout = rate
        for module, training in before:
            module.training = training
