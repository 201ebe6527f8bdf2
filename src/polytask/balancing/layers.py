"""Linear maps in the autograd graph, whose task gradients can be compared without being formed.

For a linear map with input `A` (rows x in) and output gradients `D_k` (rows x out), the gradient of task k for the
weight is `D_kᵀ A`, so `<D_iᵀ A, D_jᵀ A> = <A Aᵀ D_i, D_j>`: the Gramian follows from the output gradients alone (a
"ghost" product, known from private training: Li, Tramèr, Liang and Hashimoto, "Large Language Models Can Be Strong
Differentially Private Learners", ICLR 2022). Convolutions are linear maps of their unfolded input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn import functional

from polytask.balancing.graph import NEUTRAL, Graph
from polytask.balancing.workspace import Workspace


@dataclass(frozen=True)
class Layer(ABC):
    """A map that is linear in its parameters, and enters the graph as one node.

    Attributes:
        edge: Where the gradient of its output flows in.
        parameters: The weight, and the bias if there is one.
    """

    gain: ClassVar[float] = 0.9
    """What ghost products may cost, in multiplications, of what they spare."""

    edge: GradientEdge
    parameters: tuple[Tensor, ...]

    @abstractmethod
    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        """The parameters' gradients, for one gradient of the output."""

    @abstractmethod
    def gramian(self, outputs: Tensor, workspace: Workspace) -> Tensor:
        """`[K, K]`, the scalar products of the parameters' gradients, for K stacked gradients of the output."""

    @abstractmethod
    def products(self, output: Tensor, groups: Tensor, count: int) -> Tensor:
        """`[K, K]`, likewise for tasks whose samples are disjoint.

        Args:
            output: The gradient of the output for the sum of the losses.
            groups: `[B]`, the task of each sample.
            count: K.
        """

    @abstractmethod
    def part(self, output: Tensor, samples: Tensor, batch: int) -> tuple[Tensor, ...]:
        """The parameters' gradients from some of the `batch` samples."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int, int]:
        """Rows, inputs and outputs of the map, and how many such maps there are side by side."""

    @property
    def dense(self) -> bool:
        """Whether the gradients are ordinary tensors."""
        return True

    def ghost_pays(self, tasks: int) -> bool:
        """Whether scalar products from the output's gradients cost less than the tasks' gradients do."""
        rows, inputs, outputs, maps = self.size
        if maps > 1:
            return False
        ghost = rows * rows * (inputs + tasks * outputs) + tasks * tasks * rows * outputs
        # Either way the update costs one weight gradient: with the ghost way after the Gramian, else within it.
        direct = tasks * inputs * outputs * (rows + tasks / 2)
        return ghost + rows * inputs * outputs < self.gain * direct

    def products_pay(self, tasks: int) -> bool:
        """Likewise for tasks whose samples are disjoint."""
        rows, inputs, outputs, maps = self.size
        return maps == 1 and rows * rows * (inputs + outputs) < inputs * outputs * (rows + tasks * tasks / 2)


@dataclass(frozen=True)
class Linear(Layer):
    """`addmm` and `mm`: fully connected layers, on vectors or on sequences.

    Attributes:
        input: `[R, n]`.
        width: The number of outputs.
        transposed: Whether the weight is stored as `[n, m]`, not as `[m, n]`.
    """

    input: Tensor
    width: int
    transposed: bool

    @property
    def size(self) -> tuple[int, int, int, int]:
        """See `Layer.size`."""
        return len(self.input), self.input.shape[1], self.width, 1

    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        """See `Layer.gradients`."""
        return self._gradients(output, self.input)

    def _gradients(self, output: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        weight = inputs.T @ output if self.transposed else output.T @ inputs
        return (weight,) if len(self.parameters) == 1 else (weight, output.sum(0))

    def _similarity(self) -> Tensor:
        rows = wide(self.input)
        similarity = rows @ rows.T
        # The bias is one more input, which is always 1.
        return similarity if len(self.parameters) == 1 else similarity + 1

    def gramian(self, outputs: Tensor, workspace: Workspace) -> Tensor:
        """See `Layer.gramian`."""
        return _compared(wide(self.input), wide(outputs), len(self.parameters) > 1, workspace)

    def products(self, output: Tensor, groups: Tensor, count: int) -> Tensor:
        """See `Layer.products`."""
        rows = wide(output)
        membership = functional.one_hot(groups, count).to(rows).repeat_interleave(len(rows) // len(groups), 0)
        return membership.T @ (self._similarity() * (rows @ rows.T)) @ membership

    def part(self, output: Tensor, samples: Tensor, batch: int) -> tuple[Tensor, ...]:
        """See `Layer.part`."""
        return self._gradients(_of(samples, output, batch), _of(samples, self.input, batch))


@dataclass(frozen=True)
class Convolution(Layer):
    """Convolutions in one to three dimensions.

    Attributes:
        input: `[B, C, ...]`.
        weight: As the convolution saw it: cast, under mixed precision.
        positions: Positions of the output, per sample.
        groups, stride, padding, dilation: The convolution's.
    """

    # Unfolding copies much, and the library's own products are good.
    gain = 0.6

    input: Tensor
    weight: Tensor
    positions: int
    groups: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int, int, int]:
        """See `Layer.size`."""
        outputs, inputs = self.weight.shape[0], self.weight[0].numel()
        return len(self.input) * self.positions, inputs, outputs // self.groups, self.groups

    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        """See `Layer.gradients`."""
        return self._gradients(output, self.input)

    def _gradients(self, output: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        biased = len(self.parameters) > 1
        _, weight, bias = torch.ops.aten.convolution_backward(
            output,
            inputs,
            self.weight,
            [len(self.weight)] if biased else None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            [False, True, biased],
        )
        return (weight, bias) if biased else (weight,)

    def _similarity(self) -> Tensor:
        rows = wide(self._unfolded())
        similarity = rows @ rows.T
        return similarity if len(self.parameters) == 1 else similarity + 1

    def _unfolded(self) -> Tensor:
        """`[B * positions, inputs]`, what each position of the output sees."""
        padded = functional.pad(self.input, [side for width in reversed(self.padding) for side in (width, width)])
        kernel = self.weight.shape[2:]
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        counts = [
            (size - span) // step + 1 for size, span, step in zip(padded.shape[2:], spans, self.stride, strict=True)
        ]
        batch, channels, *steps = padded.stride()
        strided = padded.as_strided(
            (len(padded), *counts, padded.shape[1], *kernel),
            (
                batch,
                *(s * step for s, step in zip(self.stride, steps, strict=True)),
                channels,
                *(d * step for d, step in zip(self.dilation, steps, strict=True)),
            ),
        )
        return strided.reshape(len(padded) * self.positions, -1)

    def gramian(self, outputs: Tensor, workspace: Workspace) -> Tensor:
        """See `Layer.gramian`."""
        rows = wide(outputs).flatten(3).transpose(2, 3).flatten(1, 2)
        return _compared(wide(self._unfolded()), rows, len(self.parameters) > 1, workspace)

    def products(self, output: Tensor, groups: Tensor, count: int) -> Tensor:
        """See `Layer.products`."""
        rows = wide(output).flatten(2).transpose(1, 2).flatten(0, 1)
        membership = functional.one_hot(groups, count).to(rows).repeat_interleave(len(rows) // len(groups), 0)
        return membership.T @ (self._similarity() * (rows @ rows.T)) @ membership

    def part(self, output: Tensor, samples: Tensor, batch: int) -> tuple[Tensor, ...]:
        """See `Layer.part`."""
        return self._gradients(_of(samples, output, batch), _of(samples, self.input, batch))


@dataclass(frozen=True)
class Lookup(Layer):
    """`embedding`: a linear map of one-hot rows.

    Attributes:
        indices: Of any shape.
        padding: The row that never learns; -1 where there is none.
        sparse: Whether the gradient is a sparse tensor.
    """

    indices: Tensor
    padding: int
    sparse: bool

    @property
    def size(self) -> tuple[int, int, int, int]:
        """See `Layer.size`."""
        return self.indices.numel(), len(self.parameters[0]), self.parameters[0].shape[1], 1

    @property
    def dense(self) -> bool:
        """See `Layer.dense`."""
        return not self.sparse

    def ghost_pays(self, tasks: int) -> bool:
        """See `Layer.ghost_pays`: where fewer rows are looked up than there are, or the update needs them only."""
        return self.sparse or self.indices.numel() < len(self.parameters[0])

    def products_pay(self, tasks: int) -> bool:
        """See `Layer.products_pay`."""
        return True

    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        """See `Layer.gradients`."""
        return self._gradients(output, self.indices)

    def _gradients(self, output: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        rows = len(self.parameters[0])
        return (torch.ops.aten.embedding_backward(output, indices, rows, self.padding, False, self.sparse),)

    def _rows(self, outputs: Tensor) -> tuple[Tensor, Tensor, int]:
        """The outputs' gradients as rows, 0 at the padding; the place of each row's index among those in use."""
        used, places = torch.unique(self.indices.flatten(), return_inverse=True)
        rows = wide(outputs).flatten(outputs.ndim - self.indices.ndim - 1, -2)
        return rows * (self.indices.flatten() != self.padding).unsqueeze(-1), places, len(used)

    def gramian(self, outputs: Tensor, workspace: Workspace) -> Tensor:
        """See `Layer.gramian`."""
        rows, places, count = self._rows(outputs)
        sums = rows.new_zeros(len(rows), count, rows.shape[-1]).index_add_(1, places, rows).flatten(1)
        return sums @ sums.T

    def products(self, output: Tensor, groups: Tensor, count: int) -> Tensor:
        """See `Layer.products`."""
        rows, places, used = self._rows(output)
        tasks = groups.repeat_interleave(len(rows) // len(groups))
        sums = rows.new_zeros(count * used, rows.shape[-1]).index_add_(0, tasks * used + places, rows)
        sums = sums.view(count, -1)
        return sums @ sums.T

    def part(self, output: Tensor, samples: Tensor, batch: int) -> tuple[Tensor, ...]:
        """See `Layer.part`."""
        return self._gradients(_of(samples, output, batch), _of(samples, self.indices, batch))


@dataclass(frozen=True)
class Scale(Layer):
    """The weight and bias of layer normalisation: each multiplies or shifts one normalised number.

    Attributes:
        input: `[..., n]`.
        mean, rstd: What it is normalised with, `[..., 1]`.
    """

    input: Tensor
    mean: Tensor
    rstd: Tensor

    @property
    def normalized(self) -> Tensor:
        """`[..., n]`, the normalised input."""
        return (self.input - self.mean) * self.rstd

    @property
    def size(self) -> tuple[int, int, int, int]:
        """See `Layer.size`."""
        width = self.parameters[0].numel()
        return self.input.numel() // max(1, width), 1, 1, width

    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        """See `Layer.gradients`."""
        return self._gradients(output, self.normalized)

    def _gradients(self, output: Tensor, normalized: Tensor) -> tuple[Tensor, ...]:
        shape = self.parameters[0].shape
        weight = (output * normalized).reshape(-1, *shape).sum(0)
        return (weight,) if len(self.parameters) == 1 else (weight, output.reshape(-1, *shape).sum(0))

    def gramian(self, outputs: Tensor, workspace: Workspace) -> Tensor:
        """See `Layer.gramian`."""
        each = torch.stack([torch.cat([g.flatten() for g in self.gradients(wide(output))]) for output in outputs])
        return each @ each.T

    def products(self, output: Tensor, groups: Tensor, count: int) -> Tensor:
        """See `Layer.products`."""
        shape = self.parameters[0].shape
        terms = [wide(output) * self.normalized, wide(output)][: len(self.parameters)]
        each = [term.reshape(len(groups), -1, shape.numel()).sum(1) for term in terms]
        sums = torch.cat([e.new_zeros(count, e.shape[1]).index_add_(0, groups, e) for e in each], 1)
        return sums @ sums.T

    def products_pay(self, tasks: int) -> bool:
        """See `Layer.products_pay`."""
        return True

    def part(self, output: Tensor, samples: Tensor, batch: int) -> tuple[Tensor, ...]:
        """See `Layer.part`."""
        return self._gradients(_of(samples, output, batch), _of(samples, self.normalized, batch))


def _of(samples: Tensor, rows: Tensor, batch: int) -> Tensor:
    """The rows of some of the samples, each of which has as many, one after the other."""
    return rows.reshape(batch, -1, *rows.shape[1:])[samples].flatten(0, 1)


def _compared(inputs: Tensor, outputs: Tensor, biased: bool, workspace: Workspace) -> Tensor:
    """`[K, K]`, `<D_iᵀ A, D_jᵀ A>` for inputs `[R, n]` and outputs `[K, R, m]`, a few tasks at a time.

    With `A = 1 aᵀ + C`, `a` the mean row, it is `<C Cᵀ D_i, D_j> + <t_i, s_j> + <s_i, t_j> + |a|² <s_i, s_j>` where
    `s_i = D_iᵀ 1` and `t_i = D_iᵀ C a`. Below a batch normalisation `s_i` is all but 0, and `A Aᵀ D_i` would lose the
    digits that matter. A bias is one more input, which is always 1: `|a|²` grows by 1.
    """
    count, rows, width = outputs.shape
    mean = inputs.sum(0) / max(1, rows)
    centred = inputs - mean
    similarity = centred @ centred.T
    sides = torch.stack([centred.new_ones(rows), centred @ mean])
    sums = torch.matmul(sides, outputs)
    ones, along = sums[:, 0], sums[:, 1]
    mixed = along @ ones.T
    result = mixed + mixed.T + (mean.square().sum() + float(biased)) * (ones @ ones.T)
    step = max(1, min(count, _CHUNK // max(1, rows * width)))
    flat = outputs.reshape(count, -1)
    for start in range(0, count, step):
        end = min(start + step, count)
        product = workspace.take("product", (end - start, rows, width), outputs.dtype, outputs.device)
        torch.matmul(similarity, outputs[start:end], out=product)
        found = flat[:end] @ product.view(end - start, -1).T
        result[start:end, start:end] += found[start:]
        result[:start, start:end] += found[:start]
        result[start:end, :start] += found[:start].T
    return result


_CHUNK = 2**20
"""Numbers that are worked on at once: few enough to stay in the processor's cache."""


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least: scalar products of half-precision numbers overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def layers_of(graph: Graph, parameters: Sequence[Tensor]) -> tuple[list[list[Layer]], list[Tensor]]:
    """Find the layers that some parameters belong to.

    Returns:
        For each weight (with its bias) the layers that read it, several where it is used several times; and the
        parameters that are read by anything else, or of which nothing more is known.
    """
    free = set(parameters)
    found: list[list[Layer]] = []
    for weight in parameters:
        if weight not in free or weight.is_complex() or weight._backward_hooks:
            continue
        uses = _uses(graph, weight)
        if not uses or any(_RULES.get(node.name(), (None, -1))[1] != slot for node, slot, _ in uses):
            continue
        bias = _bias(graph, [node for node, _, _ in uses], free)
        together = (weight,) if bias is None else (weight, bias)
        layers = [
            layer
            for node, _, transposed in uses
            if (layer := _RULES[node.name()][0](node, together, transposed)) is not None
        ]
        if len(layers) == len(uses):
            found.append(layers)
            free.difference_update(together)
    return found, [parameter for parameter in parameters if parameter in free]


def _uses(graph: Graph, parameter: Tensor) -> list[tuple[Node, int, bool]] | None:
    """The nodes that read a parameter, past casts and transpositions: node, slot, whether it is transposed there.

    None where something else is on the way.
    """
    leaf = graph.leaf(parameter)
    if leaf is None:
        return None
    uses = []
    waiting = [(leaf, False)]
    while waiting:
        node, transposed = waiting.pop()
        for reader, slot in graph.readers.get(node, ()):
            name = reader.name()
            if name not in NEUTRAL:
                uses.append((reader, slot, transposed))
            elif name == "ToCopyBackward0":
                waiting.append((reader, transposed))
            elif parameter.ndim == 2 and (name == "TBackward0" or _dims(reader) % 2):
                waiting.append((reader, not transposed))
            else:
                return None
    return uses


def _dims(node: Any) -> int:
    return int(node._saved_dim0) - int(node._saved_dim1)


_BIAS_SLOTS = {"AddmmBackward0": 0, "ConvolutionBackward0": 2, "NativeLayerNormBackward0": 2}


def _bias(graph: Graph, nodes: Sequence[Node], allowed: set[Tensor]) -> Tensor | None:
    """The bias of a layer: a parameter that its nodes read and nothing else does."""
    slot = _BIAS_SLOTS.get(nodes[0].name())
    if slot is None:
        return None
    node = nodes[0].next_functions[slot][0]
    while node is not None and node.name() == "ToCopyBackward0":
        node = node.next_functions[0][0]
    bias = getattr(node, "variable", None)
    if bias is None or bias not in allowed or bias.ndim != 1 or bias._backward_hooks:
        return None
    uses = _uses(graph, bias)
    if uses is None or len(uses) != len(nodes) or any(at != slot for _, at, _ in uses):
        return None
    return bias if {reader for reader, _, _ in uses} == set(nodes) else None


def _kept(node: Any, name: str) -> Tensor | None:
    """A tensor that a node has saved; None where it would have to be computed again, or fetched from elsewhere.

    Checkpointing and offloading pack what is saved; each look at it would unpack it once more, and keep it.
    """
    if getattr(getattr(node, f"_raw_saved_{name}"), "unpack_hook", None) is not None:
        return None
    saved: Tensor | None = getattr(node, f"_saved_{name}")
    return saved


def _linear(node: Any, parameters: tuple[Tensor, ...], transposed: bool) -> Layer | None:
    if node.name() == "AddmmBackward0":
        if node._saved_alpha != 1 or node._saved_beta != 1:
            return None
        inputs = _kept(node, "mat1")
    else:
        inputs = _kept(node, "self")
    if inputs is None or inputs.layout != torch.strided:
        return None
    width = node._input_metadata[0].shape[1]
    if len(parameters) > 1 and parameters[1].shape != (width,):
        return None
    # As the node sees it the weight is [n, m]; a weight [m, n] was transposed on the way.
    return Linear(GradientEdge(node, 0), parameters, inputs.detach(), width, transposed=not transposed)


def _convolution(node: Any, parameters: tuple[Tensor, ...], transposed: bool) -> Layer | None:
    if node._saved_transposed or transposed:
        return None
    inputs, weight = _kept(node, "input"), _kept(node, "weight")
    if inputs is None or weight is None or not len(inputs):
        return None
    if inputs.ndim != weight.ndim or inputs.layout != torch.strided:
        return None
    shape = node._input_metadata[0].shape
    return Convolution(
        GradientEdge(node, 0),
        parameters,
        inputs.detach(),
        weight.detach(),
        math.prod(shape[2:]),
        node._saved_groups,
        tuple(node._saved_stride),
        tuple(node._saved_padding),
        tuple(node._saved_dilation),
    )


def _lookup(node: Any, parameters: tuple[Tensor, ...], transposed: bool) -> Layer | None:
    if node._saved_scale_grad_by_freq or transposed:
        return None
    indices = _kept(node, "indices")
    if indices is None:
        return None
    # Stored as an unsigned number, so that -1 comes back as its complement.
    padding = node._saved_padding_idx
    return Lookup(
        GradientEdge(node, 0),
        parameters,
        indices,
        -1 if padding >= len(parameters[0]) else padding,
        node._saved_sparse,
    )


def _scale(node: Any, parameters: tuple[Tensor, ...], transposed: bool) -> Layer | None:
    if transposed or (len(parameters) == 1 and node.next_functions[2][0] is not None):
        return None
    inputs, mean, rstd = (_kept(node, name) for name in ("input", "result1", "result2"))
    if inputs is None or mean is None or rstd is None:
        return None
    return Scale(GradientEdge(node, 0), parameters, inputs.detach(), mean.detach(), rstd.detach())


_RULES = {
    "AddmmBackward0": (_linear, 2),
    "MmBackward0": (_linear, 1),
    "ConvolutionBackward0": (_convolution, 1),
    "EmbeddingBackward0": (_lookup, 0),
    "NativeLayerNormBackward0": (_scale, 1),
}
