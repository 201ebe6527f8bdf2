import gzip

import pytest

from polytask.data.readers import read_table
from polytask.data.readers.options import ReadOptions
from polytask.errors import UserError

CONLLU = """\
# newdoc id = d1
# sent_id = d1-1
# text = I'm _ here
# a remark
1-2\tI'm\t_\t_\t_\t_\t_\t_\t_\t_
1\tI\tI\tPRON\tPRP\tCase=Nom\t3\tnsubj\t_\t_
2\t'm\tbe\tAUX\tVBP\t_\t3\tcop\t_\t_
3\t_\t_\tSYM\t_\t_\t0\troot\t_\t_
3.1\tthere\tthere\t_\t_\t_\t_\t_\t_\t_

# sent_id = d1-2
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(name, text, **options):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return read_table(path, ReadOptions(**options), tmp_path / "cache")

    return write_and_read


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_a_row_for_each_sentence(read, name):
    table = read(name, CONLLU)
    first, second = table.take(None).to_pylist()
    assert first["words"] == ["I", "'m", "_"]
    assert first["lemmas"] == ["I", "be", "_"]
    assert first["upos"] == ["PRON", "AUX", "SYM"]
    assert first["xpos"] == ["PRP", "VBP", None]
    assert first["feats"] == ["Case=Nom", None, None]
    assert (first["heads"], first["deprel"]) == ([3, 3, 0], ["nsubj", "cop", "root"])
    assert (first["sent_id"], first["text"], first["newdoc id"]) == ("d1-1", "I'm _ here", "d1")
    assert (second["words"], second["text"], second["newdoc id"]) == (["Yes"], None, None)


def test_a_file_may_end_in_a_sentence(read):
    assert len(read("a.conllu", CONLLU.rstrip("\n"))) == 2


def test_other_columns_are_an_error_with_the_line(read):
    with pytest.raises(UserError, match=r"a.conllu, line 2: .*10 columns separated by tabs, but this one has 2"):
        read("a.conllu", "# x = y\n1 word\tz\n")


def test_heads_are_numbers(read):
    with pytest.raises(UserError, match="heads of words are numbers"):
        read("a.conllu", "1\ta\ta\tX\t_\t_\tno\troot\t_\t_\n\n")


CONLL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

# NN O O
"""


def test_plain_columns(read):
    table = read("train.conll", CONLL)
    assert table.columns == ("words", "column2", "column3", "tags")
    assert table.take(None).to_pylist() == [
        {"words": ["EU", "rejects"], "column2": ["NNP", "VBZ"], "column3": ["B-NP", "B-VP"], "tags": ["B-ORG", "O"]},
        {"words": ["#"], "column2": ["NN"], "column3": ["O"], "tags": ["O"]},
    ]


def test_columns_can_be_named(read):
    table = read("train.txt", CONLL, format="conll", names=["token", "pos", "chunk", "ner"])
    assert table.columns == ("token", "pos", "chunk", "ner")
    with pytest.raises(UserError, match="line 3: there are 4 columns, but 2 names"):
        read("other.conll", CONLL, names=["token", "ner"])


def test_a_line_with_other_columns_is_an_error(read):
    with pytest.raises(UserError, match=r"a.conll, line 4: there are 1 columns, but the first sentence has 2"):
        read("a.conll", "a X\nb Y\n\nc\n")


def test_an_empty_file_has_no_sentences(read):
    with pytest.raises(UserError, match="has no sentences"):
        read("a.conll", "\n\n")
