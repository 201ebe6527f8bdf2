"""Molecules as graphs: atoms and bonds with their features, from SMILES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from polytask.errors import UserError, require

_ELEMENTS = 118

ATOM_FEATURES = {
    "element": _ELEMENTS + 1,
    "neighbours": 12,
    "charge": 12,
    "hydrogens": 10,
    "radical electrons": 6,
    "hybridisation": 7,
    "aromatic": 2,
    "ring": 8,
    "chirality": 4,
}
"""For each feature of an atom, the number of its values; see `GraphInput`."""

BOND_FEATURES = {"type": 5, "stereo": 6, "conjugated": 2, "in a ring": 2}
"""For each feature of a bond, the number of its values."""

_HYBRIDISATIONS = {name: code for code, name in enumerate(("S", "SP", "SP2", "SP3", "SP3D", "SP3D2"))}
_BONDS = {name: code for code, name in enumerate(("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"))}
_STEREO = {name: code for code, name in enumerate(("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS"))}
_CHIRALITIES = {
    name: code for code, name in enumerate(("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW"))
}
_GREATEST_RING = 8
_SHOWN = 80


class UnreadableError(Exception):
    """A text is not a molecule; its message says why."""


class Molecule(NamedTuple):
    """A molecule.

    Attributes:
        atoms: int64 `[N, F]`: each atom's features, as codes of one vocabulary.
        bonds: int64 `[E, 2 + G]`: for each bond in both directions, the atoms that it goes from and to, and its
            features, likewise.
    """

    atoms: np.ndarray
    bonds: np.ndarray


class MoleculeReader:
    """Makes graphs of SMILES.

    Args:
        hydrogens: Whether hydrogen atoms are nodes, too.

    Raises:
        MissingExtra: RDKit is not installed.
    """

    def __init__(self, *, hydrogens: bool) -> None:
        purpose = "The input 'graph' with SMILES"
        self._chem: Any = require("rdkit.Chem", extra="graph", purpose=purpose)
        self._base: Any = require("rdkit.rdBase", extra="graph", purpose=purpose)
        self._hydrogens = hydrogens

    def read(self, smiles: str | None) -> Molecule:
        """The molecule that a SMILES says.

        Raises:
            UnreadableError: It says none.
        """
        if smiles is None:
            raise UnreadableError("there is no SMILES")
        if not smiles.strip():
            raise UnreadableError("the SMILES is empty")
        with self._base.BlockLogs():  # else it writes to the terminal itself
            molecule = self._chem.MolFromSmiles(smiles)
            if molecule is None:
                raise UnreadableError(f"{_shown(smiles)} is not a molecule: {self._problem(smiles)}")
            if self._hydrogens:
                molecule = self._chem.AddHs(molecule)
        if not molecule.GetNumAtoms():
            raise UnreadableError(f"{_shown(smiles)} has no atoms")
        return Molecule(self._atoms(molecule), self._bonds(molecule))

    def _problem(self, smiles: str) -> str:
        rough = self._chem.MolFromSmiles(smiles, sanitize=False)
        if rough is None:
            return "it is not written as SMILES are"
        problems = self._chem.DetectChemistryProblems(rough)
        return problems[0].Message() if problems else "RDKit cannot read it"

    def _atoms(self, molecule: Any) -> np.ndarray:
        rings = [0] * molecule.GetNumAtoms()
        for ring in sorted(molecule.GetRingInfo().AtomRings(), key=len, reverse=True):
            for atom in ring:
                rings[atom] = len(ring)  # that of the smallest, which comes last
        rows = [
            (
                atom.GetAtomicNum(),
                min(atom.GetDegree(), 11),
                min(max(atom.GetFormalCharge(), -5), 6) + 5,
                min(atom.GetTotalNumHs(), 9),
                min(atom.GetNumRadicalElectrons(), 5),
                _HYBRIDISATIONS.get(atom.GetHybridization().name, 6),
                int(atom.GetIsAromatic()),
                _ring_code(rings[number]),
                _CHIRALITIES.get(atom.GetChiralTag().name, 3),
            )
            for number, atom in enumerate(molecule.GetAtoms())
        ]
        return _in_one_vocabulary(rows, [*ATOM_FEATURES.values()])

    def _bonds(self, molecule: Any) -> np.ndarray:
        ends, rows = [], []
        for bond in molecule.GetBonds():
            first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            features = (
                _BONDS.get(bond.GetBondType().name, 4),
                _STEREO.get(bond.GetStereo().name, 5),
                int(bond.GetIsConjugated()),
                int(bond.IsInRing()),
            )
            ends += [(first, second), (second, first)]
            rows += [features, features]
        codes = _in_one_vocabulary(rows, [*BOND_FEATURES.values()])
        return np.concatenate([np.array(ends, dtype=np.int64).reshape(-1, 2), codes], axis=1)


def fraction_readable(texts: Sequence[str]) -> float:
    """The share of some texts that are molecules.

    Raises:
        MissingExtra: RDKit is not installed.
    """
    reader = MoleculeReader(hydrogens=False)

    def readable(text: str) -> bool:
        try:
            reader.read(text)
        except UnreadableError:
            return False
        return True

    return sum(map(readable, texts)) / max(1, len(texts))


def refuse_other_types(texts: Sequence[Any], column: str, source: str) -> None:
    """Refuse cells that are no texts.

    Raises:
        UserError: There is one.
    """
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{source}: the column '{column}' holds {type(text).__name__}, not SMILES. Name another column."
            )


def _ring_code(size: int) -> int:
    """0: in no ring; 1 to 6: the smallest ring has 3 to 8 atoms; 7: it has more."""
    return 0 if not size else min(size, _GREATEST_RING + 1) - 2


def _in_one_vocabulary(rows: Sequence[Sequence[int]], sizes: Sequence[int]) -> np.ndarray:
    """int64 `[n, F]`: codes of each feature by itself as codes of all of them, one feature after the other."""
    codes: np.ndarray = np.array(rows, dtype=np.int64).reshape(-1, len(sizes))
    codes += np.cumsum([0, *sizes[:-1]])
    return codes


def _shown(smiles: str) -> str:
    return f"'{smiles}'" if len(smiles) <= _SHOWN else f"'{smiles[:_SHOWN]}...'"
