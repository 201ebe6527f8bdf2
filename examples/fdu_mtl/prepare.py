"""FDU-MTL as two tables: train.csv and test.csv, one column of labels for each of the 16 domains.

    python prepare.py FOLDER_WITH_*.task.train.gz OUTPUT_FOLDER

A review has a label in its own domain's column and none in the others: that is how one table holds several data sets.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pandas as pd


def reviews(path: Path, domain: str) -> pd.DataFrame:
    """The reviews of one file, with the label in the domain's column."""
    with gzip.open(path, "rt", encoding="iso-8859-2") as lines:
        pairs = [line.rstrip("\n").split("\t", 1) for line in lines]
    empty = sum(not text.strip() for _, text in pairs)
    if empty:
        print(f"{path.name}: {empty} review without a word is left out")
    pairs = [(label, text) for label, text in pairs if text.strip()]
    labels = ["positive" if label == "1" else "negative" for label, _ in pairs]
    return pd.DataFrame({"text": [text for _, text in pairs], "domain": domain, domain: labels})


def main(source: Path, output: Path) -> None:
    """Write the tables."""
    output.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        files = sorted(source.glob(f"*.task.{part}.gz"), key=lambda path: path.name.lower())
        frames = [reviews(path, path.name.partition(".")[0].lower()) for path in files]
        pd.concat(frames, ignore_index=True).to_csv(output / f"{part}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
