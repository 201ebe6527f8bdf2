"""What the heads of detection have in common: a pyramid of maps, anchors, and what a head gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from polytask.boxes import Boxes
from polytask.errors import UserError, require
from polytask.features import Features, FeatureShape
from polytask.row_values import RowValues

Size = tuple[int, int]

_NEEDS = "The task 'detection'"

_NATURAL = 4.0
"""How many strides wide an anchor is that a map is best at."""


@dataclass(frozen=True)
class DetectorSettings:
    """What the user can set of a detector.

    Attributes:
        classes: How many classes there are.
        width: The number of channels of the pyramid.
        anchors: Sizes of anchors for each map; None: from `sizes`.
        ratios: Height divided by width of the anchors.
        sizes: Sizes of boxes as they are common in the training rows.
        image_size: Height and width of the images; None: as the maps have it.
        score: The least score of a detection.
        overlap: Of two detections of a class with a greater intersection over union than this, the surer one stays.
        most: The greatest number of detections in an image.
        hidden: The number of units of the two layers that look at a region (two-stage heads).
        regions: How many regions of a training image are looked at (two-stage heads).
    """

    classes: int
    width: int
    anchors: Sequence[Sequence[float]] | None
    ratios: Sequence[float]
    sizes: Sequence[float]
    image_size: Size | None
    score: float
    overlap: float
    most: int
    hidden: int
    regions: int


@dataclass(frozen=True, eq=False)
class DetectorOutput(RowValues):
    """What a head knows of B images, from which losses and detections are computed.

    Attributes:
        detector: The head.
        maps: The pyramid: `[B, C, H, W]`, the finest first.
        found: What the head has made of them, each with B rows.
    """

    detector: Detector
    maps: tuple[Tensor, ...]
    found: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.maps[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """See `RowValues.map`."""
        return type(self)(self.detector, tuple(map(function, self.maps)), tuple(map(function, self.found)))

    def select(self, rows: Tensor) -> Self:
        """See `RowValues.select`."""
        rows = rows.to(self.maps[0].device)
        return self.map(lambda values: values[rows])


class Detector(nn.Module):
    """A head that finds boxes in a pyramid of maps.

    Args:
        shape: The maps.
        settings: What the user can set.
        finest: The stride of the finest map that is read: finer ones cost more than they tell.
        pooled: Whether a map of twice the coarsest stride is added, by leaving out every other position.

    Attributes:
        parts: The names of the parts of the loss.
        strides: Those of the maps of the pyramid.

    Raises:
        MissingExtra: torchvision is not installed.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(self, shape: FeatureShape, settings: DetectorSettings, *, finest: int, pooled: bool) -> None:
        super().__init__()
        ops = require("torchvision.ops", extra="vision", purpose=_NEEDS)
        shapes = [*shape.levels, shape]
        self._chosen = [place for place, each in enumerate(shapes) if each.stride >= finest] or [len(shapes) - 1]
        self.strides = [shapes[place].stride for place in self._chosen]
        pool = (
            require("torchvision.ops.feature_pyramid_network", extra="vision", purpose=_NEEDS).LastLevelMaxPool()
            if pooled
            else None
        )
        widths = [shapes[place].width for place in self._chosen]
        self.pyramid = ops.FeaturePyramidNetwork(widths, settings.width, extra_blocks=pool)
        if pooled:
            self.strides.append(2 * self.strides[-1])
        self.image_size = settings.image_size

    def forward(self, features: Features) -> DetectorOutput:
        """The pyramid, and what is found at each of its positions."""
        given = [*features.levels, features.values]
        maps = tuple(self.pyramid({str(place): given[place] for place in self._chosen}).values())
        return DetectorOutput(self, maps, self.look(maps))

    @abstractmethod
    def look(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What is found at each position, with B rows each."""

    @abstractmethod
    def losses(self, output: DetectorOutput, target: Boxes) -> dict[str, Tensor]:
        """The parts of the loss by name: float32 `[B]`, one for each image."""

    @abstractmethod
    def detections(self, output: DetectorOutput) -> list[dict[str, Tensor]]:
        """For each image `boxes` `[n, 4]`, `scores` `[n]` and `labels` `[n]`, the surest first."""

    def size_of(self, output: DetectorOutput) -> Size:
        """Height and width of the images that `output` is of."""
        stride = self.strides[0]
        height, width = (side * stride for side in output.maps[0].shape[2:])
        if self.image_size is None:
            return height, width
        # Maps of images whose sides are no multiples of the stride cover a little less, or more.
        known = self.image_size
        return known if abs(known[0] - height) < stride and abs(known[1] - width) < stride else (height, width)


class Anchors(nn.Module):
    """Boxes of some sizes and ratios around each position of a pyramid; on torchvision's generator.

    Args:
        sizes: For each map, square roots of the anchors' areas in pixels; the same number for each.
        ratios: Height divided by width.
        strides: The maps' strides.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        utils = require("torchvision.models.detection.anchor_utils", extra="vision", purpose=_NEEDS)
        self.generator: Any = utils.AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.strides = list(strides)
        self._of: dict[Any, tuple[Tensor, list[int]]] = {}

    @property
    def number(self) -> int:
        """How many there are at a position."""
        return int(self.generator.num_anchors_per_location()[0])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """float32 `[N, 4]`, those of one map after those of another, and how many each map has."""
        sizes = [tuple(each.shape[-2:]) for each in maps]
        device = maps[0].device
        known = (*sizes, device)
        if known not in self._of:
            self.generator.set_cell_anchors(torch.float32, device)
            steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
            anchors = self.generator.grid_anchors([list(size) for size in sizes], steps)
            self._of = {known: (torch.cat(anchors), [len(each) for each in anchors])}
        return self._of[known]


def anchor_sizes(
    given: Sequence[Sequence[float]] | None, sizes: Sequence[float], strides: Sequence[int], scales: int = 1
) -> list[list[float]]:
    """The sizes of anchors for each map.

    A map is for boxes about four of its strides wide, the finest for all smaller and the coarsest for all larger ones;
    its anchors have the geometric mean of their sizes.

    Args:
        given: Those that the user gave.
        sizes: Sizes of boxes as they are common in the training rows; none: a map's anchors are eight strides wide.
        strides: The maps' strides.
        scales: How many a map has: within a doubling, evenly spaced, from the size on.

    Raises:
        UserError: The given ones do not fit the maps.
    """
    if given is not None:
        if len(given) != len(strides) or len({len(each) for each in given}) != 1 or not given[0]:
            raise UserError(
                f"anchors is {[list(each) for each in given]}, but the pyramid has {len(strides)} maps, of the strides "
                f"{', '.join(map(str, strides))}: give a list for each, all of the same length, or 'auto'."
            )
        return [list(each) for each in given]
    if not sizes:
        middles = [8.0 * stride for stride in strides]
    else:
        logs = torch.tensor(sizes, dtype=torch.float64).clamp(min=1.0).log2()
        own = torch.tensor([_NATURAL * stride for stride in strides], dtype=torch.float64).log2()
        nearest = (logs[:, None] - own).abs().argmin(dim=1)
        means = [logs[nearest == place].mean() if (nearest == place).any() else own[place] for place in range(len(own))]
        middles = [float(2**mean) for mean in means]
    shift = 0.5 * (scales - 1) / scales
    return [[middle * 2 ** (scale / scales - shift) for scale in range(scales)] for middle in middles]


@contextmanager
def same_draws(training: bool, device: torch.device) -> Iterator[None]:
    """Outside training, draw from the same random numbers each time, and leave the generators as they are."""
    if training:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def per_image(values: Tensor, images: Tensor, counts: Tensor) -> Tensor:
    """Sums over what belongs to each image, divided by its count: float32 `[B]`.

    Args:
        values: float32 `[N]`.
        images: int64 `[N]`: the image of each.
        counts: `[B]`.
    """
    return values.new_zeros(len(counts)).index_add(0, images, values) / counts.clamp(min=1)


def required(name: str) -> Any:
    """A module of torchvision's detection."""
    return require(f"torchvision.models.detection.{name}", extra="vision", purpose=_NEEDS)


def plain(target: Boxes, first_class: int) -> list[dict[str, Tensor]]:
    """Boxes that are to be found, as torchvision has them: a mapping with `boxes` and `labels` for each image."""
    return [
        {"boxes": row.boxes[~row.ignored], "labels": row.classes[~row.ignored] + first_class} for row in target.rows()
    ]
