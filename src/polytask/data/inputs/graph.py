"""Graphs in a column: molecules as SMILES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch

from polytask.data.encoded import Encoded, Encoding, GraphRows, Ragged
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.input import Input
from polytask.data.inputs.molecules import (
    ATOM_FEATURES,
    BOND_FEATURES,
    Molecule,
    MoleculeReader,
    UnreadableError,
    refuse_other_types,
)
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError
from polytask.graphs import Graphs
from polytask.shapes import GraphShape

_SAMPLE_ROWS = 256
_ROW_BYTES = 8192

_BLANK = Molecule(
    np.empty((0, len(ATOM_FEATURES)), dtype=np.int64), np.empty((0, 2 + len(BOND_FEATURES)), dtype=np.int64)
)


class GraphInput(Input):
    """Molecules, written as SMILES, as graphs: atoms are nodes, bonds are edges in both directions.

    RDKit reads them. Features are those of the Open Graph Benchmark (Hu et al., NeurIPS 2020,
    https://arxiv.org/abs/2005.00687), but with the size of the ring where it has only whether there is one, and with
    bonds that know whether they are in a ring. All are codes; the last of those of a count stands for more, and of a
    kind for any other.

    - atom: element (119), neighbours (12), formal charge (-5 to 6), hydrogens (10), radical electrons (6),
      hybridisation (s, sp, sp², sp³, sp³d, sp³d², other), aromatic (2), smallest ring (none, 3 to 8 atoms, more),
      chirality (none, clockwise, counter-clockwise, other)
    - bond: single, double, triple, aromatic, other; stereo (none, Z, E, cis, trans, other); conjugated (2); in a
      ring (2)

    A salt or a mixture (`CCO.[Na+].[Cl-]`) is one graph of several pieces. Molecules of one atom have no edge.

    Args:
        column: The column with the SMILES.
        hydrogens: Whether hydrogen atoms are nodes, too; else each atom knows how many it has.
        on_error: What becomes of a row without a readable molecule: `error`, or `skip`: it is left out, and logged.
    """

    modality: ClassVar[Literal["graph"]] = "graph"

    def __init__(
        self, column: str = "smiles", *, hydrogens: bool = False, on_error: Literal["error", "skip"] = "error"
    ) -> None:
        self.column = column
        self.hydrogens = hydrogens
        self.on_error = on_error
        self._reader: MoleculeReader | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return (self.column,)

    @property
    def shape(self) -> GraphShape:
        """See `Input.shape`."""
        return GraphShape(tuple(ATOM_FEATURES.values()), tuple(BOND_FEATURES.values()))

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`: nothing is learned, but the first rows are read to see whether they are molecules."""
        first = rows[:_SAMPLE_ROWS]
        for positions, part in table.batches([self.column], first, size=_SAMPLE_ROWS):
            failures = self.encode(part, positions, table).failures
            if len(failures) == len(first):
                row, problem = next(iter(failures.items()))
                raise UserError(
                    f"None of the first {len(first)} training rows has a molecule in '{self.column}': "
                    f"{table.locate(row)}: {problem}."
                )

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        if self._reader is None:
            self._reader = MoleculeReader(hydrogens=self.hydrogens)
        texts = part.column(self.column).to_pylist()
        refuse_other_types(texts, self.column, str(table.source))
        molecules, failures = [], {}
        for row, smiles in zip(rows, texts, strict=True):
            try:
                molecules.append(self._reader.read(smiles))
            except UnreadableError as error:
                failures[int(row)] = self._problem(str(error), smiles, int(row), table)
                molecules.append(_BLANK)
        if failures and self.on_error == "error":
            raise self._unreadable(*next(iter(failures.items())), table)
        atoms, bonds = ([molecule[place] for molecule in molecules] for place in (0, 1))
        return Encoding(GraphRows(_ragged(atoms, np.uint8), _ragged(bonds, np.int32)), failures)

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> Graphs:
        """See `Input.collate`."""
        assert isinstance(values, GraphRows)
        return collated(values)

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return _ROW_BYTES

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        return {"columns": list(self.columns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])

    def __getstate__(self) -> dict[str, Any]:
        # The reader holds modules, which cannot be sent to worker processes.
        return {**self.__dict__, "_reader": None}

    def _problem(self, problem: str, smiles: str | None, row: int, table: Table) -> str:
        return f"{problem}{table.absence(row, self.column).reason}" if smiles is None else problem

    def _unreadable(self, row: int, problem: str, table: Table) -> UserError:
        reason, ways = table.absence(row, self.column)
        mend, remove = ways if reason else ("Mend the SMILES", "remove the row")
        return UserError(
            f"{table.locate(row)}: {problem}. {mend}, {remove}, or set on_error: skip to leave out every row of this "
            "kind."
        )


def collated(values: GraphRows) -> Graphs:
    """Graphs side by side, as encoders read them."""
    edges = torch.from_numpy(values.edges.values.astype(np.int64))
    return Graphs.of(
        torch.from_numpy(values.nodes.values.astype(np.int64)),
        edges[:, :2].T.contiguous(),
        edges[:, 2:].contiguous(),
        torch.from_numpy(values.nodes.lengths),
        torch.from_numpy(values.edges.lengths),
        numbers=None if values.numbers is None else torch.from_numpy(values.numbers.values),
        edge_numbers=None if values.edge_numbers is None else torch.from_numpy(values.edge_numbers.values),
    )


def _ragged(rows: list[np.ndarray], dtype: type[np.generic]) -> Ragged:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return Ragged(np.concatenate(rows).astype(dtype), lengths)
