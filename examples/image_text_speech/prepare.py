"""Images, texts and recordings of three public data sets as three tables, for one network.

- images.parquet: 10,000 garments of Fashion-MNIST, 28 x 28 pixels, and which of ten kinds each is.
- texts.csv: 7,600 news of AG News (its test file), title and description, and which of four topics each has.
- recordings.csv: 3,000 recordings of the Free Spoken Digit Dataset, the digit and the speaker. The published split:
  recordings 0 to 4 of each digit and speaker are for testing. 5 to 9 are for validation here.

python prepare.py FOLDER_OF_fashion_mnist FOLDER_OF_ag_news FOLDER_OF_fsdd OUTPUT_FOLDER
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

GARMENTS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TOPICS = ("world", "sports", "business", "science")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def images(source: Path) -> pd.DataFrame:
    """Each image as the bytes of a PNG file."""
    pixels = idx(source / "images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    return pd.DataFrame(
        {
            "image": [png(each) for each in pixels],
            "garment": [GARMENTS[label] for label in idx(source / "labels-idx1-ubyte.gz", header=8)],
        }
    )


def idx(path: Path, header: int) -> np.ndarray:
    """The values of an IDX file, uint8."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)


def png(pixels: np.ndarray) -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def texts(source: Path) -> pd.DataFrame:
    """Title and description as one text."""
    found = pd.read_csv(source / "test.csv.gz", header=None, names=["topic", "title", "description"])
    topics = [TOPICS[number - 1] for number in found["topic"]]
    return pd.DataFrame({"text": found["title"] + ". " + found["description"], "topic": topics})


def recordings(source: Path, output: Path) -> pd.DataFrame:
    """Unpacks the recordings; their paths, digits and speakers."""
    rows = []
    with zipfile.ZipFile(source / "recordings.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".wav"))
        archive.extractall(output, names)
    for name in names:
        digit, speaker, number = PurePosixPath(name).stem.split("_")
        part = "test" if int(number) < 5 else "valid" if int(number) < 10 else "train"
        rows.append((name, DIGITS[int(digit)], speaker, part))
    return pd.DataFrame(rows, columns=["recording", "digit", "speaker", "part"])


def main(fashion: Path, news: Path, speech: Path, output: Path) -> None:
    """Write the three tables."""
    output.mkdir(parents=True, exist_ok=True)
    images(fashion).to_parquet(output / "images.parquet")
    texts(news).to_csv(output / "texts.csv", index=False)
    recordings(speech, output).to_csv(output / "recordings.csv", index=False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
