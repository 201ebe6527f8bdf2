"""CamVid as tables: train.csv, valid.csv and test.csv, an image of a street and its mask a row.

python prepare.py FOLDER_WITH_CamVid.zip OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pandas as pd


def main(source: Path, output: Path) -> None:
    """Unpack the images, and write a table for each part."""
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source / "CamVid.zip") as archive:
        archive.extractall(output)
    for part, folder in {"train": "train", "valid": "val", "test": "test"}.items():
        images = sorted((output / "CamVid" / folder).glob("*.jpg"))
        masks = [output / "CamVid" / f"{folder}annot" / f"{path.stem}.png" for path in images]
        rows = [
            {"image": str(image.relative_to(output)), "mask": str(mask.relative_to(output))}
            for image, mask in zip(images, masks, strict=True)
        ]
        pd.DataFrame(rows).to_csv(output / f"{part}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
