"""CIFAR-10 as folders of images and BCCD in the layout of Pascal VOC: two data sets, each as it is published.

python prepare.py FOLDER_WITH_cifar10.zip_AND_BCCD.zip OUTPUT_FOLDER     (the archives may lie in folders of it)
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def main(source: Path, output: Path) -> None:
    """Unpack both."""
    output.mkdir(parents=True, exist_ok=True)
    for name, folder in (("BCCD.zip", output), ("cifar10.zip", output / "cifar10")):
        archive = next(iter(sorted(source.rglob(name))), None)
        if archive is None:
            sys.exit(f"There is no {name} in {source}.")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
