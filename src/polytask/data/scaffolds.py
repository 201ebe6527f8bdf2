"""Molecules grouped by their scaffolds: what is left of one without its side chains."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from polytask.data.column_types import is_text, plain_type
from polytask.data.table import Table
from polytask.errors import UserError, require

_PART_ROWS = 16_384

_log = logging.getLogger("polytask")


def scaffold_groups(table: Table, column: str) -> np.ndarray:
    """The scaffold of each row's molecule, int64 `[N]`: a number for each, in the order of appearance.

    A scaffold is a molecule's rings and what links them, without stereochemistry (Bemis and Murcko, "The Properties of
    Known Drugs. 1. Molecular Frameworks", J. Med. Chem. 1996, https://doi.org/10.1021/jm9602928). All molecules without
    a ring have the same one, an empty one. A text that is no molecule is a group of its own, and so is a missing one;
    how many there are is logged.

    Args:
        table: The table.
        column: A column of SMILES.

    Raises:
        UserError: The column is not there, holds no text, or no molecule.
        MissingExtra: RDKit is not installed.
    """
    find = _Scaffolds()
    storage = plain_type(table.column(column).type)
    if not is_text(storage):
        raise UserError(
            f"{table.source}: the column '{column}' ({table.types[column].value}) does not hold SMILES, which a split "
            "by scaffold needs. Name another column."
        )
    numbers: dict[str | int, int] = {}
    groups = np.empty(len(table), dtype=np.int64)
    unreadable: list[int] = []
    for rows, part in table.batches([column], size=_PART_ROWS):
        for row, smiles in zip(rows.tolist(), part.column(0).to_pylist(), strict=True):
            scaffold = find(smiles)
            if scaffold is None:
                unreadable.append(row)
            groups[row] = numbers.setdefault(row if scaffold is None else scaffold, len(numbers))
    if len(unreadable) == len(table):
        raise UserError(f"{table.source}: no row has a molecule in '{column}'. Name a column of SMILES.")
    if unreadable:
        _log.warning(
            "%s: %d rows have no molecule in '%s' (the first: row %d); each is a scaffold of its own in the split",
            table.source,
            len(unreadable),
            column,
            unreadable[0] + 1,
        )
    return groups


class _Scaffolds:
    """Finds the scaffold of a SMILES, as a SMILES."""

    def __init__(self) -> None:
        purpose = "A split by scaffold"
        self._chem: Any = require("rdkit.Chem", extra="graph", purpose=purpose)
        self._base: Any = require("rdkit.rdBase", extra="graph", purpose=purpose)
        self._murcko: Any = require("rdkit.Chem.Scaffolds.MurckoScaffold", extra="graph", purpose=purpose)

    def __call__(self, smiles: str | None) -> str | None:
        """The scaffold; None: the text is no molecule."""
        if smiles is None or not smiles.strip():
            return None
        with self._base.BlockLogs():  # else it writes to the terminal itself
            molecule = self._chem.MolFromSmiles(smiles)
            if molecule is None or not molecule.GetNumAtoms():
                return None
            found: str = self._murcko.MurckoScaffoldSmiles(mol=molecule, includeChirality=False)
            return found
