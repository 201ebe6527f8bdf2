"""Experts that all tasks share, with a gate for each task."""

from __future__ import annotations

from typing import Any

from polytask.encoders.limits import at_least
from polytask.sharing.gates import SoftmaxGate
from polytask.sharing.mixture_of_experts import MixtureOfExperts
from polytask.sharing.mixture_plan import Mixture


class MMoE(MixtureOfExperts):
    """Multi-gate mixture of experts.

    Ma, Zhao, Yi, Chen, Hong and Chi, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", KDD 2018. On shared features `x`, task k sees `f_k = sum_e g_k(x)_e E_e(x)` with
    `g_k(x) = softmax(W_k x + b_k)`: all tasks have the same experts, and each has a gate of its own, which weighs them
    for each row.

    The paper's gates have no bias and read the raw input; here `x` is the (pooled) output of the shared stages, which
    every encoder has, and the bias, which starts as PyTorch's layers do, lets a task prefer an expert whatever the
    input. One expert makes it hard sharing.

    For tasks that are related in part, or differently from row to row, at little more than the cost of one network.

    Args:
        experts: Number of experts.

    Raises:
        UserError: A parameter is out of range.
    """

    name = "mmoe"

    def __init__(self, experts: int = 8, **options: Any) -> None:
        super().__init__(**options)
        at_least(1, experts=experts)
        self.experts = experts

    def mixture(self) -> Mixture:
        """See `MixtureOfExperts.mixture`."""
        return Mixture(SoftmaxGate, 0, self.experts, dropout=self.gate_dropout, balance=self.balance)
