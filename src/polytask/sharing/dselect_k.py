"""Gates that come to select k experts."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders.limits import at_least, one_of
from polytask.errors import UserError
from polytask.sharing.gates import Gate, Gating
from polytask.sharing.mixture_of_experts import MixtureOfExperts, not_negative
from polytask.sharing.mixture_plan import Mixture

_LEAST = 1e-6


class DSelectK(MixtureOfExperts):
    """DSelect-k: a mixture of experts whose gates select at most k of them, and are differentiable throughout.

    Hazimeh, Zhao, Chowdhery, Sathiamoorthy, Chen, Mazumder, Hong and Chi, "DSelect-k: Differentiable Selection in the
    Mixture of Experts with Applications to Multi-Task Learning", NeurIPS 2021. A gate has k selectors, and each of them
    writes the number of an expert in binary digits: with m = ceil(log2 E) numbers z and the smooth step
    `S(t) = -2 t³/γ³ + 3 t/(2γ) + 1/2` (0 below -γ/2, 1 above γ/2), expert e with the digits `b(e)` has the weight
    `r(z)_e = prod_j S(z_j)^b_j(e) (1 - S(z_j))^(1 - b_j(e))`, so once all S are 0 or 1, it selects one expert. Task k
    sees `f_k = sum_e q_e E_e(x)` with `q = sum_i softmax(α)_i r(z_i)`. Static gates have z and α as parameters: the
    same experts for all rows; gates per example have `z = Z x + c`, `α = A x + d`.

    The penalty `selector_entropy` is the entropy of `r(z_i)`, summed over selectors and tasks (a mean over rows): it
    drives S to 0 and 1. Where E is not a power of 2, some numbers name no expert, and the penalty `unused_codes`, the
    sum of `1 / sum_e r(z_i)_e - 1`, keeps selectors away from these. As in the official code z starts in ±γ/100 and α
    in ±1/20 (or their maps' weights and biases do), and `unused_codes` has the strength 1; there, penalties of gates
    per example are summed over the rows, here they are means, so that they do not depend on the batch's size.

    For many experts, of which each task is to use a few: once the selectors are binary, static gates show which tasks
    came to share which experts. A selector that has settled does not learn any more: where it settles too soon, lower
    `entropy` or raise `smoothing`.

    Args:
        experts: Number of experts.
        k: How many of them a gate can select at most.
        gates: `per_example`: the selection depends on the row; `static`: on the task alone.
        smoothing: γ, the width of the step; smaller selects sooner.
        entropy: Strength of the penalty on the selectors' entropy, for gates that select sooner.

    Raises:
        UserError: A parameter is out of range.
    """

    name = "dselect_k"

    def __init__(
        self,
        experts: int = 8,
        k: int = 2,
        gates: Literal["per_example", "static"] = "per_example",
        smoothing: float = 1.0,
        entropy: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        at_least(1, experts=experts, k=k)
        if k > experts:
            raise UserError(f"dselect_k: 'k' is {k}, but there are {experts} experts. Take at most as many.")
        one_of(("per_example", "static"), gates=gates)
        not_negative(self.name, smoothing=smoothing, entropy=entropy)
        if smoothing == 0:
            raise UserError("dselect_k: 'smoothing' must be greater than 0: a sharp step has no gradient.")
        self.experts = experts
        self.k = k
        self.gates = gates
        self.smoothing = smoothing
        self.entropy = entropy

    def mixture(self) -> Mixture:
        """See `MixtureOfExperts.mixture`."""
        return Mixture(self._gate, 0, self.experts, dropout=self.gate_dropout, balance=self.balance)

    def _gate(self, width: int, experts: int) -> Gate:
        per_example = self.gates == "per_example"
        return SelectingGate(width if per_example else None, experts, self.k, self.smoothing, self.entropy)


class SelectingGate(Gate):
    """k selectors that write the number of an expert in binary digits, and their weights; see `DSelectK`.

    Args:
        width: Features that come in; None: the gate is static.
        experts: Number of experts.
        k: Number of selectors.
        smoothing: γ.
        entropy: Strength of the penalty on the selectors' entropy.
    """

    def __init__(self, width: int | None, experts: int, k: int, smoothing: float, entropy: float) -> None:
        super().__init__(experts)
        self.k = k
        self.smoothing = smoothing
        self.entropy = entropy
        self.digits = (experts - 1).bit_length()
        # What selects among one thing alone has nothing to learn.
        self.selection = _Logits(width, k * self.digits, smoothing / 100) if self.digits else None
        self.preference = _Logits(width, k, 0.05) if k > 1 and self.digits else None

    def weigh(self, features: Tensor) -> Gating:
        """See `Gate.weigh`."""
        if self.selection is None:
            return Gating(features.new_ones(len(features), 1), {})
        selected = self._selected(self.selection(features))
        if self.preference is None:
            weights = selected.squeeze(1)
        else:
            weights = (self.preference(features).softmax(1).unsqueeze(2) * selected).sum(1)
        return Gating(weights.expand(len(features), -1), self._penalties(selected))

    def _selected(self, logits: Tensor) -> Tensor:
        """`[B, k, E]`, what each selector selects, for `[B, k * digits]`."""
        scaled = (logits.view(len(logits), self.k, self.digits) / self.smoothing).clamp(-0.5, 0.5)
        steps = scaled * (1.5 - 2 * scaled.square()) + 0.5
        found = steps.new_ones(len(logits), self.k, 1)
        # Digit by digit, the first one being the greatest: every number so far goes on with 0 and with 1.
        for step in steps.unsqueeze(3).unbind(2):
            found = torch.stack([found * (1 - step), found * step], dim=3).flatten(2)
        return found[:, :, : self.experts]

    def _penalties(self, selected: Tensor) -> dict[str, Tensor]:
        if not self.training or not len(selected):
            return {}
        penalties = {}
        if self.entropy:
            entropy = -(selected * (selected + _LEAST).log()).sum((1, 2)).mean()
            penalties["selector_entropy"] = self.entropy * entropy
        if self.experts < 2**self.digits:
            penalties["unused_codes"] = (1 / selected.sum(2).clamp(min=_LEAST) - 1).sum(1).mean()
        return penalties


class _Logits(nn.Module):
    """Numbers `[B, n]` from features, or `[1, n]` whatever the features; they start uniform in ± `spread`."""

    def __init__(self, width: int | None, count: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width).uniform_(-spread, spread)) if width is not None else None
        self.bias = nn.Parameter(torch.empty(count).uniform_(-spread, spread))

    def forward(self, features: Tensor) -> Tensor:
        if self.weight is None:
            return self.bias.unsqueeze(0)
        return nn.functional.linear(features, self.weight, self.bias)
