"""A tenth of QM9 as a table: qm9.csv, a SMILES and twelve properties of the molecule a row.

python prepare.py FOLDER_WITH_qm9_val_split.csv.gz OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def main(source: Path, output: Path) -> None:
    """Write the table, uncompressed."""
    output.mkdir(parents=True, exist_ok=True)
    (file,) = source.glob("*.csv.gz")
    pd.read_csv(file).to_csv(output / "qm9.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
