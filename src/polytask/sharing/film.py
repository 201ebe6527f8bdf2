"""Feature-wise linear modulation: each task scales and shifts the channels of a shared trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.modules import NamedModules
from polytask.sharing.conditioned import ConditionedTrunk, SomeStages, check_some_stages, chosen_stages
from polytask.sharing.sharing import LearnedTable, Part, Sharing, only_encoder


class FiLM(Sharing):
    """Feature-wise linear modulation (FiLM) by task.

    Perez, Strub, de Vries, Dumoulin and Courville, "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI
    2018. One trunk for all tasks; behind each chosen stage, task k scales and shifts every channel c of its features,

        h_c <- γ_kc h_c + β_kc,    γ_kc = 1 + Δγ_kc,

    the same at all positions. `Δγ` and `β` start at 0, so that the start is hard sharing; weight decay
    draws there with the optimiser's `decay_all`.

    In the paper a network computes γ and β from a question. Here the condition is which task it is, one of K, of which
    any such network makes a table with K rows: these are the parameters, 2 for each task and channel. In the paper the
    modulation is inside residual blocks, between normalisation and ReLU; here it is behind whole stages, so that any
    encoder will do.

    The cost: behind the first modulated stage the tasks' features differ, so the stages after it run once for each
    task, on the task's own rows; all stages before it run once. In training, batch normalisation then sees the batch of
    one task at a time, and its running statistics, used in evaluation, mix those of all tasks: where the tasks' rows
    come from different sources, `task_norm` or an encoder with another normalisation is safer. The later the first
    modulated stage, the cheaper: `after` with the last stages alone costs little more than hard sharing.

    It suits many tasks that want the same computation on different features, and leaves a task few parameters to
    overfit with.

    Args:
        after: The stages, by name, whose output is modulated; or `"all"`.

    Raises:
        UserError: `after` names no stage.
    """

    def __init__(self, after: Literal["all"] | Sequence[str] = "all") -> None:
        check_some_stages("film", "after", after)
        self.after: SomeStages = after

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> FiLMTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        return FiLMTrunk(name, encoder, tasks, chosen_stages(encoder, self.after))


class Modulation(nn.Module):
    """`(1 + scale) h + shift` at each channel, the identity at first.

    Args:
        shape: The features.
    """

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(shape.width))
        self.shift = nn.Parameter(torch.zeros(shape.width))
        self._positions = (1, 1) if shape.kind == "map" else ()

    def forward(self, values: Tensor) -> Tensor:
        """Features of the shape to such features."""
        scale, shift = (each.view(-1, *self._positions) for each in (1 + self.scale, self.shift))
        return torch.addcmul(shift, values, scale)


class FiLMTrunk(ConditionedTrunk):
    """A shared encoder, modulated by task.

    Args:
        name: The input.
        encoder: Its stages are shared.
        tasks: All tasks.
        after: The stages behind which features are modulated, in order.
    """

    def __init__(self, name: str, encoder: Encoder, tasks: Sequence[str], after: Sequence[str]) -> None:
        super().__init__(name, encoder, tasks, encoder.depth_of(after[0]))
        self.modulations = NamedModules(
            {
                stage: NamedModules({task: Modulation(encoder.stages[stage].shape) for task in self.tasks})
                for stage in after
            }
        )

    def adapt(self, task: str, stage: str, features: Features) -> Features:
        """See `ConditionedTrunk.adapt`."""
        if stage not in self.modulations:
            return features
        return features._replace(values=self.modulations[stage][task](features.values))

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = []
        for depth, (stage, module) in enumerate(self.shared.items()):
            found.append(Part(stage, self.tasks, module, depth))
            if stage in self.modulations:
                by_task = self.modulations[stage].items()
                found += [Part(f"modulation behind {stage}", (task,), modulation) for task, modulation in by_task]
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """How far the tasks are from hard sharing: the root mean square of `γ - 1` and of `β` behind each stage."""
        columns = tuple(self.modulations)
        return {
            kind: LearnedTable(
                torch.stack(
                    [
                        torch.stack([_size(getattr(self.modulations[stage][task], kind)) for stage in columns])
                        for task in self.tasks
                    ]
                ),
                self.tasks,
                columns,
            )
            for kind in ("scale", "shift")
        }


def _size(values: Tensor) -> Tensor:
    return values.detach().square().mean().sqrt()
