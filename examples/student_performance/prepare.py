"""UCI Student Performance as one table: students.csv.

    python prepare.py FOLDER_WITH_student-mat.csv_AND_student-por.csv OUTPUT_FOLDER

Most students appear in both subjects. The column `student` groups the rows of one student (by the attributes that the
data set's authors name for this), so that a split by group keeps each student in one part.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

SAME_STUDENT = [
    *("school", "sex", "age", "address", "famsize", "Pstatus", "Medu"),
    *("Fedu", "Mjob", "Fjob", "reason", "nursery", "internet"),
]


def main(source: Path, output: Path) -> None:
    """Write the table."""
    subjects = {"maths": "student-mat.csv", "portuguese": "student-por.csv"}
    table = pd.concat(
        [pd.read_csv(source / file).assign(subject=subject) for subject, file in subjects.items()], ignore_index=True
    )
    table["student"] = table.groupby(SAME_STUDENT, sort=False).ngroup()
    table["passed"] = (table["G3"] >= 10).map({True: "yes", False: "no"})
    output.mkdir(parents=True, exist_ok=True)
    table.to_csv(output / "students.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
