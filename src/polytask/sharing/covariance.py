"""Task covariance: how the tasks' weights are related is learned, and pulls them together accordingly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder
from polytask.encoders.limits import one_of
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.sharing import LearnedTable, Sharing, TrunkOutput, only_encoder
from polytask.sharing.task_covariance import TaskCovariance, groups_of
from polytask.sharing.tree import TreeTrunk

Relate = Literal["heads", "stages", "both"]


class Covariance(Sharing):
    """Hard sharing, with a learned covariance of the tasks' own weights.

    Multi-task relationship learning: Zhang and Yeung, "A Convex Formulation for Learning Task Relationships in
    Multi-Task Learning", UAI 2010; for the layers of a deep network Long, Cao, Wang and Yu, "Learning Multiple Tasks
    with Multilinear Relationship Networks", NeurIPS 2017. The first stages are shared. For a layer that each task has
    of its own, `W = [vec theta_1, ..., vec theta_K]` are the tasks' weights, and the losses get

        strength * tr(W Ω^-1 W^T),    Ω = A^(1/2) / tr(A^(1/2)),    A = W^T W + ridge * tr(W^T W) / K * I

    Ω is the covariance of the tasks for which the penalty is least (with trace 1, and but for the ridge); it is made
    new from the weights before each step, and the step takes it as a constant. Tasks that turn out alike pull their
    weights together, those that turn out opposite pull them apart, and unrelated ones leave each other alone. What is
    reported is Ω as correlations.

    The layers are the last linear layers of the heads (`relate: heads`). Heads of different shapes cannot be compared:
    tasks of equal head shape form groups, each with an Ω, and a task that is alone in its group is left alone.
    Correlations mean most for linear heads on shared features, where the k-th weight says the same of each task; for
    classes, class c of one task is set beside class c of the other. `stages` relates the stages after `share_until`,
    each with an Ω of its own, whatever the heads are. These start alike, and behind heads that differ their
    correlations say little about the tasks: there it is rather a penalty that keeps the stages few-dimensional. The
    weights are matrices and kernels; biases, and the scales and shifts of normalisation, are left out.

    Zhang and Yeung alternate until both have converged; here a step of one follows a step of the other. They have a
    penalty on the length of W besides, which is `weight_decay` here. The ridge is that of Argyriou, Evgeniou and Pontil
    ("Convex multi-task feature learning", Machine Learning 73, 2008). MRN has covariances of a layer's inputs and
    outputs as well, fitted by maximum likelihood, and takes the last layer alone in its code; here there is the tasks'
    covariance alone, in Zhang and Yeung's closed form.

    For many tasks with few rows each, of which some are related and others not, or the other way round.

    Args:
        share_until: The last shared stage, by name, or the number of shared stages (negative: counted from the end);
            None shares the whole encoder.
        relate: What of the tasks is related: `heads`, the stages of their own (`stages`), or `both`.
        strength: What multiplies the penalty; 0: none, and Ω is only reported.
        ridge: What keeps Ω from being singular.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        share_until: str | int | None = None,
        *,
        relate: Relate = "heads",
        strength: float = 0.03,
        ridge: float = 0.0001,
    ) -> None:
        one_of(get_args(Relate), relate=relate)
        if not (math.isfinite(strength) and strength >= 0):
            raise UserError(f"'strength' must be a number, 0 or more, but {strength} was given.")
        if not (math.isfinite(ridge) and ridge > 0):
            raise UserError(f"'ridge' must be a number above 0, but {ridge} was given.")
        self.share_until = share_until
        self.relate: Relate = relate
        self.strength = strength
        self.ridge = ridge

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> CovarianceTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        shared = encoder.depth_of(self.share_until)
        own = list(encoder.stage_names[shared:])
        related = [stage for stage in own if _matrices(encoder.stages[stage])] if self.relate != "heads" else []
        if self.relate == "stages" and not related:
            raise UserError(
                f"covariance: 'relate: stages' needs stages that each task has of its own, with weights, but of "
                f"{type(encoder).__name__}'s stages {listing(encoder.stage_names, limit=60)} there are "
                f"{f'only {listing(own)}' if own else 'none'} after 'share_until'. Share fewer stages, or relate heads."
            )
        return CovarianceTrunk(name, encoder, tasks, shared=shared, related=related, scheme=self)


class CovarianceTrunk(TreeTrunk):
    """Stages of all tasks, then stages of each, with a covariance for each layer that is related.

    Args:
        name: The input.
        encoder: Its stages are what the tasks share.
        tasks: All tasks.
        shared: The number of stages of all tasks.
        related: The stages of each task's own that are related.
        scheme: The parameters.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        shared: int,
        related: Sequence[str],
        scheme: Covariance,
    ) -> None:
        together, apart = [list(tasks)], [[task] for task in tasks]
        depths = range(len(encoder.stage_names))
        super().__init__(name, encoder, tasks, [together if depth < shared else apart for depth in depths])
        self._strength = scheme.strength
        self._heads = scheme.relate != "stages"
        self._alone = scheme.relate == "heads"
        self.covariances = NamedModules({stage: TaskCovariance(len(tasks), scheme.ridge) for stage in related})
        self.head_covariance = TaskCovariance(len(tasks), scheme.ridge) if self._heads else None

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. The penalty is on all tasks' stages, whatever tasks are wanted."""
        found = super().forward(inputs, tasks, rows)
        if not self.training or not len(self.covariances):
            return found
        penalties = [
            covariance.penalty([_matrices(self.levels[stage][task]) for task in self.tasks])
            for stage, covariance in self.covariances.items()
        ]
        return TrunkOutput(found.features, {"stage_covariance": self._strength * torch.stack(penalties).sum()})

    def head_penalties(self, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """See `Trunk.head_penalties`.

        Raises:
            UserError: No two heads can be compared, and nothing else is related.
        """
        if self.head_covariance is None:
            return {}
        weights = [_last_layer(heads[task]) for task in self.tasks]
        groups = groups_of(weights)
        if self._alone and len(self.tasks) > 1 and not any(len(group) > 1 for group in groups):
            shapes = [f"{task}: {_shape_text(tensors)}" for task, tensors in zip(self.tasks, weights, strict=True)]
            raise UserError(
                "covariance relates tasks whose heads' last linear layers have the same shape, but no two of them do "
                f"({', '.join(shapes[:12])}). Relate stages of the tasks' own instead (relate: stages, with a "
                "share_until before the last stage that has weights), or choose another scheme."
            )
        if not groups:
            return {}
        return {"head_covariance": self._strength * self.head_covariance.penalty(weights)}

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`: Ω as correlations of the tasks, for each layer that is related."""
        found = {}
        if self.head_covariance is not None:
            found["task correlations of heads"] = self.head_covariance
        for stage, covariance in self.covariances.items():
            found[f"task correlations of {stage}"] = covariance
        return {
            name: LearnedTable(covariance.correlations(), self.tasks, self.tasks) for name, covariance in found.items()
        }


def _matrices(module: nn.Module) -> list[Tensor]:
    """Weight matrices and kernels: what is not a vector of biases, scales or shifts."""
    return [parameter for parameter in module.parameters() if parameter.ndim > 1]


def _last_layer(head: nn.Module) -> list[Tensor]:
    """The weight of a head's last linear layer; nothing where it has none."""
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    return [layers[-1].weight] if layers else []


def _shape_text(tensors: Sequence[Tensor]) -> str:
    return " x ".join(map(str, tensors[0].shape)) if tensors else "no linear layer"
