import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from polytask.data.batch import Batch
from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import GraphInput
from polytask.data.inputs.molecules import ATOM_FEATURES, BOND_FEATURES, MoleculeReader, UnreadableError
from polytask.data.request import Request
from polytask.data.table import Table
from polytask.errors import MissingExtra, UserError

pytest.importorskip("rdkit")


def _table(smiles, kind=None):
    return Table.from_arrow(pa.table({"smiles": pa.array(smiles, type=kind)}), source="molecules.csv")


def _fitted(table, **parameters):
    source = GraphInput(**parameters)
    source.resolve(table, ())
    source.fit(table, np.arange(len(table)), {})
    return source


def _encode(source, table, rows=None):
    rows = np.arange(len(table)) if rows is None else np.array(rows)
    return source.encode(table.take(rows), rows, table)


def _graphs(smiles, **parameters):
    table = _table(smiles)
    source = _fitted(table, **parameters)
    return source.collate(_encode(source, table).values, np.arange(len(table)), None)


def _features(codes, sizes):
    """Each feature's own codes, by name: without those of the features before it."""
    starts = np.cumsum([0, *sizes.values()])
    assert ((codes >= starts[:-1]) & (codes < starts[1:])).all()
    return dict(zip(sizes, (codes - starts[:-1]).T.tolist(), strict=True))


def test_ethanol_by_hand():
    (atoms, bonds) = MoleculeReader(hydrogens=False).read("CCO")
    assert _features(atoms, ATOM_FEATURES) == {
        "element": [6, 6, 8],
        "neighbours": [1, 2, 1],
        "charge": [5, 5, 5],
        "hydrogens": [3, 2, 1],
        "radical electrons": [0, 0, 0],
        "hybridisation": [3, 3, 3],
        "aromatic": [0, 0, 0],
        "ring": [0, 0, 0],
        "chirality": [0, 0, 0],
    }
    assert bonds[:, :2].tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert _features(bonds[:, 2:], BOND_FEATURES) == {name: [0, 0, 0, 0] for name in BOND_FEATURES}


@pytest.mark.parametrize(
    ("smiles", "atom", "bond"),
    [
        ("c1ccccc1", {"aromatic": [1] * 6, "ring": [4] * 6, "hybridisation": [2] * 6}, {"type": [3] * 12}),
        ("C1CC1", {"ring": [1, 1, 1]}, {"in a ring": [1] * 6, "conjugated": [0] * 6}),
        # A ring of three atoms beside one of four: what they share is in the smaller one.
        ("C1CC2CC12", {"ring": [2, 2, 1, 1, 1]}, {}),
        ("C1CCCCCCCC1", {"ring": [7] * 9}, {}),
        ("C=CC#N", {"hybridisation": [2, 2, 1, 1]}, {"type": [1, 1, 0, 0, 2, 2]}),
        ("F/C=C/F", {}, {"stereo": [0, 0, 2, 2, 0, 0]}),
        ("C[C@H](N)O", {"chirality": [0, 2, 0, 0]}, {}),
        ("[O-][N+](=O)C", {"charge": [4, 6, 5, 5]}, {}),
        ("[CH3]", {"radical electrons": [1], "hydrogens": [3]}, {}),
        ("*C", {"element": [0, 6], "hybridisation": [6, 3]}, {}),
        ("[Fe]", {"element": [26]}, {"type": []}),
    ],
)
def test_features_of_atoms_and_bonds(smiles, atom, bond):
    atoms, bonds = MoleculeReader(hydrogens=False).read(smiles)
    found = _features(atoms, ATOM_FEATURES)
    assert {name: found[name] for name in atom} == atom
    found = _features(bonds[:, 2:], BOND_FEATURES)
    assert {name: found[name] for name in bond} == bond


def test_a_batch_of_a_molecule_an_atom_and_a_salt():
    graphs = _graphs(["CCO", "C", "CC(=O)[O-].[Na+]"])
    assert len(graphs) == 3
    assert graphs.nodes.tolist() == [3, 1, 5]
    assert graphs.edges.tolist() == [4, 0, 6]
    assert graphs.batch.tolist() == [0] * 3 + [1] + [2] * 5
    assert graphs.edge_index[:, :4].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graphs.edge_index[:, 4:].min() == 4
    assert 8 not in graphs.edge_index, "sodium has no bond"
    assert graphs.x[:, 0].tolist() == [6, 6, 8, 6, 6, 6, 8, 8, 11]
    assert graphs.edge_attr.shape == (10, len(BOND_FEATURES))


def test_hydrogens_can_be_atoms():
    graphs = _graphs(["CO"], hydrogens=True)
    assert sorted(graphs.x[:, 0].tolist()) == [1, 1, 1, 1, 6, 8]


BAD = {
    None: "there is no SMILES",
    " ": "the SMILES is empty",
    "CC(": "it is not written as SMILES are",
    "C(C)(C)(C)(C)C": "Explicit valence for atom # 0 C, 5, is greater than permitted",
    "c1cccc1": "Can't kekulize",
}


@pytest.mark.parametrize(("smiles", "problem"), BAD.items())
def test_a_text_that_is_no_molecule_is_an_error_or_skipped(smiles, problem, capfd):
    table = _table(["CCO", smiles, "CC"])
    with pytest.raises(UserError) as raised:
        _encode(GraphInput(), table)
    assert problem in str(raised.value)
    assert "molecules.csv, row 2" in str(raised.value)
    assert "on_error: skip" in str(raised.value)
    source = _fitted(table, on_error="skip")
    encoding = _encode(source, table)
    assert list(encoding.failures) == [1]
    assert problem in encoding.failures[1]
    rows = EncodedRows(table, np.arange(3), {"molecule": source}, {}, seed=None, cache_bytes=10**6)
    assert rows.rows.tolist() == [0, 2]
    assert list(rows.failures) == [1]
    batch = rows[Request(0, np.array([1, 0]))].batch
    assert batch.inputs["molecule"].nodes.tolist() == [2, 3]
    streamed = EncodedRows(table, np.arange(3), {"molecule": source}, {}, seed=None, cache_bytes=0)
    fetched = streamed[Request(0, np.array([2, 1, 0]))]
    assert fetched.batch.inputs["molecule"].nodes.tolist() == [2, 3]
    assert list(fetched.failures) == [1]
    assert capfd.readouterr().err == "", "RDKit is quiet"


def test_long_texts_are_cut_in_messages():
    with pytest.raises(UnreadableError, match=r"'C{80}\.\.\.' is not a molecule"):
        MoleculeReader(hydrogens=False).read("C" * 200 + "(")


def test_a_column_without_any_molecule_is_refused_at_once():
    with pytest.raises(UserError, match="None of the first 2 training rows has a molecule in 'smiles': .*'hello'"):
        _fitted(_table(["hello", "you"]), on_error="skip")


def test_a_column_of_numbers_is_refused():
    table = _table([1, 2], pa.int64())
    with pytest.raises(UserError, match="the column 'smiles' holds int, not SMILES"):
        _fitted(table)


def test_batches_of_graphs_lose_rows_and_move():
    graphs = _graphs(["CCO", "C", "CC"])
    masks = {"a": torch.tensor([True, False, True]), "b": torch.tensor([False, False, True])}
    targets = {task: mask.long() for task, mask in masks.items()}
    batch = Batch.of({"molecule": graphs}, targets, masks, torch.arange(3))
    assert batch.part(torch.tensor([2, 1])).inputs["molecule"].nodes.tolist() == [2, 1]
    assert batch.only(["a"]).inputs["molecule"].nodes.tolist() == [3, 2]
    there = batch.to("meta").inputs["molecule"]
    assert all(tensor.is_meta for tensor in vars(there).values() if tensor is not None)


def test_it_can_be_sent_to_a_worker_and_learns_nothing_but_its_columns():
    table = _table(["CCO", "C"])
    source = _fitted(table)
    _encode(source, table)
    for other in (pickle.loads(pickle.dumps(source)), GraphInput()):
        other.load_state_dict(source.state_dict())
        assert other.columns == ("smiles",)
        assert other.shape == source.shape
        found = other.collate(_encode(other, table).values, np.arange(2), None)
        assert found.nodes.tolist() == [3, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_from_worker_processes_as_well(workers):
    table = _table(["CCO", "C", "CC(=O)[O-].[Na+]", "CC"])
    rows = EncodedRows(table, np.arange(4), {"molecule": _fitted(table)}, {}, seed=None, cache_bytes=0)
    requests = [Request(0, np.array([3, 2])), Request(0, np.array([1, 0]))]
    loader = DataLoader(rows, sampler=requests, batch_size=None, num_workers=workers)
    found = [fetched.batch.inputs["molecule"] for fetched in loader]
    assert [graphs.nodes.tolist() for graphs in found] == [[2, 5], [1, 3]]
    assert found[0].edge_index.tolist() == [[0, 1, 2, 3, 3, 4, 3, 5], [1, 0, 3, 2, 4, 3, 5, 3]]


def test_says_what_to_install(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(MissingExtra, match=r"The input 'graph' with SMILES needs .*pip install 'polytask\[graph\]'"):
        _fitted(_table(["C"]))
