"""Images of pipes with depth, normals and damage as tables: train.csv and valid.csv, a scene a row.

python prepare.py FOLDER_WITH_pipe_rgbd.zip OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pandas as pd

MAPS = {"image": "rgb", "damage": "labels", "depth": "depth", "normals": "normal"}


def main(source: Path, output: Path) -> None:
    """Unpack the images, and write a table for each of the two lists."""
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source / "pipe_rgbd.zip") as archive:
        archive.extractall(output)
    for part, listed in {"train": "train.txt", "valid": "val.txt"}.items():
        path = next(output.rglob(listed))
        folder = path.parent.relative_to(output)
        names = sorted(Path(line.strip()).stem for line in path.read_text().splitlines() if line.strip())
        rows = [{column: str(folder / each / f"{name}.png") for column, each in MAPS.items()} for name in names]
        pd.DataFrame(rows).to_csv(output / f"{part}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
