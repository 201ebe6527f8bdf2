"""A hypernetwork: adapters of a shared trunk, generated from what the tasks are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.conditioned import ConditionedTrunk, SomeStages, check_some_stages, chosen_stages
from polytask.sharing.sharing import LearnedTable, Part, Sharing, only_encoder


class Hypernetwork(Sharing):
    """Adapters whose weights a shared hypernetwork generates from a learned embedding of each task.

    Ha, Dai and Le, "HyperNetworks", ICLR 2017; for tasks and adapters: Mahabadi, Ruder, Dehghani and Henderson,
    "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks", ACL 2021 (HyperFormer++).
    Task k has an embedding `z_k`, stage l an embedding `e_l`, both learned; behind stage l, with features h,

        I_kl = LN(W_2 relu(W_1 [z_k ; e_l] + b_1) + b_2)
        (D, d, U, u) = G I_kl + g
        h <- h + U gelu(D h + d) + u                                    at each position

    where D maps to `bottleneck` numbers and U back. `W` and `b` are one for all; so are `G` and `g` for all stages of
    the same width. A task owns nothing but `z_k`: for K tasks parameters grow by `embedding` each, and what one task
    learns of how to adapt the trunk is there for those like it.

    Different from the paper: adapters are behind whole stages, not inside transformer blocks, so that any encoder will
    do, and there is one generator for each width. The layer normalisation with which the paper's adapters end, its
    weights generated too, is left out: it makes what an adapter adds equally large for all rows, which suits the wide
    tokens of a language model, but on narrow features takes away much of what an adapter can say. `G` and `g` start at
    0 for U and u, so that the start is exactly hard sharing, and for D such that it has the variance 1 / width (Chang,
    Flokas and Lipson, "Principled Weight Initialization for Hypernetworks", ICLR 2020); in the official code all
    generated weights start near 0.

    The cost: the generators have about `2 width bottleneck embedding` parameters for each width, whatever the number of
    tasks, so that wide stages ask for a small bottleneck; and, as the tasks' features differ behind the first adapter,
    the stages after it run once for each task, on its own rows. In training, batch normalisation there sees the rows
    of one task at a time, and its running statistics mix those of all tasks.

    It suits many related tasks, each with little data.

    Args:
        embedding: The size of a task's and of a stage's embedding, and of what the adapters are generated from, 2 or
            more.
        hidden: Number of units of the hypernetwork's hidden layer.
        bottleneck: The width inside the adapters.
        after: The stages, by name, that have an adapter behind them; or `"all"`.

    Raises:
        UserError: A size is too small, or `after` names no stage.
    """

    def __init__(
        self,
        embedding: int = 16,
        hidden: int = 64,
        bottleneck: int = 8,
        after: Literal["all"] | Sequence[str] = "all",
    ) -> None:
        # Of a single number, the normalisation in the hypernetwork would leave nothing.
        for name, size, least in (("embedding", embedding, 2), ("hidden", hidden, 1), ("bottleneck", bottleneck, 1)):
            if size < least:
                raise UserError(f"hypernetwork: {name} is {size}, but must be at least {least}.")
        check_some_stages("hypernetwork", "after", after)
        self.embedding = embedding
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.after: SomeStages = after

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> HypernetworkTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        after = chosen_stages(encoder, self.after)
        shapes = {stage: encoder.stages[stage].shape for stage in after}
        generator = AdapterGenerator(shapes, self.embedding, self.hidden, self.bottleneck)
        return HypernetworkTrunk(name, encoder, tasks, after, generator)


class Embedding(nn.Module):
    """One learned vector.

    Args:
        size: Its length.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(size))


class AdapterGenerator(nn.Module):
    """From a task's embedding to its adapter behind a stage.

    Args:
        shapes: Of the features behind the stages that have adapters, by the stages' names.
        embedding: The size of the embeddings.
        hidden: Number of units of the hidden layer.
        bottleneck: The width inside the adapters.
    """

    def __init__(self, shapes: Mapping[str, FeatureShape], embedding: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self._shapes = dict(shapes)
        self._bottleneck = bottleneck
        self.stages = NamedModules({stage: Embedding(embedding) for stage in shapes})
        self.mix = nn.Sequential(
            nn.Linear(2 * embedding, hidden), nn.ReLU(), nn.Linear(hidden, embedding), nn.LayerNorm(embedding)
        )
        widths = sorted({shape.width for shape in shapes.values()})
        self.weights = NamedModules({str(width): self._generator(embedding, width) for width in widths})

    def _generator(self, embedding: int, width: int) -> nn.Linear:
        generator = nn.Linear(embedding, sum(self._sizes(width)))
        nn.init.zeros_(generator.weight)
        nn.init.zeros_(generator.bias)
        # What the generator reads has mean square 1 in each entry.
        nn.init.normal_(generator.weight.detach()[: self._bottleneck * width], std=(width * embedding) ** -0.5)
        return generator

    def _sizes(self, width: int) -> list[int]:
        """How many numbers D, d, U and u have."""
        return [self._bottleneck * width, self._bottleneck, width * self._bottleneck, width]

    def forward(self, task: Tensor, stage: str, values: Tensor) -> Tensor:
        """Features behind a stage, adapted to the task with this embedding."""
        shape = self._shapes[stage]
        width = shape.width
        # As a batch of one row: balancers know layers by their rows.
        read = self.mix(torch.cat([task, self.stages[stage].vector]).unsqueeze(0))
        made = self.weights[str(width)](read).squeeze(0)
        down, down_bias, up, up_bias = torch.split(made, self._sizes(width))
        inner = values.movedim(1, -1) if shape.kind == "map" else values
        inner = F.gelu(F.linear(inner, down.view(-1, width), down_bias))
        inner = F.linear(inner, up.view(width, -1), up_bias)
        return values + (inner.movedim(-1, 1) if shape.kind == "map" else inner)


class HypernetworkTrunk(ConditionedTrunk):
    """A shared encoder with generated adapters.

    Args:
        name: The input.
        encoder: Its stages are shared.
        tasks: All tasks.
        after: The stages that have an adapter behind them, in order.
        generator: Generates it.
    """

    def __init__(
        self, name: str, encoder: Encoder, tasks: Sequence[str], after: Sequence[str], generator: AdapterGenerator
    ) -> None:
        super().__init__(name, encoder, tasks, encoder.depth_of(after[0]))
        self._after = frozenset(after)
        self.generator = generator
        size = next(iter(generator.stages.values())).vector.numel()
        self.embeddings = NamedModules({task: Embedding(size) for task in self.tasks})

    def adapt(self, task: str, stage: str, features: Features) -> Features:
        """See `ConditionedTrunk.adapt`."""
        if stage not in self._after:
            return features
        return features._replace(values=self.generator(self.embeddings[task].vector, stage, features.values))

    def parts(self) -> list[Part]:
        """See `Trunk.parts`."""
        found = [Part(stage, self.tasks, module, depth) for depth, (stage, module) in enumerate(self.shared.items())]
        found.append(Part("hypernetwork", self.tasks, self.generator))
        return found + [Part("task embedding", (task,), vector) for task, vector in self.embeddings.items()]

    def learned(self) -> dict[str, LearnedTable]:
        """How alike the tasks' embeddings are: their cosines."""
        vectors = F.normalize(torch.stack([each.vector.detach() for each in self.embeddings.values()]), dim=1)
        return {"task_similarity": LearnedTable(vectors @ vectors.T, self.tasks, self.tasks)}
