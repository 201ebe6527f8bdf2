"""Learning to branch: a network of several nodes at each depth, each of which chooses its parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.encoders import Encoder, Features, Stage
from polytask.errors import UserError
from polytask.modules import NamedModules
from polytask.sharing.choices import Choices, Choosing, ChoosingTrunk, Drawing
from polytask.sharing.copies import copies
from polytask.sharing.rows import union_of, within
from polytask.sharing.sharing import LearnedTable, Part, TrunkOutput, only_encoder, select_rows


class LTB(Choosing):
    """Learning to branch.

    Guo, Lee and Ulbricht, "Learning to Branch for Multi-Task Learning", ICML 2020. Each stage of the encoder has
    several copies, the nodes `j = 1..N_l` of depth l. Node j reads what one node of the depth before it gives, and the
    head of task t reads one node of the last depth:

        h_j^{l+1} = f_j^{l+1}(sum_i d_ji h_i^l)        f_t = sum_i d_ti h_i^L
        d_j = one_hot(argmax_i (theta_ji + G_i)), with the gradient of softmax((theta_j + G) / temperature)

    G is Gumbel noise, drawn anew for each choice in each step, so weights and branching are learned together. In
    evaluation every node takes its likeliest parent, which leaves a tree: what no wanted task reaches is not computed.
    The tree is in `learned()`, and the trunk's `tree()` is what `branching` takes as its `tree`, so that the network
    can be trained again with this tree fixed, as the paper does.

    Until the warm-up is over nothing is chosen, in training or in evaluation: `d_j = softmax(theta_j)` mixes all
    nodes. In LibMTL the mixture is uniform for that time; here it starts so and learns, which had half the error on
    synthetic families of tasks. The temperature falls geometrically, in LibMTL with the square root of the epoch.
    LibMTL draws in evaluation too, which makes predictions random; here they follow the likeliest choices. Where the
    weights are pretrained all nodes start alike, else from different weights.

    Training costs as much as N separate networks. Use it to find out what to share where nobody knows; with
    `nodes: [1, 3, 3]`, large first stages (an embedding) need not be copied. The search stays random: with few nodes
    for many tasks, other seeds find other trees, so try several.

    Args:
        nodes: N, the number of nodes at each depth: one number for all, or a list with one for each stage (1 makes
            all tasks share it). None: as many as there are tasks.

    Raises:
        UserError: A value is out of range, or the list does not fit the encoder.
    """

    scheme = "ltb"

    def __init__(self, nodes: int | Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        given = [nodes] if isinstance(nodes, int) else nodes or []
        if isinstance(nodes, Sequence) and not nodes:
            raise UserError("ltb: nodes is an empty list, but must have a number for each stage of the encoder.")
        for number in given:
            if number < 1:
                raise UserError(f"ltb: nodes is {number}, but a depth has at least 1.")
        self.nodes = nodes

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> LTBTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        depth = len(encoder.stage_names)
        nodes = len(tasks) if self.nodes is None else self.nodes
        counts = [nodes] * depth if isinstance(nodes, int) else list(nodes)
        if len(counts) != depth:
            raise UserError(
                f"ltb: nodes has {len(counts)} numbers, but {type(encoder).__name__} has {depth} stages: "
                f"{', '.join(encoder.stage_names)}. Give one number for each, or one for all."
            )
        return LTBTrunk(name, encoder, tasks, counts, self.drawing)


class LTBTrunk(ChoosingTrunk):
    """All nodes with the choices of their parents.

    Args:
        name: The input.
        encoder: Its stages are what the nodes are copies of.
        tasks: All tasks.
        counts: The number of nodes at each depth.
        drawing: How choices are drawn while training.
    """

    def __init__(
        self, name: str, encoder: Encoder, tasks: Sequence[str], counts: Sequence[int], drawing: Drawing
    ) -> None:
        super().__init__(name, encoder, tasks, drawing)
        levels: dict[str, NamedModules[Stage]] = {}
        for (stage, module), count in zip(encoder.stages.items(), counts, strict=True):
            nodes = copies(module, count, fresh=not encoder.pretrained)
            levels[stage] = NamedModules({str(number): node for number, node in enumerate(nodes, start=1)})
        self.levels = NamedModules(levels)
        # Where there is one node, there is nothing to choose.
        pairs = zip(self._names[1:], counts[1:], counts, strict=False)
        self.parents = NamedModules({stage: Choices(n, before, drawing) for stage, n, before in pairs if before > 1})
        last = counts[-1]
        self.ends = NamedModules({task: Choices(1, last, drawing) for task in tasks} if last > 1 else {})

    def forward(
        self, inputs: Mapping[str, Any], tasks: Sequence[str], rows: Mapping[str, Tensor | None]
    ) -> TrunkOutput:
        """See `Trunk.forward`. Before the choices are made every node takes part for every task, on all rows."""
        given = inputs[self.input]
        found = self._along_paths(given, tasks, rows) if self._made else self._mixed(given, tasks, rows)
        return TrunkOutput(found)

    def _mixed(self, given: Any, tasks: Sequence[str], rows: Mapping[str, Tensor | None]) -> dict[str, Features]:
        given, rows = self.rows_of_only_task(given, rows)
        outputs: list[Features] = []
        for stage, level in self.levels.items():
            read = [given] * len(level)
            if outputs:
                read = self._read(outputs, self.parents, stage, len(level))
            outputs = [node(each) for node, each in zip(level.values(), read, strict=True)]
        found = {}
        for task in tasks:
            (features,) = self._read(outputs, self.ends, task, 1)
            found[task] = select_rows(features, rows.get(task))
        return found

    def _read(
        self, outputs: Sequence[Features], choices: NamedModules[Choices], name: str, readers: int
    ) -> list[Features]:
        """What the readers of this name get of some nodes' outputs."""
        if name not in choices:
            return [outputs[0]] * readers
        weights = choices[name].probabilities() if self.warming_up else choices[name].draw(self.now)
        return mixtures(outputs, weights)

    def _along_paths(self, given: Any, tasks: Sequence[str], rows: Mapping[str, Tensor | None]) -> dict[str, Features]:
        paths = self.paths()
        users: dict[tuple[int, int], list[str]] = {}
        for task in tasks:
            for place in enumerate(paths[task]):
                users.setdefault(place, []).append(task)
        outputs: dict[tuple[int, int], tuple[Features, Tensor | None]] = {}
        found = {}
        for task in tasks:
            features, positions = given, None
            for place, level in zip(enumerate(paths[task]), self.levels.values(), strict=True):
                if place not in outputs:
                    needed = union_of([rows.get(user) for user in users[place]])
                    node = level[str(place[1])]
                    outputs[place] = node(select_rows(features, within(needed, positions))), needed
                features, positions = outputs[place]
            found[task] = select_rows(features, within(rows.get(task), positions))
        return found

    @property
    def _made(self) -> bool:
        """Whether the choices hold: the paths are fixed."""
        return not self.training and not self.warming_up

    def paths(self) -> dict[str, tuple[int, ...]]:
        """For each task the nodes that it passes by the likeliest choices, one for each stage, counted from 1."""
        parents = [self.parents[stage].likeliest() if stage in self.parents else None for stage in self._names]
        found = {}
        for task in self.tasks:
            path = [self.ends[task].likeliest()[0] if task in self.ends else 0]
            for choices in reversed(parents[1:]):
                path.append(choices[path[-1]] if choices is not None else 0)
            found[task] = tuple(node + 1 for node in reversed(path))
        return found

    def tree(self) -> dict[str, list[list[str]]]:
        """The groups of tasks that share each stage by the likeliest choices, by the stage's name."""
        groups: dict[str, dict[int, list[str]]] = {stage: {} for stage in self._names}
        for task, path in self.paths().items():
            for stage, node in zip(self._names, path, strict=True):
                groups[stage].setdefault(node, []).append(task)
        return {stage: list(members.values()) for stage, members in groups.items()}

    def parts(self) -> list[Part]:
        """See `Trunk.parts`. In evaluation, once the choices are made, a node has the tasks whose path it is on."""
        made = self._made
        paths = self.paths() if made else {}
        found = []
        for depth, (stage, level) in enumerate(self.levels.items()):
            if stage in self.parents:
                found.append(Part(f"parents of {stage}", () if made else self.tasks, self.parents[stage]))
            for number, node in level.items():
                users = tuple(task for task in self.tasks if not made or str(paths[task][depth]) == number)
                found.append(Part(f"node {number} of {stage}" if len(level) > 1 else stage, users, node, depth))
        found += [Part(f"node of {task}", () if made else (task,), end) for task, end in self.ends.items()]
        return found

    def learned(self) -> dict[str, LearnedTable]:
        """See `Trunk.learned`: how likely each node's and task's parents are, and which nodes each task passes."""
        nodes = {stage: tuple(f"{stage} {number}" for number in level) for stage, level in self.levels.items()}
        tables = {}
        for before, stage in zip(self._names, self._names[1:], strict=False):
            if stage in self.parents:
                values = self.parents[stage].probabilities().detach()
                tables[f"parents of {stage}"] = LearnedTable(values, nodes[stage], nodes[before])
        if len(self.ends):
            values = torch.cat([self.ends[task].probabilities().detach() for task in self.tasks])
            tables["nodes of the tasks"] = LearnedTable(values, self.tasks, nodes[self._names[-1]])
        paths = self.paths()
        numbers = torch.tensor([paths[task] for task in self.tasks], dtype=torch.float32)
        tables["tree"] = LearnedTable(numbers, self.tasks, self._names)
        return tables


def mixtures(values: Sequence[Features], weights: Tensor) -> list[Features]:
    """Several weighted sums of some modules' features.

    Args:
        values: O of one shape, whose levels are added up as their values are; the first lends its other fields.
        weights: `[C, O]`.

    Returns:
        C features.
    """
    mixed = _sums([features.values for features in values], weights)
    levels = [_sums(each, weights) for each in zip(*(features.levels for features in values), strict=True)]
    each_levels = zip(*levels, strict=True) if levels else [()] * len(mixed)
    pairs = zip(mixed, each_levels, strict=True)
    return [values[0]._replace(values=each, levels=tuple(own)) for each, own in pairs]


def _sums(given: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """C weighted sums of O tensors; `weights` is `[C, O]`."""
    maps = given[0].ndim == 4
    # A map's channels go last, as convolutions lay them out, so that nothing has to be moved in memory.
    stacked = torch.stack([each.movedim(1, -1) if maps else each for each in given])
    # A sum is no place to round in, as a matrix product in low precision would.
    with torch.autocast(stacked.device.type, enabled=False):
        summed = (weights.to(stacked.dtype) @ stacked.flatten(1)).view(-1, *stacked.shape[1:])
    return [each.movedim(-1, 1) if maps else each for each in summed]
