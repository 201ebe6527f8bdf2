"""Pictures of what a model answers to images: the image, what is right, and what is predicted, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from polytask.boxes import Boxes
from polytask.data.batch import Batch
from polytask.data.boxes_target import BoxesTarget
from polytask.data.inputs.image import ImageInput
from polytask.data.pixel_target import PixelTarget
from polytask.errors import UserError
from polytask.evaluation.box_pictures import as_records, enlarged, with_boxes
from polytask.evaluation.pixel_files import color, picture, range_of
from polytask.partial import PartialInput
from polytask.pixels import PixelValues
from polytask.row_values import map_values, select_values
from polytask.training.atomic import making_folder
from polytask.training.saved_model import TrainedModel
from polytask.training.sources import Part

_GAP = 8
_LINE = 18
_LEAST_WIDTH = 220
_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


@dataclass(frozen=True)
class _Panel:
    """A picture with a title."""

    title: str
    pixels: np.ndarray


@torch.no_grad()
def draw_pictures(
    trained: TrainedModel, part: Part, folder: Path, *, count: int, batch_size: int = 16, device: str = "cpu"
) -> int:
    """Write a picture for each of the first rows: a line for each task that answers for positions of an image.

    Args:
        trained: The model.
        part: The rows; where target columns are there, what is right is shown too.
        folder: Where to put `ROW.png`; it must not exist.
        count: How many rows.
        batch_size: Rows at a time.
        device: Where to compute.

    Returns:
        The number of pictures.

    Raises:
        UserError: No task answers for positions of an image, or the folder cannot be written.
    """
    model = trained.model.to(device).eval()
    targets = {
        name: target
        for name, target in trained.preparation.targets.items()
        if isinstance(target, PixelTarget | BoxesTarget)
    }
    if not targets:
        raise UserError(
            "There is nothing to draw: no task of this model answers for positions of an image. Leave out --pictures."
        )
    there = [name for name, target in targets.items() if all(map(part.table.has, target.spec.columns))]
    rows = part.rows[:count]
    loader = trained.preparation.loader(part.table, rows, batch_size=batch_size, targets=there)
    drawn = 0
    with making_folder(folder) as made:
        for batch in loader:
            moved = batch.to(device)
            outputs = model(moved.inputs, list(targets))
            decoded = {
                name: model.tasks[name].decode(map_values(output, lambda value: value.float().cpu()))[""]
                for name, output in outputs.items()
            }
            for place, row in enumerate(batch.rows.tolist()):
                known = {name: _label(batch, name, place) for name in targets}
                images = {name: _image(trained, batch, target.follows, place) for name, target in targets.items()}
                lines = [
                    _boxes_line(name, image, known[name], decoded[name][place], targets[name].summary.classes)
                    if isinstance(targets[name], BoxesTarget)
                    else _line(name, image, known[name], decoded[name][place])
                    for name, image in images.items()
                    if image is not None
                ]
                if lines:
                    _together(lines).save(made / f"{row}.png")
                    drawn += 1
    return drawn


def _image(trained: TrainedModel, batch: Batch, name: str | None, place: int) -> _Panel | None:
    """A row's image; None where it lacks this one of several inputs."""
    assert name is not None
    source, values = trained.preparation.inputs[name], batch.inputs[name]
    assert isinstance(source, ImageInput)
    if isinstance(values, PartialInput):
        values = values.select(torch.tensor([place])).values
        return None if values is None else _Panel(name, source.shown(values)[0])
    return _Panel(name, source.shown(values[place : place + 1])[0])


def _label(batch: Batch, name: str, place: int) -> tuple[Any, np.ndarray] | None:
    """What is right for a row, and where it is known; None: there is no label."""
    if name not in batch.targets or not bool(batch.masks[name][place].any()):
        return None
    target = batch.targets[name]
    row = target.rows()[place] if isinstance(target, Boxes) else select_values(target, torch.tensor([place]))[0].numpy()
    return row, batch.masks[name][place].numpy()


def _line(
    name: str, image: _Panel, label: tuple[Any, np.ndarray] | None, found: PixelValues
) -> tuple[list[_Panel], Mapping[int, str]]:
    """The panels of a task, and the names of the classes that are seen in them."""
    panels = [image]
    scale, seen = None, [found.values]
    if label is not None:
        target, mask = label
        right = _right(target, found)
        scale = range_of(right, mask)
        panels.append(_Panel(f"{name}: target", picture(right, mask, scale)))
        seen.append(right.values[mask])
    panels.append(_Panel(f"{name}: prediction", picture(found, None, scale)))
    classes = found.classes or {}
    numbers = np.unique(np.concatenate([each.ravel() for each in seen])).tolist() if classes else []
    return panels, {number: classes[number] for number in numbers}


def _boxes_line(
    name: str,
    image: _Panel,
    label: tuple[Any, np.ndarray] | None,
    found: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> tuple[list[_Panel], Mapping[int, str]]:
    """The panels of a task that finds boxes; each box has its name beside it."""
    pixels, factor = enlarged(image.pixels)
    panels = [_Panel(image.title, pixels)]
    if label is not None:
        records = as_records(label[0], names)
        panels.append(_Panel(f"{name}: target", with_boxes(pixels, records, names, factor)))
    panels.append(_Panel(f"{name}: prediction", with_boxes(pixels, found, names, factor)))
    return panels, {}


def _right(target: np.ndarray, like: PixelValues) -> PixelValues:
    """A target in the form of a prediction."""
    if like.classes is not None:
        ids = np.array(list(like.classes))
        return PixelValues(ids[target], like.classes)
    values = target.astype(np.float32) if target.ndim == 2 else np.moveaxis(target, 0, -1)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return PixelValues(values, vectors=like.vectors)


def _together(lines: list[tuple[list[_Panel], Mapping[int, str]]]) -> Image.Image:
    """All lines of a row on one sheet."""
    font = ImageFont.load_default(size=13)
    strips = [_strip(panels, names, font) for panels, names in lines]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _strip(panels: list[_Panel], names: Mapping[int, str], font: Any) -> Image.Image:
    height, width = panels[0].pixels.shape[:2]
    # Whole factors, so that pixels of small images stay squares.
    factor = max(1, -(-_LEAST_WIDTH // width))
    height, width = height * factor, width * factor
    legend = _legend(names, len(panels) * (width + _GAP) - _GAP, font)
    sheet = Image.new(
        "RGB", (_GAP + len(panels) * (width + _GAP), _GAP + _LINE + height + legend.height + _GAP), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for place, panel in enumerate(panels):
        left = _GAP + place * (width + _GAP)
        draw.text((left, _GAP // 2), panel.title, fill=_INK, font=font)
        image = Image.fromarray(panel.pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (left, _GAP + _LINE))
    sheet.paste(legend, (_GAP, _GAP + _LINE + height))
    return sheet


def _legend(names: Mapping[int, str], width: int, font: Any) -> Image.Image:
    """The names of classes beside their colours, in as many lines as they take."""
    places, left, top = [], 0, _GAP // 2
    for number, name in names.items():
        length = _LINE + round(font.getlength(name)) + 2 * _GAP
        if left and left + length > width:
            left, top = 0, top + _LINE
        places.append((number, name, left, top))
        left += length
    sheet = Image.new("RGB", (width, top + _LINE if names else 1), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, name, x, y in places:
        draw.rectangle((x, y + 2, x + _LINE - 6, y + _LINE - 4), fill=color(number))
        draw.text((x + _LINE, y), name, fill=_INK, font=font)
    return sheet
