"""A multi-target regression set of MULAN as a table: table.csv.

    python prepare.py FOLDER_WITH_THE_ARFF_FILES OUTPUT_FOLDER [SET]

SET is the name of a file without its ending; without it: enb, the heating and the cooling load of 768 buildings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def read_arff(path: Path) -> pd.DataFrame:
    """The table in an ARFF file: names behind `@attribute`, rows behind `@data`, `?` where a value is missing."""
    head, _, rows = path.read_text().partition("@data")
    names = [line.split()[1].strip("'\"") for line in head.splitlines() if line.lower().startswith("@attribute")]
    values = [line.split(",") for line in rows.split("\n") if line.strip() and not line.startswith("%")]
    return pd.DataFrame(values, columns=names).apply(lambda column: column.str.strip().replace("?", None))


def main(source: Path, output: Path, name: str = "enb") -> None:
    """Write the table."""
    output.mkdir(parents=True, exist_ok=True)
    read_arff(source / f"{name}.arff").to_csv(output / "table.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
