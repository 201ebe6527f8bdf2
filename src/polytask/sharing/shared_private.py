"""A shared encoder and a private one for each task, side by side."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from polytask.encoders import Encoder, FeatureShape, Stage
from polytask.encoders.limits import at_least, one_of
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.copies import copies
from polytask.sharing.discriminator import Adversary, Schedule
from polytask.sharing.mixing import pooled
from polytask.sharing.sharing import EncoderTrunk, LearnedTable, Part, Sharing, TrunkOutput, only_encoder, select_rows

logger = logging.getLogger("polytask")

Form = Literal["normalized", "raw"]


class SharedPrivate(Sharing):
    """A shared encoder whose features an adversary keeps free of what tells the tasks apart, and private encoders.

    Task k sees `f_k = [s(x); p_k(x)]`.

    Args:
        strength: λ, what multiplies the adversary's gradient where it enters the shared encoder. The discriminator's
            own learning does not depend on it.
        schedule: `constant`, or `dann`: λ is multiplied by `2 / (1 + exp(-10 p)) - 1`, with p from 0 to 1 the part of
            the training that is done, so that a discriminator that knows nothing yet does not disturb.
        orthogonality: γ of the penalty `γ sum_k ‖S_kᵀ P_k‖²_F`, where S_k and P_k hold the shared and the private
            features of the n_k rows labelled for task k; 0 leaves it out.
        orthogonality_form: `raw` takes the features as they are: a sum over pairs of rows, which grows with n_k² and
            with the features' scale. `normalized` scales each row of S_k and P_k to length 1 and divides by
            n_k², so that a task's penalty is from 0 to γ.
        private: Whether the tasks have private encoders. Without, `f_k = s(x)`: all share one encoder.
        private_until: The last stage of the private encoders, by name, or their number of stages (negative: counted
            from the end), for private encoders smaller than the shared one; the mean over positions of what this stage
            gives is then the private features. `None`: whole encoders.
        common_until: The last stage, by name or number, that the private encoders have in common with the shared one:
            with a text's embedding there is one table of word vectors for all. 0: none.
        discriminator_layers: Number of the discriminator's hidden layers, as wide as the shared features; 0: it is
            linear.

    Raises:
        UserError: A parameter is out of its limits, or nothing is left of the private encoders.
    """

    def __init__(
        self,
        *,
        strength: float = 0.05,
        schedule: Schedule = "constant",
        orthogonality: float = 0.0,
        orthogonality_form: Form = "normalized",
        private: bool = True,
        private_until: str | int | None = None,
        common_until: str | int = 0,
        discriminator_layers: int = 0,
    ) -> None:
        for parameter, value in {"strength": strength, "orthogonality": orthogonality}.items():
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"'{parameter}' must be a number, 0 or more, but {value} was given.")
        one_of(get_args(Schedule), schedule=schedule)
        one_of(get_args(Form), orthogonality_form=orthogonality_form)
        at_least(0, discriminator_layers=discriminator_layers)
        if not private and (private_until is not None or common_until != 0):
            raise UserError(
                "'private_until' and 'common_until' describe private encoders, but 'private' is false. "
                "Leave them out, or set private: true."
            )
        self.strength = strength
        self.schedule = schedule
        self.orthogonality = orthogonality
        self.orthogonality_form = orthogonality_form
        self.private = private
        self.private_until = private_until
        self.common_until = common_until
        self.discriminator_layers = discriminator_layers

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> SharedPrivateTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        common, until = encoder.depth_of(self.common_until), encoder.depth_of(self.private_until)
        private: dict[str, dict[str, Stage]] = {}
        if self.private:
            if common >= until:
                raise UserError(
                    f"Nothing is left of the private encoders: they end with stage {until}, and the first {common} "
                    "stages are the shared encoder's. Set 'common_until' to an earlier stage or 'private_until' to a "
                    "later one, or private: false."
                )
            private = {task: {} for task in tasks}
            for stage in encoder.stage_names[common:until]:
                made = copies(encoder.stages[stage], len(tasks) + 1, fresh=not encoder.pretrained)
                for task, own in zip(tasks, made[1:], strict=True):
                    private[task][stage] = own
        # One task alone can be confused with no other.
        adversary = self.adversary(tasks, encoder.shape.width) if len(tasks) > 1 else None
        return SharedPrivateTrunk(
            name,
            encoder,
            tasks,
            private=private,
            common=common,
            adversary=adversary,
            orthogonality=(self.orthogonality, self.orthogonality_form),
        )

    @abstractmethod
    def adversary(self, tasks: Sequence[str], width: int) -> Adversary:
        """What keeps the shared features, `width` of them, from telling these tasks apart."""


class SharedPrivateTrunk(EncoderTrunk):
    """A shared encoder and a private one for each task, or parts of one.

    Args:
        name: The input.
        encoder: The shared encoder.
        tasks: All tasks.
        private: The stages of each task's private encoder, by task and by name; empty: there are none.
        common: How many of the shared encoder's stages the private ones stand upon.
        adversary: Watches the shared features.
        orthogonality: What multiplies the penalty on what shared and private features have in common, and its form.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tasks: Sequence[str],
        *,
        private: Mapping[str, Mapping[str, Stage]],
        common: int,
        adversary: Adversary | None,
        orthogonality: tuple[float, Form],
    ) -> None:
        ends = [list(stages.values())[-1] for stages in private.values()]
        width = encoder.shape.width + (ends[0].shape.width if ends else 0)
        super().__init__(name, encoder, tasks, FeatureShape("vector", width))
        self._common = common
        self._orthogonality = orthogonality
        self._warned = False
        self.shared = encoder.stages
        self.private = NamedModules({task: NamedModules(stages) for task, stages in private.items()})
        self.adversary = adversary
        self.tells_tasks_by_rows = adversary is not None

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. The shared encoder sees all rows; a private one, its task's."""
        features, rows = self.rows_of_only_task(inputs[self.input], rows)
        common = features
        for depth, stage in enumerate(self.shared.values(), start=1):
            features = stage(features)
            if depth == self._common:
                common = features
        shared = {task: select_rows(features, rows.get(task)) for task in tasks}
        private = {task: self._own(task, select_rows(common, rows.get(task))) for task in tasks if task in self.private}
        found = {
            task: each._replace(values=torch.cat([each.values, private[task]], dim=1)) if task in private else each
            for task, each in shared.items()
        }
        if not self.training:
            return TrunkOutput(found)
        alike = len(tasks) == len(self.tasks) and all(rows.get(task) is None for task in tasks)
        return TrunkOutput(found, self._penalties({task: each.values for task, each in shared.items()}, private, alike))

    def _own(self, task: str, features: Any) -> Tensor:
        for stage in self.private[task].values():
            features = stage(features)
        return pooled(features)

    def _penalties(self, shared: Mapping[str, Tensor], private: Mapping[str, Tensor], alike: bool) -> dict[str, Tensor]:
        """What is added to the objective; `alike` says that the rows of every task are all rows."""
        penalties: dict[str, Tensor] = {}
        if self.adversary is not None:
            if not alike:
                penalties |= self.adversary(shared)
            elif not self._warned:
                self._warned = True
                logger.warning(
                    "model.sharing: every row is labelled for all tasks, so there is nothing for the adversary to tell "
                    "apart. In steps like this one it takes no part."
                )
        strength, form = self._orthogonality
        if strength and private:
            total = alignment(((shared[task], own) for task, own in private.items()), form)
            penalties["orthogonality"] = strength * total
        return penalties

    def parts(self) -> list[Part]:
        """See `Trunk.parts`. No task's features depend on the discriminator."""
        found = []
        divided = False
        for depth, name in enumerate(self.shared):
            own = {task: stages[name] for task, stages in self.private.items() if name in stages}
            divided = divided or bool(own)
            found.append(Part(name, self.tasks, self.shared[name], depth, "shared" if divided else ""))
            found += [Part(f"private {name}", (task,), stage, depth, f"of {task}") for task, stage in own.items()]
        if self.adversary is not None:
            found.append(Part("discriminator", (), self.adversary.discriminator))
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`."""
        return {} if self.adversary is None else self.adversary.learned()

    def set_progress(self, progress: float) -> None:
        """See `Trunk.set_progress`."""
        if self.adversary is not None:
            self.adversary.set_progress(progress)


def alignment(pairs: Iterable[tuple[Tensor, Tensor]], form: Form) -> Tensor:
    """`sum ‖SᵀP‖²_F` over pairs of features S `[N, D]` and P `[N, E]` of the same rows; see `SharedPrivate`.

    It is computed in float32 at least: half precision ends at 65504, which such a sum soon exceeds.
    """
    values = []
    for shared, private in pairs:
        with torch.autocast(shared.device.type, enabled=False):
            precision = torch.promote_types(torch.promote_types(shared.dtype, private.dtype), torch.float32)
            both = [features.to(precision) for features in (shared, private)]
            if form == "normalized":
                # The limit keeps gradients finite where features vanish.
                both = [F.normalize(features, dim=1, eps=1e-3) / len(features) ** 0.5 for features in both]
            values.append((both[0].T @ both[1]).square().sum())
    return torch.stack(values).sum()
