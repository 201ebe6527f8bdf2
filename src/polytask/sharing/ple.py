"""Experts of each task's own beside shared ones, in one level (CGC) or in several (PLE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polytask.encoders.limits import at_least
from polytask.errors import UserError
from polytask.sharing.gates import SoftmaxGate
from polytask.sharing.mixture_of_experts import MixtureOfExperts
from polytask.sharing.mixture_plan import Mixture


class CGC(MixtureOfExperts):
    """Customized gate control: experts of each task's own beside shared ones.

    Tang, Liu, Zhao and Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", RecSys 2020. On shared features `x`, task k sees
    `f_k = sum_e g_k(x)_e E_e(x)` over its own and the shared experts, with `g_k(x) = softmax(W_k x + b_k)`. What other
    tasks' experts learn cannot disturb it.

    The paper's gates have no bias, and its experts read the raw input; see `mmoe`.

    For tasks that pull the shared parameters in different directions: the seesaw, where one gets better as another
    gets worse.

    Args:
        shared_experts: Number of experts that all tasks share.
        task_experts: Number of experts of each task's own.

    Raises:
        UserError: A parameter is out of range.
    """

    name = "cgc"

    def __init__(self, shared_experts: int = 2, task_experts: int = 2, **options: Any) -> None:
        super().__init__(**options)
        at_least(1, shared_experts=shared_experts, task_experts=task_experts)
        self.shared_experts = shared_experts
        self.task_experts = task_experts

    def mixture(self) -> Mixture:
        """See `MixtureOfExperts.mixture`."""
        return Mixture(
            SoftmaxGate, self.task_experts, self.shared_experts, dropout=self.gate_dropout, balance=self.balance
        )


class PLE(CGC):
    """Progressive layered extraction: several levels of `cgc`, and information that passes between tasks on the way.

    Tang, Liu, Zhao and Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", RecSys 2020. In level j, task k's experts and gate read `f_k` of level j - 1, and the shared
    experts read `f_s`, what the shared gate made; in the first level all read the shared features. Task k's gate
    weighs its own and the shared experts, the shared gate all experts of all tasks:
    `f_k^j = sum_e g_k^j(f_k^{j-1})_e E_e^j` and `f_s^j = sum_e g_s^j(f_s^{j-1})_e E_e^j`. The last level has no shared
    gate. So in all levels but the last one, a task's experts are reached by the other tasks too, through the shared
    gate. One level is `cgc`.

    The paper's gates have no bias, and its first experts read the raw input; see `mmoe`.

    Args:
        levels: Number of levels. Where the experts are copies of stages (`share_until`), the stages behind it are
            divided among the levels as evenly as possible, the first levels having one more; or give the last stage of
            each level except the last level, by name or number.

    Raises:
        UserError: A parameter is out of range.
    """

    name = "ple"

    def __init__(self, levels: int | Sequence[str | int] = 2, **options: Any) -> None:
        super().__init__(**options)
        self.levels = checked_levels(self.name, levels)


def checked_levels(scheme: str, levels: int | Sequence[str | int]) -> int | Sequence[str | int]:
    """The levels, if there is at least one.

    Raises:
        UserError: There is none.
    """
    if isinstance(levels, str):
        raise UserError(f"{scheme}: 'levels' is '{levels}', but must be a number, or a list of stages.")
    if isinstance(levels, int):
        at_least(1, levels=levels)
    return levels
