"""PACS as a folder of images with metadata.csv: the kind of thing shown, and the style it is drawn in.

python prepare.py FOLDER_WITH_PACS.zip OUTPUT_FOLDER
"""

from __future__ import annotations

import csv
import sys
import zipfile
from pathlib import Path, PurePosixPath


def main(source: Path, output: Path) -> None:
    """Unpack the images and write the table."""
    with zipfile.ZipFile(source / "PACS.zip") as archive:
        images = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        archive.extractall(output, images)
    with (output / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "kind", "style"])
        for name in images:
            _, style, kind, _ = PurePosixPath(name).parts
            writer.writerow([name, kind, style])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
