"""The Free Spoken Digit Dataset as a table: recordings.csv, with the path of a WAV file, digit and speaker a row.

The published split: recordings 0 to 4 of each digit and speaker are for testing. 5 to 9 are for validation here.

python prepare.py FOLDER_WITH_recordings.zip OUTPUT_FOLDER
"""

from __future__ import annotations

import csv
import sys
import zipfile
from pathlib import Path, PurePosixPath

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main(source: Path, output: Path) -> None:
    """Unpack the recordings and write the table."""
    with zipfile.ZipFile(source / "recordings.zip") as archive:
        recordings = sorted(name for name in archive.namelist() if name.endswith(".wav"))
        archive.extractall(output, recordings)
    with (output / "recordings.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "digit", "speaker", "part"])
        for name in recordings:
            digit, speaker, number = PurePosixPath(name).stem.split("_")
            part = "test" if int(number) < 5 else "valid" if int(number) < 10 else "train"
            writer.writerow([name, DIGITS[int(digit)], speaker, part])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
