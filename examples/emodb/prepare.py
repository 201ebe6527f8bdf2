"""EmoDB as a table: recordings.csv, with the path of a WAV file, the emotion, the gender and the speaker a row.

Emotion and gender are to be told of speakers whom the network has never heard. Who is speaking can only be told of
those it has heard, but then of sentences it has not. So the parts differ, and a label that would make a test too easy,
or one without an answer, is left empty:

- test: one man and one woman, with emotion and gender; of the others, one sentence out of ten, with the speaker
- valid: the same with another man and woman, and another sentence
- train: all else, with all labels

python prepare.py FOLDER_WITH_wav_8k.zip OUTPUT_FOLDER [FOLD [all]]

FOLD, 0 to 3 (0 if not given), says which of four pairs of a man and a woman is for testing; the next one is for
validation. With `all`, what is for validation is for training, too.
"""

from __future__ import annotations

import csv
import sys
import zipfile
from pathlib import Path

PAIRS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"))
TEST_SENTENCES = ("b10", "b09", "a07", "a01")
VALID_SENTENCES = ("a05", "a04", "b03", "b02")


def main(source: Path, output: Path, fold: int = 0, *, everything: bool = False) -> None:
    """Unpack the recordings and write the table."""
    with zipfile.ZipFile(source / "wav_8k.zip") as archive:
        archive.extractall(output / "recordings", [name for name in archive.namelist() if name.endswith(".wav")])
    unheard = {"test": PAIRS[fold], "valid": () if everything else PAIRS[(fold + 1) % len(PAIRS)]}
    unsaid = {"test": TEST_SENTENCES[fold], "valid": None if everything else VALID_SENTENCES[fold]}
    with (source / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (output / "recordings.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "emotion", "gender", "speaker", "part"])
        for row in rows:
            labels = [row["emotion"], {"f": "female", "m": "male"}[row["gender"]], f"speaker {row['speaker']}"]
            part = next((name for name, speakers in unheard.items() if row["speaker"] in speakers), None)
            if part is not None:
                labels[2] = ""
            else:
                part = next((name for name, sentence in unsaid.items() if row["text_code"] == sentence), "train")
                if part != "train":
                    labels[:2] = ["", ""]
            writer.writerow([f"recordings/{row['file']}", *labels, part])


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]) if len(sys.argv) > 3 else 0,
        everything="all" in sys.argv[4:],
    )
