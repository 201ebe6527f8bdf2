"""Five tasks of GLUE as tables: cola-train.csv, cola-dev.csv, sst2-train.csv...

Each has the columns `sentence1`, `sentence2` (not there for single sentences) and one of labels, called as the task is.

python prepare.py FOLDER_WITH_CoLA_AND_THE_OTHERS OUTPUT_FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pandas as pd

# Folder, and what its columns are called; CoLA has no header line.
TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "cola": ("CoLA", {"3": "sentence1", "1": "cola"}),
    "sst2": ("SST-2", {"sentence": "sentence1", "label": "sst2"}),
    "mrpc": ("MRPC", {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "mrpc"}),
    "rte": ("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "rte"}),
    "stsb": ("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "score": "stsb"}),
}
NAMES = {
    "cola": {"0": "unacceptable", "1": "acceptable"},
    "sst2": {"0": "negative", "1": "positive"},
    "mrpc": {"0": "different", "1": "paraphrase"},
}


def main(source: Path, output: Path) -> None:
    """Write a table for each task and part."""
    output.mkdir(parents=True, exist_ok=True)
    for task, (folder, columns) in TASKS.items():
        for part in ("train", "dev"):
            path = next((source / folder).glob(f"{part}.tsv*"))
            table = pd.read_csv(
                path,
                sep="\t",
                quoting=csv.QUOTE_NONE,
                encoding="utf-8-sig",
                header=None if task == "cola" else 0,
                dtype=str,
                keep_default_na=False,
            )
            table = table.rename(columns=str)[list(columns)].rename(columns=columns)
            if task in NAMES:
                table[task] = table[task].map(NAMES[task])
            table = table[table["sentence1"].str.strip() != ""]
            table.to_csv(output / f"{task}-{part}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
