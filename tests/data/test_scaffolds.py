"""Molecules of one scaffold stay together."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from polytask.data.scaffolds import scaffold_groups
from polytask.data.splits import make_split
from polytask.data.table import Table
from polytask.errors import MissingExtra, UserError

pytest.importorskip("rdkit")

BENZENES = ["Cc1ccccc1", "CCc1ccccc1", "Oc1ccccc1", "c1ccccc1"]
PYRIDINES = ["Cc1ccncc1", "CCc1ccncc1"]
LINKED = ["c1ccc(Cc2ccccc2)cc1", "Cc1ccc(Cc2ccccc2)cc1"]
CHAINS = ["CCO", "CC(C)C", "C"]


def table_of(smiles, kind=None):
    return Table.from_arrow(pa.table({"smiles": pa.array(smiles, type=kind)}), source="molecules.csv")


def test_rings_and_what_links_them_make_a_scaffold():
    groups = scaffold_groups(table_of([*BENZENES, *PYRIDINES, *LINKED, *CHAINS]), "smiles")
    assert groups.tolist() == [0] * 4 + [1] * 2 + [2] * 2 + [3] * 3


def test_stereochemistry_makes_no_other_scaffold():
    pair = ["C[C@H]1CC[C@@H](C2CCCCC2)CC1", "C[C@@H]1CC[C@@H](C2CCCCC2)CC1"]
    assert scaffold_groups(table_of(pair), "smiles").tolist() == [0, 0]


def test_texts_that_are_no_molecules_are_groups_of_their_own_and_said_once(caplog, capfd):
    groups = scaffold_groups(table_of(["CCO", "CC(", "hello", None, " ", "CC(", "CC"]), "smiles")
    assert groups.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert [record.getMessage() for record in caplog.records] == [
        "molecules.csv: 5 rows have no molecule in 'smiles' (the first: row 2); each is a scaffold of its own in the "
        "split"
    ]
    assert capfd.readouterr().err == "", "RDKit is quiet"


def test_the_split_keeps_them_together():
    table = table_of([*BENZENES * 5, *PYRIDINES * 2, *LINKED * 2, *CHAINS])
    groups = scaffold_groups(table, "smiles")
    for by, seed in (("scaffold", 0), ("scaffold_balanced", 0), ("scaffold_balanced", 1)):
        split = make_split(table, by=by, column="smiles", valid=0.15, test=0.15, seed=seed)
        found = [set(groups[split[part]]) for part in ("train", "valid", "test")]
        assert sum(map(len, found)) == 4, "none is in two parts"
        assert found[0] >= {0}, "most are benzenes"


def test_the_largest_first_has_no_seed():
    table = table_of([*BENZENES, *PYRIDINES, *LINKED, *CHAINS])
    one, other = (make_split(table, by="scaffold", column="smiles", valid=0.2, test=0.2, seed=seed) for seed in (0, 1))
    for part in ("train", "valid", "test"):
        assert np.array_equal(one[part], other[part])


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ([1, 2, 3], r"the column 'smiles' \(number\) does not hold SMILES"),
        (["hello", "you", "there"], "no row has a molecule in 'smiles'"),
        (["CCO", "CC", "C"], "1 scaffolds cannot fill 3 parts"),
    ],
)
def test_columns_that_cannot_be_split_by_are_refused(smiles, message):
    with pytest.raises(UserError, match=message):
        make_split(table_of(smiles), by="scaffold", column="smiles", valid=0.2, test=0.2)


def test_says_what_to_install(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(MissingExtra, match=r"A split by scaffold needs .*pip install 'polytask\[graph\]'"):
        scaffold_groups(table_of(["C"]), "smiles")


def test_tox21(data_root):
    from polytask.data.readers import read_table

    table = read_table(data_root / "molecules" / "tox21.csv")
    rows = np.arange(0, len(table), 10)
    some = Table.from_arrow(table.take(rows))
    groups = scaffold_groups(some, "smiles")
    for by in ("scaffold", "scaffold_balanced"):
        split = make_split(some, by=by, column="smiles")
        parts = [split[part] for part in ("train", "valid", "test")]
        assert len(set(groups)) == sum(len(set(groups[rows])) for rows in parts)
        for rows, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
            assert abs(len(rows) - share * len(some)) <= 1
