"""Adapters: small weights of each task's own, added to a network in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, Stage
from polytask.encoders.limits import at_least, dropout_rate, one_of
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.bitfit import Offset, biases
from polytask.sharing.bottleneck import Bottleneck
from polytask.sharing.conditioned import ConditionedTrunk
from polytask.sharing.film import Modulation
from polytask.sharing.lora import LowRank, low_rank_weights
from polytask.sharing.sharing import Part, Sharing, only_encoder
from polytask.sharing.stage_places import stage_place
from polytask.sharing.task_weights import TaskWeights

Kind = Literal["lora", "houlsby", "film", "bitfit"]


class Adapters(Sharing):
    """Task weights added to the shared network: one trunk for all tasks, and few weights of its own for each.

    - `lora`: each weight W of a linear, convolutional, recurrent or attention layer becomes
      `W_k = W + alpha / rank * B_k A_k` for task k, with A_k of `rank` rows and B_k of `rank` columns (Hu et al.,
      "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022). A starts at random, B at 0. `rank * (in +
      out)` parameters for each task and layer. The paper changes the attention's query and value maps only, but to
      come up to full fine-tuning it takes all linear maps (Dettmers et al., "QLoRA", NeurIPS 2023). A convolution's
      `in` is a window: channels times kernel, and all groups have A_k in common. Packed weights (query, key and value
      in one, a recurrent layer's gates) are one matrix.
    - `houlsby`: behind each stage, `h + W_up gelu(W_down h)` at each position, with `rank` units between (Houlsby et
      al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019). W_up starts at 0. `2 * rank * width + rank +
      width` parameters for each task and stage. The paper has two in each transformer layer, before the sums with the
      skip connections; here it is one behind every stage, so that any encoder will do.
    - `film`: behind each stage every feature is scaled and shifted, `(1 + gamma_k) h + beta_k` (Perez et al., "FiLM:
      Visual Reasoning with a General Conditioning Layer", AAAI 2018). Both start at 0. `2 * width` parameters.
    - `bitfit`: each bias b of a layer becomes `b + c_k` (Ben Zaken et al., "BitFit: Simple Parameter-efficient
      Fine-tuning for Transformer-based Masked Language-models", ACL 2022). c_k starts at 0. As many parameters as the
      biases have.

    So every kind starts as hard sharing, and weight decay draws the matrices of `lora` and `houlsby` there (vectors
    decay with the optimiser's `decay_all` alone). In the papers the trunk is pretrained and frozen, and the tasks are
    trained one by one; here they are trained together, and a trunk that is no pretrained one
    learns from all of them.

    A frozen trunk is also in evaluation mode: the statistics of its batch normalisation stay, and its dropout is off.
    In a trunk that learns, batch normalisation sees the rows of one task at a time from the first adapted stage on,
    and its running statistics mix those of all tasks.

    The cost: before the first adapted stage everything is computed once; from there on features differ, so that each
    task runs through the rest with its own rows.

    For a pretrained encoder with little data for each task; or for many alike tasks, each of which should be able to
    differ from the others a little everywhere.

    The library peft is not used. It has one adapter in force at a time, and choosing one takes the gradients of the
    others away, so that several tasks cannot learn in one step; it refuses task names such as `type`, recurrent
    layers, and most grouped convolutions; and PyTorch's own transformer layers compute something else in evaluation
    than in training with it.

    Args:
        kind: What is added; see above.
        rank: Of `lora`, and the width of `houlsby`.
        alpha: The change by `lora` is multiplied by alpha / rank.
        dropout: Probability of dropping a feature while training: one that enters A in `lora`, one of the units
            between in `houlsby`.
        trunk: Whether the encoder is `frozen` or `trained`; `auto`: frozen where it starts from pretrained weights.
        layers: The stages that are adapted: `all`, or a list of names or numbers (1 is the first, -1 the last).
        embeddings: Whether `lora` changes embedding tables, too: `rank * (entries + width)` parameters more for each
            task and table.

    Raises:
        UserError: A parameter is out of its limits, or does not go with `kind`.
    """

    def __init__(
        self,
        kind: Kind = "lora",
        rank: int = 8,
        *,
        alpha: float = 16.0,
        dropout: float = 0.0,
        trunk: Literal["auto", "frozen", "trained"] = "auto",
        layers: Literal["all"] | Sequence[str | int] = "all",
        embeddings: bool = False,
    ) -> None:
        one_of(("lora", "houlsby", "film", "bitfit"), kind=kind)
        one_of(("auto", "frozen", "trained"), trunk=trunk)
        at_least(1, rank=rank)
        dropout_rate(dropout=dropout)
        if not (math.isfinite(alpha) and alpha > 0):
            raise UserError(f"'alpha' must be a number above 0, but {alpha} was given.")
        if dropout and kind in ("film", "bitfit"):
            raise UserError(f"kind: {kind} has nothing to drop. Leave 'dropout' out, or choose kind: lora or houlsby.")
        if embeddings and kind != "lora":
            raise UserError(f"'embeddings' goes with kind: lora alone, but kind is {kind}. Leave it out.")
        if layers != "all" and (isinstance(layers, str) or not layers):
            raise UserError(f"'layers' must be 'all', or a list with one or more stages, but {layers!r} was given.")
        self.kind: Kind = kind
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.trunk = trunk
        self.layers = layers
        self.embeddings = embeddings

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> AdaptersTrunk:
        """See `Sharing.build`.

        Raises:
            UserError: There is nothing to adapt where it was asked for.
        """
        name, encoder = only_encoder(encoders)
        adapters = {}
        for stage in self._chosen(encoder):
            made = {task: self._adapter(encoder.stages[stage]) for task in tasks}
            if all(adapter is not None for adapter in made.values()):
                adapters[stage] = made
            elif self.layers != "all":
                raise self._nothing_in([stage], encoder)
        if not adapters:
            raise self._nothing_in(encoder.stage_names, encoder)
        frozen = encoder.pretrained if self.trunk == "auto" else self.trunk == "frozen"
        return AdaptersTrunk(name, encoder, tasks, self.kind, adapters, frozen=frozen)

    def _chosen(self, encoder: Encoder) -> tuple[str, ...]:
        names = encoder.stage_names
        if self.layers == "all":
            return names
        places = {stage_place(stage, names) for stage in self.layers}
        return tuple(name for place, name in enumerate(names) if place in places)

    def _adapter(self, stage: Stage) -> nn.Module | None:
        """New weights of one task for one stage; None where there is nothing to adapt."""
        if self.kind == "houlsby":
            return Bottleneck(stage.shape, self.rank, self.dropout)
        if self.kind == "film":
            return Modulation(stage.shape)
        if self.kind == "bitfit":
            offsets = {name: Offset(bias) for name, bias in biases(stage).items()}
            return TaskWeights(offsets) if offsets else None
        changes = {
            name: LowRank(weight, self.rank, self.alpha / self.rank, self.dropout)
            for name, weight in low_rank_weights(stage, embeddings=self.embeddings).items()
        }
        return TaskWeights(changes) if changes else None

    def _nothing_in(self, stages: Sequence[str], encoder: Encoder) -> UserError:
        what = "bias" if self.kind == "bitfit" else "linear, convolutional, recurrent or attention layer"
        tables = self.kind == "lora" and any(isinstance(module, nn.Embedding) for module in encoder.modules())
        return UserError(
            f"adapters: kind: {self.kind} has nothing to adapt in the encoder {type(encoder).__name__}: there is no "
            f"{what} in {listing(stages, limit=60)}. "
            + ("Say embeddings: true to adapt its embedding tables, or choose" if tables else "Choose")
            + " kind: houlsby or film, which go with any stage."
        )


class AdaptersTrunk(ConditionedTrunk):
    """A shared encoder with weights of each task's own added to it.

    Args:
        name: The input.
        encoder: Its stages are shared.
        tasks: All tasks.
        kind: What the adapters are.
        adapters: The adapters by stage, in order, and by task: `TaskWeights`, or modules behind the stage.
        frozen: Whether the encoder does not learn.
    """

    frozen: Tensor

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tasks: Sequence[str],
        kind: Kind,
        adapters: Mapping[str, Mapping[str, Any]],
        *,
        frozen: bool,
    ) -> None:
        behind = kind in ("houlsby", "film")
        super().__init__(name, encoder, tasks, encoder.stage_names.index(next(iter(adapters))) + behind)
        self.kind = kind
        self.adapters = NamedModules({stage: NamedModules(by_task) for stage, by_task in adapters.items()})
        self._behind = behind
        # The encoder is built without its pretrained weights to receive saved ones: the state knows what it was.
        self.register_buffer("frozen", torch.tensor(frozen))
        self._at_rest = False
        self._as_state_says()
        self.register_load_state_dict_post_hook(_as_state_says)  # type: ignore[no-untyped-call]

    def run(self, task: str, stage: str, features: Any) -> Features:
        """See `ConditionedTrunk.run`."""
        if self._behind or stage not in self.adapters:
            return super().run(task, stage, features)
        found: Features = self.adapters[stage][task](self.shared[stage], features)
        return found

    def adapt(self, task: str, stage: str, features: Features) -> Features:
        """See `ConditionedTrunk.adapt`."""
        if not self._behind or stage not in self.adapters:
            return features
        return features._replace(values=self.adapters[stage][task](features.values))

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = []
        for depth, (stage, module) in enumerate(self.shared.items()):
            found.append(Part(stage, self.tasks, _AtRest(module) if self._at_rest else module, depth))
            if stage in self.adapters:
                title = f"{self.kind} at {stage}"
                found += [Part(title, (task,), own) for task, own in self.adapters[stage].items()]
        return found

    def train(self, mode: bool = True) -> AdaptersTrunk:
        """Switch between training and evaluation; a frozen encoder stays in evaluation."""
        super().train(mode)
        for module in self.shared.modules() if self._at_rest else ():
            # Nothing but dropout depends on it in recurrent layers, yet cuDNN has no backward pass in evaluation.
            module.training = mode and isinstance(module, nn.RNNBase) and not module.dropout
        return self

    def _as_state_says(self) -> None:
        frozen = bool(self.frozen)
        if frozen != self._at_rest:
            self._at_rest = frozen
            self.shared.requires_grad_(not frozen)
            self.train(self.training)


def _as_state_says(trunk: nn.Module, keys: Any) -> None:  # noqa: ARG001
    assert isinstance(trunk, AdaptersTrunk)
    trunk._as_state_says()


class _AtRest(nn.Module):
    """A frozen stage, as seen by those who freeze and unfreeze stages: it stays as it is."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def train(self, mode: bool = True) -> _AtRest:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> _AtRest:
        return self
