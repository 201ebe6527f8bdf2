"""Soft parameter sharing: a network for each task, drawn towards the others' by a penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder
from polytask.encoders.limits import one_of
from polytask.errors import UserError, at_key
from polytask.sharing.closeness import MEASURES, Measure, distances, separation
from polytask.sharing.sharing import LearnedTable, Sharing, TrunkOutput, only_encoder
from polytask.sharing.stage_places import stage_place
from polytask.sharing.tree import TreeTrunk


class Soft(Sharing):
    """Soft parameter sharing: one network a task, and a penalty on how far apart these are.

    Task k sees `f_k = s_k(x)` from an encoder of its own, and `strength * sum_stages Omega(theta_1, ..., theta_K)` is
    added to the losses, where theta_k are the parameters of task k's stage:

    - `l2`: `sum_{k<m} ‖theta_k - theta_m‖² / r²` (Duong, Cohn, Bird and Cook, "Low Resource Dependency Parsing:
      Cross-lingual Parameter Sharing in a Neural Network Parser", ACL 2015).
    - `mean`: `sum_k ‖theta_k - mean‖² / r²` (Evgeniou and Pontil, "Regularized Multi-Task Learning", KDD 2004): `l2`
      divided by K, so that the pull on one network does not grow with the number of tasks.
    - `trace_norm`: `sum_tensors ‖[vec theta_1; ...; vec theta_K]‖_* / r`, the sum of the singular values of the matrix
      whose rows are the tasks' values of one parameter tensor (Yang and Hospedales, "Trace Norm Regularised Deep
      Multi-Task Learning", ICLR 2017 workshop, the form called last-axis flattening): few directions are to explain
      all tasks. This is the norm as published, with nothing taken off, so that it also pulls on the length that alike
      networks have in common, `sqrt(K)` times one network's. Directions in which the networks do not differ have no
      gradient (the smallest subgradient).
    - `cosine`: `sum_{k<m} (1 - cos(theta_k, theta_m))` for each tensor, averaged over the stage's tensors with
      `‖theta_k‖ ‖theta_m‖ / r²` as weights, so that a bias near 0, whose angle turns with each step, counts for little.
      The lengths stay free.

    `r²` is the mean over the tasks of the squared length of the stage's parameters, taken as a constant. The papers
    take plain sums. With Adam the effect of a strength grows with a network's width on sums, falls on means over
    parameters, and changes least relative to r² (measured from width 16 to 256; with plain SGD it falls); at strength 1
    two networks as far apart as they are long cost 1. Stages are added up, so that the pull on one does not depend on
    the others. Only pairs count: one network alone has no penalty. Statistics of batch normalisation and other buffers
    are not penalised.

    The networks start alike. Each loss reaches its own task's network only, and no parameter is shared: methods that
    balance gradients find nothing to weigh, and the penalty is not among the tasks that they weigh.

    For few tasks, loosely related, that should be able to differ everywhere; it costs a network for each task.

    Args:
        penalty: What is penalised; see above.
        strength: What multiplies the penalty; 0: separate networks.
        between: The stages that are drawn together, `all` or a list of names or numbers (1 is the first, -1 the last).

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        penalty: Measure = "l2",
        *,
        strength: float = 0.3,
        between: Literal["all"] | Sequence[str | int] = "all",
    ) -> None:
        one_of(MEASURES, penalty=penalty)
        if not (math.isfinite(strength) and strength >= 0):
            raise UserError(f"'strength' must be a number, 0 or more, but {strength} was given.")
        if between != "all" and (isinstance(between, str) or not between):
            raise UserError(f"'between' must be 'all', or a list with one or more stages, but {between!r} was given.")
        self.penalty: Measure = penalty
        self.strength = strength
        self.between = between

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> SoftTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        names = encoder.stage_names
        with at_key("soft: between"):
            places = range(len(names)) if self.between == "all" else [stage_place(s, names) for s in self.between]
        return SoftTrunk(name, encoder, tasks, [names[place] for place in sorted(set(places))], self)


class SoftTrunk(TreeTrunk):
    """A network for each task, with a penalty on the differences.

    Args:
        name: The input.
        encoder: What each task has its own of.
        tasks: All tasks.
        between: The stages that are drawn together.
        scheme: The penalty and its strength.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], between: Sequence[str], scheme: Soft) -> None:
        super().__init__(name, encoder, tasks, [[[task] for task in tasks]] * len(encoder.stage_names))
        self._between = tuple(between)
        self._measure: Measure = scheme.penalty
        self._strength = scheme.strength

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. The penalty is on all networks, whatever tasks are wanted."""
        found = super().forward(inputs, tasks, rows)
        if not self.training or len(self.tasks) == 1 or self._strength == 0:
            return found
        parts = [separation(networks, self._measure) for networks in self._networks(learning=True)]
        if not parts:
            return found
        return TrunkOutput(found.features, {f"soft_{self._measure}": self._strength * torch.stack(parts).sum()})

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`: how far apart two networks are over the stages drawn together, by their mean length."""
        if len(self.tasks) == 1:
            return {}
        found = [distances(networks) for networks in self._networks(learning=False)]
        if not found:
            return {}
        squares, lengths = (torch.stack(each).sum(0) for each in zip(*found, strict=True))
        relative = (squares / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)).sqrt()
        return {"distance": LearnedTable(relative, self.tasks, self.tasks)}

    def _networks(self, *, learning: bool) -> list[list[list[nn.Parameter]]]:
        """For each stage that is drawn together, each task's parameters; stages without any are left out.

        Args:
            learning: Leave out parameters that learn in no network: a frozen stage is not penalised.
        """
        found = []
        for name in self._between:
            slots = zip(*(stage.parameters() for stage in self.levels[name].values()), strict=True)
            kept = [slot for slot in slots if not learning or any(parameter.requires_grad for parameter in slot)]
            if kept:
                found.append([list(network) for network in zip(*kept, strict=True)])
        return found
