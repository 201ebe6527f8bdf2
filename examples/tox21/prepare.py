"""Tox21 as a table: tox21.csv, a SMILES and twelve assays a row, empty where an assay was not made.

python prepare.py FOLDER_WITH_tox21.csv OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def main(source: Path, output: Path) -> None:
    """Write the table, its labels in words."""
    output.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(source / "tox21.csv")
    assays = [column for column in table.columns if column != "smiles"]
    table[assays] = table[assays].replace({0: "inactive", 1: "active"})
    table.to_csv(output / "tox21.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
