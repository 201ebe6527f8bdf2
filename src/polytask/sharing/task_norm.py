"""Task-specific normalisation: one network, but each task normalises in its own way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from polytask.encoders import Encoder, Features, Stage
from polytask.errors import UserError, listing
from polytask.modules import NamedModules
from polytask.sharing.conditioned import ConditionedTrunk, SomeStages, check_some_stages, chosen_stages
from polytask.sharing.copies import copies
from polytask.sharing.sharing import Part, Sharing, only_encoder

M = TypeVar("M", bound=nn.Module)


class TaskNorm(Sharing):
    """Normalisation layers for each task, all other weights in common.

    Chang, You, Seo, Kwak and Han, "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR 2019;
    for tasks on one trunk: Mudrakarta, Sandler, Zhmoginov and Howard, "K for the Price of 1: Parameter-efficient
    Multi-task and Transfer Learning", ICLR 2019. With task k, each normalisation layer computes

        norm_k(h) = γ_k (h - μ_k) / sqrt(σ²_k + ε) + β_k

    with the task's own γ and β, and, in batch normalisation, with the mean and variance of the task's own rows in
    training and the task's own running statistics in evaluation. That holds for batch, layer, group, instance and
    root-mean-square normalisation, also those that timm and transformers write for themselves. All start as the
    encoder's own layers are, so that a pretrained encoder stays what it was.

    In the first paper the domain of an input chooses the layer. Here the task does: where each task has rows of its
    own source, as in multi-domain data, it is the same.

    The cost: from the first stage with a normalisation on, the stages run once for each task, on its own rows; the few
    stages before it run once for all. Parameters grow by a percent or so for each task.

    It suits tasks whose inputs come from different sources, where statistics in common fit none of them, and large
    pretrained networks.

    Args:
        within: The stages, by name, whose normalisation layers become the tasks' own; or `"all"`. Later stages alone
            are cheaper, since the stages before them run once for all tasks.

    Raises:
        UserError: `within` names no stage.
    """

    def __init__(self, within: Literal["all"] | Sequence[str] = "all") -> None:
        check_some_stages("task_norm", "within", within)
        self.within: SomeStages = within

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> TaskNormTrunk:
        """See `Sharing.build`.

        Raises:
            UserError: There is no normalisation layer where some were asked for.
        """
        name, encoder = only_encoder(encoders)
        stages = chosen_stages(encoder, self.within)
        found = {stage: _normalisations(encoder.stages[stage]) for stage in stages}
        if not any(found.values()):
            where = "" if self.within == "all" else f" in {listing(stages)}"
            raise UserError(
                f"task_norm: the encoder {type(encoder).__name__} has no normalisation layer{where} that tasks could "
                "have for themselves. Choose an encoder with normalisation (tabular_resnet or ft_transformer for "
                "tables, cnn or resnet for images, transformer for texts), or another sharing scheme, such as film."
            )
        bare = [stage for stage, places in found.items() if not places]
        if bare and self.within != "all":
            raise UserError(
                f"task_norm: 'within' names {listing(bare)}, but the encoder {type(encoder).__name__} has no "
                f"normalisation layer there. Stages that have: "
                f"{listing(stage for stage, module in encoder.stages.items() if _normalisations(module))}."
            )
        return TaskNormTrunk(name, encoder, tasks, {stage: places for stage, places in found.items() if places})


class TaskNormTrunk(ConditionedTrunk):
    """A shared encoder without its normalisation layers, and a set of these for each task.

    A stage runs for a task as a view of it, made for this call: the same modules, with the task's layers in the places
    of the missing ones. So nothing is switched over that another thread, or the recomputation of a checkpointed stage
    in the backward pass, could find in the wrong position.

    Args:
        name: The input.
        encoder: Its stages are shared; their normalisation layers are taken out.
        tasks: All tasks.
        places: For each stage that has normalisation layers, the paths at which each of them is.
    """

    def __init__(
        self, name: str, encoder: Encoder, tasks: Sequence[str], places: Mapping[str, Sequence[Sequence[str]]]
    ) -> None:
        super().__init__(name, encoder, tasks, encoder.stage_names.index(next(iter(places))))
        self._places = places
        norms: dict[str, NamedModules[nn.ModuleList]] = {}
        for stage, layers in places.items():
            module = encoder.stages[stage]
            taken = nn.ModuleList([module.get_submodule(paths[0]) for paths in layers])
            norms[stage] = NamedModules(dict(zip(self.tasks, copies(taken, len(self.tasks), fresh=False), strict=True)))
            for paths in layers:
                for path in paths:
                    module.set_submodule(path, nn.Identity())
        self.norms = NamedModules(norms)

    def run(self, task: str, stage: str, features: Any) -> Features:
        """See `ConditionedTrunk.run`."""
        module: Stage = self.shared[stage]
        if stage in self.norms:
            layers = zip(self._places[stage], self.norms[stage][task], strict=True)
            module = with_modules(module, {path: layer for paths, layer in layers for path in paths})
        found: Features = module(features)
        return found

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = []
        for depth, (stage, module) in enumerate(self.shared.items()):
            found.append(Part(stage, self.tasks, module, depth))
            if stage in self.norms:
                title = f"normalisation in {stage}"
                found += [Part(title, (task,), norms, depth) for task, norms in self.norms[stage].items()]
        return found


def with_modules(module: M, others: Mapping[str, nn.Module]) -> M:
    """The same module with others at some paths.

    Only the modules on the way to these places are copied, and of them no more than the mapping of their children: all
    parameters, buffers, hooks and settings are the module's own.

    Args:
        module: Is left as it is.
        others: What stands at which path.
    """
    below: dict[str, dict[str, nn.Module]] = {}
    children = dict(module._modules)
    for path, other in others.items():
        child, _, rest = path.partition(".")
        if rest:
            below.setdefault(child, {})[rest] = other
        else:
            children[child] = other
    for child, inner in below.items():
        original = children[child]
        assert original is not None
        children[child] = with_modules(original, inner)
    view = copy.copy(module)
    view.__dict__["_modules"] = children
    return view


def _normalisations(stage: nn.Module) -> list[list[str]]:
    """The normalisation layers in a stage, each by the paths at which it is."""
    found: dict[nn.Module, list[str]] = {}
    for path, module in stage.named_modules(remove_duplicate=False):
        if path and _is_normalisation(module):
            found.setdefault(module, []).append(path)
    return [*found.values()]


def _is_normalisation(module: nn.Module) -> bool:
    """Whether it is a normalisation layer with anything of its own: parameters or running statistics."""
    own = [*module.parameters(), *module.buffers()]
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return bool(own)
    # Those of other libraries: no more than numbers for each channel, and "Norm" in their names.
    parameters = [*module.parameters(recurse=False)]
    named = "norm" in type(module).__name__.lower()
    return named and not module._modules and bool(parameters) and all(each.ndim == 1 for each in parameters)
