"""What a task asks of its target columns, and what the training part answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

TargetKind = Literal[
    "contrast",
    "corrupted",
    "masked_tokens",
    "rotation",
    "boxes",
    "category",
    "dense",
    "edges",
    "labels",
    "mask",
    "node_classes",
    "node_numbers",
    "numbers",
    "survival",
    "tags",
    "text",
]
MapMeaning = Literal["numbers", "depth", "normals"]


@dataclass(frozen=True)
class TargetSpec:
    """How a task's target columns are to be read.

    Attributes:
        kind: `category`: one column, one class a row. `labels`: any number of classes a row, either several yes/no
            columns or one column of lists (or of text with a separator). `numbers`: one or several numeric columns.
            `survival`: a time, and whether the event happened then. `boxes`: any number of boxes on an image a row.
            `tags`: one class for each word of a text. `text`: a text, letter by letter or word by word. `mask`: a class
            for each pixel of an image. `edges`: where the classes of such a mask meet. `dense`: numbers for each pixel.
            `node_classes` and `node_numbers`: a class, or a number, for each node of a graph.
            Without any column, from an input alone: `rotation`: how far an image was turned. `masked_tokens`: the
            tokens that were hidden. `corrupted`: what an input was before it was changed. `contrast`: which two
            versions are of one row.
        columns: The columns, in order.
        classes: The classes in order when the user fixed them; None: found on the training part.
        unseen: What a class that the training part does not have does later: `error`, or `unknown`, an extra class.
        separator: What separates the labels in a text column of kind `labels`.
        sources: The data sets, by name, that the labels are taken from; None: all that have the columns.
        sample_weight: The column with what each row counts in the mean loss; None: all the same.
        ordered: Whether the classes have an order, in which an extra class has no place (kind `category`).
        least: The least number that is allowed (kind `numbers`); None: all are.
        intervals: The greatest number of intervals that time is cut into (kind `survival`).
        image: The column with the images that the boxes lie on (kind `boxes`), or the input of images that maps lie
            on, nothing where there is but one (kinds `mask`, `edges` and `dense`).
        words: The input with the words, where there are several that have some (kind `tags`).
        unit: What a text consists of (kind `text`).
        ids: The classes' numbers in the files, in their order (kind `mask`); None: found on the training part.
        ignore: Numbers in the files that stand for no class (kinds `mask` and `edges`).
        edge: How many pixels wide an edge is on either side (kind `edges`).
        scale: What numbers in files are multiplied by (kind `dense`).
        shift: What is then added to them.
        invalid: Numbers in files that stand for no label (kind `dense`), as NaN always does.
        meaning: What happens to numbers whose image is moved (kind `dense`): `depth` shrinks as things are enlarged,
            and `normals` turn and are mirrored.
        upwards: Whether the second number of a normal points up in the image (kind `dense`).
        logarithm: Whether the mean and standard deviation wanted are those of logarithms (kind `dense`).
        on_error: What a file that cannot be read is (kinds `mask`, `edges` and `dense`): an error, or no label.
        input: The input that is read in changed versions, for kinds without columns; None: the only one of a suitable
            modality.
        share: The share of it that is changed (kinds `masked_tokens`, `corrupted` and `contrast`).
        corruption: What takes the place of values (kind `corrupted`): nothing, or those of other rows.
        area: The least share of an image that a version shows (kind `contrast`).
        color: How far brightness, contrast and saturation of images change (kind `contrast`).
    """

    kind: TargetKind
    columns: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    unseen: Literal["error", "unknown"] = "error"
    separator: str = "|"
    sources: tuple[str, ...] | None = None
    sample_weight: str | None = None
    ordered: bool = False
    least: float | None = None
    intervals: int = 0
    image: str = ""
    words: str | None = None
    unit: Literal["characters", "words"] = "characters"
    ids: tuple[int, ...] | None = None
    ignore: tuple[int, ...] = ()
    edge: int = 1
    scale: float = 1.0
    shift: float = 0.0
    invalid: tuple[float, ...] = ()
    meaning: MapMeaning = "numbers"
    upwards: bool = False
    logarithm: bool = False
    on_error: Literal["error", "skip"] = "error"
    input: str | None = None
    share: float = 0.0
    corruption: Literal["mask", "swap"] = "mask"
    area: float = 1.0
    color: float = 0.0


@dataclass(frozen=True)
class TargetSummary:
    """What the training part says about a target; it completes the task's parameters.

    Attributes:
        labelled: Number of training rows that have a label.
        classes: The classes in order (kinds `category`, `labels` and `tags`), or the letters or words (`text`).
        counts: Training rows of each class, of kinds `tags` and `text` how often it occurs; of kind `survival`: events
            in each interval.
        known: Training rows in which it is known whether they have each class (kind `labels`, where each column can be
            blank for itself); empty: all labelled rows. Of kind `survival`: rows that had the event in each interval,
            or are known to have had none up to its end.
        mean: Mean of each output over the labelled training rows (kind `numbers`).
        std: Standard deviation of each output, 1 where it is 0.
        edges: The ends of the intervals (kind `survival`).
        sizes: Quantiles, evenly spaced, of the square root of the boxes' areas, in pixels as the encoder reads them
            (kind `boxes`).
        image_size: Height and width of the images as the encoder reads them (kinds `boxes`, `mask`, `edges`, `dense`).
        longest: The greatest number of labels of a row (kinds `tags`, `text` and `masked_tokens`).
        cardinalities: The number of codes of each categorical column, whose `counts` follow each other (kind
            `corrupted`).
    """

    labelled: int
    classes: Sequence[str] = field(default=())
    counts: Sequence[int] = field(default=())
    known: Sequence[int] = field(default=())
    mean: Sequence[float] = field(default=())
    std: Sequence[float] = field(default=())
    edges: Sequence[float] = field(default=())
    sizes: Sequence[float] = field(default=())
    image_size: Sequence[int] = field(default=())
    longest: int = 0
    cardinalities: Sequence[int] = field(default=())
