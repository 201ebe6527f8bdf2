"""The sizes of image files, without their pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from polytask.data.inputs.cells import UnreadableError, file_of
from polytask.data.table import Table
from polytask.errors import UserError

_ORIENTATION = 274
_TURNED = (5, 6, 7, 8)
"""Orientations (Exif) in which the stored rows are the columns of the picture."""


def image_size(table: Table, row: int, column: str) -> tuple[int, int]:
    """Height and width of the image in a cell, as it is shown.

    Args:
        table: The table.
        row: The row's position.
        column: The column with paths, files' bytes, or records of both.

    Raises:
        UserError: There is no readable image.
    """
    cell = table.take(np.array([row]), [column]).column(0)[0].as_py()
    try:
        source, name = file_of(cell, table.folder_of(row, column), "image")
        try:
            with Image.open(source) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableError(f"the image {name} cannot be read: {error}") from error
    except UnreadableError as error:
        raise UserError(
            f"{table.locate(row)}: {error}, so that the size is not known that its boxes are measured by. Mend the "
            "file, or empty the row's boxes."
        ) from error
    return (width, height) if turned else (height, width)
