"""Boxes drawn on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from polytask.boxes import RowBoxes
from polytask.data.box_cells import SIDES
from polytask.evaluation.pixel_files import color

_LEAST_WIDTH = 320
_SHOWN_FROM = 0.5
"""The least score of a detection that is drawn; where none is as sure, the surest one is."""


def enlarged(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """A small image enlarged, so that there is room for names in it: uint8 `[H, W, 3]`, and how many times."""
    factor = max(1, -(-_LEAST_WIDTH // pixels.shape[1]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1), factor


def with_boxes(
    pixels: np.ndarray, boxes: Sequence[Mapping[str, Any]], classes: Sequence[str], factor: int
) -> np.ndarray:
    """An image with boxes on it, each with the name of its class and its score if it has one.

    Args:
        pixels: uint8 `[H, W, 3]`.
        boxes: `{class, xmin, ymin, xmax, ymax}`, and for detections `score`.
        classes: All classes, each of which has a colour.
        factor: What sides are multiplied by.
    """
    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    for box in _worth_showing(boxes):
        left, top, right, bottom = (factor * box[side] for side in SIDES)
        ink = color(list(classes).index(box["class"]) + 1)
        draw.rectangle((left, top, right, bottom), outline=ink, width=2)
        text = f"{box['class']} {box['score']:.2f}" if "score" in box else str(box["class"])
        place = (left + 2, max(top - 13, 0))
        draw.rectangle(draw.textbbox(place, text, font=font), fill=ink)
        draw.text(place, text, fill=(255, 255, 255) if sum(ink) < 384 else (0, 0, 0), font=font)
    return np.asarray(image)


def as_records(row: RowBoxes, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes of a target as detections have them, without scores."""
    return [
        {"class": classes[number], **dict(zip(SIDES, box, strict=True))}
        for box, number in zip(row.boxes.tolist(), row.classes.tolist(), strict=True)
    ]


def _worth_showing(boxes: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    sure = [box for box in boxes if box.get("score", 1.0) >= _SHOWN_FROM]
    return sure or boxes[:1]
