"""Census-Income (KDD) as a table: census.parquet, with a column that says which part a row belongs to.

python prepare.py FOLDER_WITH_census-income.test.gz OUTPUT_FOLDER

The file has 99,762 people. As in the benchmarks of multi-gate mixtures of experts, one task is whether the income is
above 50,000 dollars, the other whether somebody has never been married. The last 29,762 rows are for testing, the
10,000 before them for validation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = [
    *("age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour", "hs_college"),
    *("marital_stat", "major_ind_code", "major_occ_code", "race", "hisp_origin", "sex", "union_member"),
    *("unemp_reason", "full_or_part_emp", "capital_gains", "capital_losses", "stock_dividends", "tax_filer_stat"),
    *("region_prev_res", "state_prev_res", "det_hh_fam_stat", "det_hh_summ", "instance_weight", "mig_chg_msa"),
    *("mig_chg_reg", "mig_move_reg", "mig_same", "mig_prev_sunbelt", "num_emp", "fam_under_18", "country_father"),
    *("country_mother", "country_self", "citizenship", "own_or_self", "vet_question", "vet_benefits"),
    *("weeks_worked", "year", "income_50k"),
]
CODES = ["det_ind_code", "det_occ_code", "own_or_self", "vet_benefits", "year"]
"""Columns whose numbers are names."""


def main(source: Path, output: Path) -> None:
    """Write the table."""
    table = pd.read_csv(
        source / "census-income.test.gz",
        names=COLUMNS,
        dtype=dict.fromkeys(CODES, str),
        skipinitialspace=True,
        na_values="?",
        keep_default_na=False,
    )
    table["income"] = np.where(table.pop("income_50k").str.startswith("-"), "up to 50,000", "above 50,000")
    table["never_married"] = np.where(table.pop("marital_stat") == "Never married", "yes", "no")
    table["part"] = np.repeat(["train", "valid", "test"], [60_000, 10_000, len(table) - 70_000])
    output.mkdir(parents=True, exist_ok=True)
    table.to_parquet(output / "census.parquet", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
