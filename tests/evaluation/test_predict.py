import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytask.evaluation.predict import _LISTS, _table, write_predictions


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("kind", "full", "empty"),
    [(str, [["N", "V"]], [[]]), (float, [[1.5, 2.0]], [[]]), (str, ['[{"class": "cell"}]'], [None])],
)
def test_a_batch_of_empty_answers_has_the_types_of_the_others(tmp_path, order, kind, full, empty):
    lists = {"answer": _LISTS[kind]}
    tables = [_table({"row": np.array([0]), "answer": values}, lists) for values in (full, empty)]
    path = tmp_path / "found.parquet"
    assert write_predictions(iter([tables[number] for number in order]), path) == 2
    values = [full[0], empty[0]]
    assert pq.read_table(path)["answer"].to_pylist() == [values[number] for number in order]
    assert not pa.types.is_null(tables[1].schema.field("answer").type)
