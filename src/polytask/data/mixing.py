"""Mixing: rows of a batch are mixed with other rows of it, what the network reads as well as what it is to answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polytask.components import Family
from polytask.data.batch import Batch
from polytask.errors import UserError, listing
from polytask.shapes import ImageShape, InputShape, TabularShape


class Mixing(ABC):
    """Mixes each row of a batch with another one of it.

    Row i keeps the share λ of what it is and gets 1 - λ of its partner, row p(i); p is a random permutation of the
    rows, λ is drawn once for the batch. A task's loss is the mean over both labels, each with its share:

        sum_i (λ w_i l(o_i, y_i) + (1 - λ) w_p(i) l(o_i, y_p(i))) / sum_i (λ w_i + (1 - λ) w_p(i))

    with `o_i` the output for mixed row i, `l` the loss of an entry, and `w` what a row counts: 0 without a label, and
    else its `sample_weight` times its class's weight, 1 by default. (So it is λ L(o, y) + (1 - λ) L(o, y_p) where all
    rows count the same.)

    Args:
        alpha: α of the distribution Beta(α, α) that λ is drawn from, above 0: near 0, rows mostly stay as they are or
            become their partners; 1: all shares are as likely; large: halves.
        probability: Share of the batches that are mixed, above 0 and at most 1.

    Attributes:
        modalities: The kinds of input that it can mix.
        reason: Why it cannot mix the others.

    Raises:
        UserError: A parameter is out of range.
    """

    modalities: ClassVar[tuple[str, ...]]
    reason: ClassVar[str]

    def __init__(self, alpha: float, probability: float = 1.0) -> None:
        if not (alpha > 0 and math.isfinite(alpha)):
            raise UserError(f"alpha is {alpha:g}, but must be above 0. Leave out the mixing to leave rows as they are.")
        if not 0 < probability <= 1:
            raise UserError(f"probability is {probability:g}, but must be above 0 and at most 1.")
        self.alpha = alpha
        self.probability = probability

    @classmethod
    def refusal(cls, name: str, modality: str) -> str | None:
        """Why an input of this name and modality cannot be mixed; None: it can."""
        if modality in cls.modalities:
            return None
        return (
            f"the input '{name}' ({modality}) cannot be mixed: {cls.reason}. Inputs that can be: "
            f"{listing(cls.modalities)}."
        )

    def check(self, inputs: Mapping[str, InputShape]) -> None:  # noqa: B027 (a hook: not every class needs it)
        """Refuse inputs that are of the right modality and cannot be mixed all the same.

        Args:
            inputs: The inputs' shapes, by name.

        Raises:
            UserError: One cannot be mixed.
        """

    def applies(self, draw: np.random.Generator) -> bool:
        """Whether a batch is mixed."""
        return draw.random() < self.probability

    def mix(self, batch: Batch, draw: np.random.Generator, *, parts: int = 1) -> Batch:
        """The mixed rows, with both labels and the shares.

        Args:
            batch: B rows.
            draw: Random numbers. λ, and which part of an image is cut out, do not depend on B: they are the same in
                several processes that have some rows of a batch each.
            parts: Rows have partners of their own part alone, where part k has every `parts`-th row from row k on.
        """
        (order,) = draw.spawn(1)
        partners = torch.from_numpy(_partners(len(batch), order, parts))
        inputs, share = self.blend(batch.inputs, partners, draw)
        return batch.paired(inputs, partners, share)

    def draw_share(self, draw: np.random.Generator) -> float:
        """λ ~ Beta(α, α)."""
        return float(draw.beta(self.alpha, self.alpha))

    @abstractmethod
    def blend(
        self, inputs: Mapping[str, Any], partners: Tensor, draw: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        """Mix what the network reads; what is given stays as it is.

        Args:
            inputs: As in `Batch.inputs`.
            partners: int64 `[B]`: the row that is mixed into each.
            draw: Random numbers.

        Returns:
            The mixed inputs, and the share of its own that each row keeps.
        """


class Mixup(Mixing):
    """Means of two rows: `λ x_i + (1 - λ) x_j` and `λ y_i + (1 - λ) y_j`, λ ~ Beta(α, α).

    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Cross-entropy is linear
    in the target, so the loss of the mean label is the mean of the losses, which is what is computed. One λ a batch,
    partners by a permutation of it, as in the paper's code. It mixes images, and tables without categories; a table's
    numbers are mixed as they reach the network, standardised, and so are the columns that say what is missing.

    Args:
        alpha: α, above 0: the larger, the nearer to halves. The paper takes 0.1 to 0.4 for ImageNet, 1 for CIFAR.
        probability: Share of the batches that are mixed, above 0 and at most 1.
    """

    modalities = ("image", "tabular")
    reason = "mixup takes means of what two rows have, and tokens, or rows of several lengths, have none"

    def __init__(self, alpha: float = 0.2, probability: float = 1.0) -> None:
        super().__init__(alpha, probability)

    def check(self, inputs: Mapping[str, InputShape]) -> None:
        """See `Mixing.check`."""
        for name, shape in inputs.items():
            if isinstance(shape, TabularShape) and shape.cardinalities:
                count = len(shape.cardinalities)
                raise UserError(
                    f"the input '{name}' cannot be mixed: mixup takes means of what two rows have, but "
                    f"{count} of its columns {'has' if count == 1 else 'have'} categories, which have none. Leave them "
                    "out of the input (exclude), or leave out the mixing."
                )

    def blend(
        self, inputs: Mapping[str, Any], partners: Tensor, draw: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        """See `Mixing.blend`."""
        share = self.draw_share(draw)
        return {name: _means(value, partners, share) for name, value in inputs.items()}, share


class CutMix(Mixing):
    """A box of an image is replaced by the same box of another one; each label counts what its image has of the area.

    Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", ICCV 2019. With λ ~ Beta(α, α) the box has the sides `H sqrt(1 - λ)` and `W sqrt(1 - λ)`, so the area
    `1 - λ`, and its centre is anywhere in the image. Sides are rounded down to pixels, and what is outside of the image
    is cut off; λ is then what is really left of the own image, as in the paper's code. One box a batch.

    Args:
        alpha: α, above 0: the larger, the nearer to half of the image. The paper takes 1: all areas alike.
        probability: Share of the batches that are mixed, above 0 and at most 1. The paper takes 1 for ImageNet, 0.5 for
            CIFAR.
    """

    modalities = ("image",)
    reason = "cutmix replaces a box of one image by that of another"

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__(alpha, probability)

    def check(self, inputs: Mapping[str, InputShape]) -> None:
        """See `Mixing.check`."""
        sizes = {(shape.height, shape.width) for shape in inputs.values() if isinstance(shape, ImageShape)}
        if len(sizes) > 1:
            raise UserError(
                f"the inputs {listing(inputs)} have images of several sizes, but cutmix takes one box from all. Give "
                "them one size."
            )

    def blend(
        self, inputs: Mapping[str, Any], partners: Tensor, draw: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        """See `Mixing.blend`."""
        height, width = next(iter(inputs.values())).shape[-2:]
        side = math.sqrt(1 - self.draw_share(draw))
        top, bottom = _stretch(height, side, draw)
        left, right = _stretch(width, side, draw)
        mixed = {}
        for name, images in inputs.items():
            mixed[name] = images.clone()
            box = images[:, :, top:bottom, left:right]
            mixed[name][:, :, top:bottom, left:right] = box[partners.to(images.device)]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _partners(rows: int, draw: np.random.Generator, parts: int) -> np.ndarray:
    """int64 `[rows]`: a permutation within each part; see `Mixing.mix`."""
    partners = np.empty(rows, dtype=np.int64)
    for start in range(parts):
        own = np.arange(start, rows, parts, dtype=np.int64)
        partners[own] = draw.permutation(own)
    return partners


def _means(value: Any, partners: Tensor, share: float) -> Any:
    """Of a tensor, or of tensors by name: the means of rows and partners."""
    if isinstance(value, Mapping):
        return {name: _means(part, partners, share) for name, part in value.items()}
    if not value.numel():
        return value  # the codes of a table without categories: whole numbers, of which there is no mean
    return torch.lerp(value[partners.to(value.device)], value, share)


def _stretch(length: int, share: float, draw: np.random.Generator) -> tuple[int, int]:
    """A stretch of about a share of `length`, around a random place in it: from where to where."""
    wanted = int(length * share)
    start = int(draw.integers(length)) - wanted // 2
    return max(0, start), min(length, start + wanted)


family: Family[Mixing] = Family("mixing", Mixing, {"cutmix": CutMix, "mixup": Mixup})
names = family.names
create = family.create
