"""Fusion of all tasks' experts, to which a task's own are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polytask.encoders.limits import at_least
from polytask.sharing.gates import SoftmaxGate
from polytask.sharing.mixture_of_experts import MixtureOfExperts
from polytask.sharing.mixture_plan import Mixture
from polytask.sharing.ple import checked_levels


class AdaTT(MixtureOfExperts):
    """Adaptive task-to-task fusion.

    Li, Zhang, Deng, et al., "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
    KDD 2023. A unit u, of a task or shared, has experts `E_u`, which read `f_u` of the level before (in the first level
    the shared features), and hands on

        f_u = sum_e softmax(W_u f_u + b_u)_e E_e  +  sum_(e of u) v_(u,e) E_e

    with the first sum over the experts of all units, the second over its own: from the others comes what is added to
    what the unit makes itself. v is 1 for a single expert, else learned. The last level has no shared unit's fusion.
    Without shared experts it is the paper's AdaTT-sp.

    As in the official code the gates have a bias. There, v starts random, of either sign; here with 1 over the number
    of own experts, so that at first their mean is added and a pretrained encoder's features are not torn up.

    For tasks of which any pair may be related, and differently so from level to level.

    Args:
        task_experts: Number of experts of each task's unit.
        shared_experts: Number of experts of the shared unit; 0: there is none.
        levels: Number of levels. Where the experts are copies of stages (`share_until`), the stages behind it are
            divided among the levels as evenly as possible, the first levels having one more; or give the last stage of
            each level except the last level, by name or number.

    Raises:
        UserError: A parameter is out of range.
    """

    name = "adatt"

    def __init__(
        self,
        task_experts: int = 2,
        shared_experts: int = 1,
        levels: int | Sequence[str | int] = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        at_least(1, task_experts=task_experts)
        at_least(0, shared_experts=shared_experts)
        self.task_experts = task_experts
        self.shared_experts = shared_experts
        self.levels = checked_levels(self.name, levels)

    def mixture(self) -> Mixture:
        """See `MixtureOfExperts.mixture`."""
        return Mixture(
            SoftmaxGate,
            self.task_experts,
            self.shared_experts,
            sees_all=True,
            residual=True,
            dropout=self.gate_dropout,
            balance=self.balance,
        )
