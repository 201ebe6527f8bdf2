"""Sluice networks: combinations of subspaces of the tasks' features, and of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder, Features, FeatureShape
from polytask.errors import UserError
from polytask.sharing.columns import ColumnSharing, LayerMerge, fraction
from polytask.sharing.exchange import Exchange, LinearExchange
from polytask.sharing.mixing import pooled


class Sluice(ColumnSharing):
    """Cross-stitch between parts of the features, which are kept different, and a mixture of layers at the end.

    Ruder, Bingel, Augenstein and Søgaard, "Latent Multi-Task Architecture Learning", AAAI 2019,
    https://arxiv.org/abs/1705.08142. Behind each stage l the features of task i are cut into G subspaces,
    `[x_i1, ..., x_iG]`, and it goes on with `x~_ig = sum_jh a_ig,jh x_jh`. Its head reads a mixture of all these
    stages, `f_i = sum_l b_il x~_i^l`. A penalty `strength * sum_i,l |x_i1^T x_i2|^2` keeps a task's subspaces
    orthogonal (and all pairs of subspaces, where there are more than two).

    Different from the paper:

    - Stages have outputs of many shapes here. The mixture of layers is of vectors (the mean over positions), and those
      that are not as wide as the last go through a linear map of their own first.
    - In the official code the penalty is on two of the weight matrices of an LSTM. Stages of other kinds have no such
      matrices, so it is on the features, as in Bousmalis et al., "Domain Separation Networks", NIPS 2016, from which
      the paper has it: the mean square of the correlations over the batch between features (means over positions) of
      different subspaces, summed over tasks and stages. It does not depend on the features' scale.
    - The paper's tasks share the input layer, the embedding of words: here that is `share_until: embed`, or 1.
    - The official code starts `a` with two subspaces from a pattern that favours no task's own; here, as with one
      subspace, each favours itself.

    Take it as cross-stitch, where tasks may want to share some features of a layer and not others, or layers of
    different depths.

    Args:
        subspaces: G. With `after: all` or `inner`, stages whose width it does not divide exchange nothing.
        orthogonality: The penalty's strength; 0: no penalty. The paper's 0.1 is for weights, and of another scale.
        mix_layers: Whether the head reads a mixture of the stages in `after` and the last one; else the last alone.
        last_weight: The last stage's weight in this mixture at the start, from 0 to 1; the others share the rest.
        options: See `ColumnSharing`.

    Raises:
        UserError: A parameter is out of its limits.
    """

    scheme = "sluice"
    merging = "mix_layers: false"

    def __init__(
        self,
        subspaces: int = 2,
        orthogonality: float = 0.01,
        *,
        mix_layers: bool = True,
        last_weight: float = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if subspaces < 1:
            raise UserError(f"'subspaces' must be at least 1, but {subspaces} was given.")
        if not orthogonality >= 0:
            raise UserError(f"'orthogonality' must be at least 0, but {orthogonality} was given.")
        fraction(last_weight=last_weight)
        self.subspaces = subspaces
        self.orthogonality = orthogonality
        self.mix_layers = mix_layers
        self.last_weight = last_weight

    def unfit(self, shape: FeatureShape) -> str | None:
        """See `ColumnSharing.unfit`."""
        if shape.width % self.subspaces == 0:
            return None
        return (
            f"its {shape.width} features cannot be cut into {self.subspaces} subspaces of equal width. "
            "Choose another width of the encoder or number of 'subspaces', or leave the stage out of 'after'."
        )

    def exchange(self, shape: FeatureShape, tasks: Sequence[str]) -> Exchange:
        """See `ColumnSharing.exchange`."""
        return SubspaceExchange(tasks, self.subspaces, self.self_weight, self.orthogonality)

    def ends(self, encoder: Encoder, depths: Sequence[int], tasks: Sequence[str]) -> Mapping[str, LayerMerge] | None:
        """See `ColumnSharing.ends`."""
        if not self.mix_layers or len(depths) == 1:
            return None
        stages = list(encoder.stages.values())
        widths = [stages[depth].shape.width for depth in depths]
        return {task: LayerMixture(widths, self.last_weight) for task in tasks}


class SubspaceExchange(LinearExchange):
    """Linear combinations of subspaces, which a penalty keeps uncorrelated.

    Args:
        tasks: All tasks.
        subspaces: G, the number of subspaces of a task.
        self_weight: What the weight of a subspace for itself starts from.
        strength: Of the penalty.
    """

    def __init__(self, tasks: Sequence[str], subspaces: int, self_weight: float, strength: float) -> None:
        super().__init__(tasks, subspaces, self_weight)
        self.strength = strength

    def penalties(self, columns: Mapping[str, Features]) -> dict[str, Tensor]:
        """See `Exchange.penalties`."""
        if self.subspaces == 1 or self.strength == 0:
            return {}
        values = torch.stack([pooled(features) for features in columns.values()])
        return {"orthogonality": self.strength * correlation(values, self.subspaces).sum()}


def correlation(values: Tensor, subspaces: int) -> Tensor:
    """The mean square of the correlations between features of different subspaces.

    A feature that is the same in all rows has no correlation with any.

    Args:
        values: `[K, B, D]`: of K tasks, over B rows.
        subspaces: How many subspaces of equal width the D features are.

    Returns:
        `[K]`, from 0 to 1.
    """
    _, rows, width = values.shape
    size = width // subspaces
    with torch.autocast(values.device.type, enabled=False):
        values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        centred = values - values.mean(1, keepdim=True)
        # The small number has nothing to say but where a variance is next to zero.
        normed = centred * ((centred.square().mean(1, keepdim=True) + 1e-8).rsqrt() / rows**0.5)
        parts = normed.split(size, dim=2)
        # |A^T B|^2 is also <A A^T, B B^T>, which is less to compute where there are few rows for many features.
        if rows < width // 4:
            grams = torch.stack([part @ part.mT for part in parts])
            total = (grams.sum(0).square() - grams.square().sum(0)).sum((1, 2)) / 2
        else:
            pairs = [parts[place].mT @ normed[..., (place + 1) * size :] for place in range(subspaces - 1)]
            total = torch.stack([pair.square().sum((1, 2)) for pair in pairs]).sum(0)
        return total / (width * (width - size) / 2)


class LayerMixture(LayerMerge):
    """`sum_l b_l m_l(x_l)`, with a linear map `m_l` where a stage is not as wide as the last, and none elsewhere.

    Args:
        widths: The stages' widths, in order.
        last_weight: What the last one's weight starts from; the others share the rest.
    """

    def __init__(self, widths: Sequence[int], last_weight: float) -> None:
        super().__init__()
        rest = (1 - last_weight) / (len(widths) - 1)
        self.weights = nn.Parameter(torch.tensor([rest] * (len(widths) - 1) + [last_weight]))
        self.maps = nn.ModuleList(
            nn.Identity() if width == widths[-1] else nn.Linear(width, widths[-1], bias=False) for width in widths
        )

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """See `LayerMerge.forward`."""
        mapped = torch.stack([to_last(values) for to_last, values in zip(self.maps, layers, strict=True)])
        return torch.einsum("l,lbd->bd", self.weights.to(mapped.dtype), mapped)

    def shares(self) -> Tensor:
        """See `LayerMerge.shares`."""
        return self.weights.detach()
