"""Tags of words, pairs of sentences and texts that are spelled out, from tables to predictions."""

import gzip
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import TextInput
from polytask.data.preparation import Preparation
from polytask.data.readers import read_table
from polytask.data.samplers import ByLength, Shuffled, StreamRows
from polytask.labels import TargetSpec

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"


def prepare(example: str, source: Path, output: Path) -> Path:
    script = EXAMPLES / example / "prepare.py"
    subprocess.run([sys.executable, str(script), str(source), str(output)], check=True, timeout=120)
    shutil.copy(EXAMPLES / example / "config.yaml", output / "config.yaml")
    return output / "config.yaml"


def run_of(polytask, config: Path, *overrides: str) -> dict:
    code, _out, err = polytask("train", config, *overrides, "training.tensorboard=false", "-o", "run")
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    return json.loads(out)["tasks"]


def test_ud_english_ewt(data_root: Path, polytask, process, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    for part, sentences in (("train", 500), ("dev", 60), ("test", 60)):
        name = f"en_ewt-ud-{part}.conllu.gz"
        with gzip.open(data_root / "ud_english_ewt" / name, "rt", encoding="utf-8") as file:
            blocks = file.read().split("\n\n")
        random.Random(0).shuffle(blocks)
        with gzip.open(source / name, "wt", encoding="utf-8") as file:
            file.write("\n\n".join([block for block in blocks if block.strip()][:sentences]) + "\n\n")
    config = prepare("ud_english_ewt", source, tmp_path)
    small = ["training.epochs=4", "training.batch_size=16", "inputs.text.buckets=3000", "tasks.genre.unseen=unknown"]
    small += [f"model.encoders.text.{name}" for name in ("hidden=32", "dim=32", "dropout=0.0")]
    found = run_of(polytask, config, *small, "training.optimizer.lr=0.01")
    assert found["upos"]["scores"]["accuracy"] > 0.5
    assert found["deprel"]["gain"] > 0.2
    # Predictions need neither the training data nor tags; lists are lists in Parquet, and text in CSV.
    new = pd.DataFrame({"words": [["I", "saw", "it", "."], ["Yes"]]})
    new.to_json(tmp_path / "new.jsonl", orient="records", lines=True)
    for name in ("out.parquet", "out.csv"):
        done = process("predict", "run", "new.jsonl", "-o", name)
        assert done.returncode == 0, done.stderr
    whole, flat = pd.read_parquet(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "out.csv")
    assert [len(tags) for tags in whole.upos] == [4, 1]
    assert whole.upos[0][3] == "PUNCT"
    assert [" ".join(tags) for tags in whole.upos] == list(flat.upos)


def test_glue(data_root: Path, polytask, process, tmp_path: Path):
    config = prepare("glue", data_root / "glue", tmp_path)
    for path in tmp_path.glob("*.csv"):
        pd.read_csv(path).groupby(lambda row: row % 2).head(60).to_csv(path, index=False)
    found = run_of(polytask, config, "training.epochs=2", "model.encoders.text.dim=16", "model.encoders.text.filters=8")
    assert set(found) == {"cola", "sst2", "mrpc", "rte", "stsb"}
    assert {"mcc", "accuracy"} <= set(found["cola"]["scores"])
    assert {"pearson", "spearman"} <= set(found["stsb"]["scores"])
    pairs = pd.DataFrame({"sentence1": ["A man sings.", "It is fine."], "sentence2": ["A man is singing.", None]})
    pairs.to_csv(tmp_path / "new.csv", index=False)
    done = process("predict", "run", "new.csv", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out.csv")) == 2


NAMES = ("Ada", "Alan", "Grace", "Kurt", "Emmy")
PLACES = ("Paris", "London", "Vienna", "Rome")


@pytest.fixture
def names_and_places(tmp_path: Path) -> Path:
    """Sentences with names of persons and of places, in columns as in CoNLL-2003."""
    draw = random.Random(0)
    for part, count in (("train", 200), ("test", 40)):
        lines = []
        for _ in range(count):
            person, place = draw.choice(NAMES), draw.choice(PLACES)
            tags = [(person, "B-PER"), ("Hopper", "I-PER"), ("lives", "O"), ("in", "O"), (place, "B-LOC"), (".", "O")]
            kept = tags if draw.random() < 0.5 else [tags[0], *tags[2:]]
            lines += [*(f"{word} X {tag}" for word, tag in kept), ""]
        (tmp_path / f"{part}.conll").write_text("-DOCSTART- -X- O\n\n" + "\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("tokenizer", ["words", "bpe"])
def test_spans_of_names(names_and_places: Path, polytask, tokenizer):
    (names_and_places / "config.yaml").write_text(f"""
data: {{train: train.conll, test: test.conll}}
inputs: {{text: {{type: text, column: words, words: true, tokenizer: {tokenizer}, vocabulary: 300, lowercase: false}}}}
tasks: {{tags: {{type: tagging, metric: span_f1, pool: mean}}}}
model: {{encoders: {{text: {{type: transformer, dim: 32, heads: 2, depth: 1}}}}}}
training: {{epochs: 6, batch_size: 20, optimizer: {{type: adamw, lr: 5.0e-3}}, sampler: by_length}}
""")
    found = run_of(polytask, names_and_places / "config.yaml")
    assert found["tags"]["scores"]["span_f1"] > 0.95


def test_texts_are_spelled(polytask, process, tmp_path: Path):
    draw = random.Random(0)
    letters = {"one": "a x b", "two": "c c", "three": "b a x"}
    rows = []
    for number in range(300):
        said = [draw.choice(list(letters)) for _ in range(draw.randint(1, 3))]
        rows.append({"heard": " z z ".join(letters[word] for word in said), "said": " ".join(said), "n": number})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "config.yaml").write_text("""
data: {train: table.csv, columns: {heard: text, said: text}}
inputs: {heard: {type: text, column: heard, words: true, tokenizer: words, buckets: 100}}
tasks: {said: {type: ctc, unit: words, beam: 3}}
model: {encoders: {heard: {type: bigru, dim: 16, hidden: 32, dropout: 0.0}}}
training: {epochs: 12, batch_size: 20, optimizer: {type: adamw, lr: 1.0e-2}}
""")
    found = run_of(polytask, tmp_path / "config.yaml")
    assert found["said"]["scores"]["wer"] < 0.1
    pd.DataFrame({"heard": ["c c z z a x b", "b a x"]}).to_csv(tmp_path / "new.csv", index=False)
    done = process("predict", "run", "new.csv", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "out.csv").said) == ["two one", "three"]


def test_little_of_a_batch_is_padding(data_root: Path, tmp_path: Path):
    prepare("fdu_mtl", data_root / "fdu_mtl", tmp_path)
    table = read_table(tmp_path / "train.csv", cache=tmp_path / "cache")
    rows = np.arange(len(table))
    inputs = {"text": TextInput("text", tokenizer="words", length=2000)}
    prepared = Preparation.fit(table, rows, inputs, {"books": TargetSpec("category", ("books",))})
    encoded = EncodedRows(table, rows, prepared.inputs, prepared.targets, seed=0, cache_bytes=2**30)
    lengths = encoded.lengths()

    def waste(sampler) -> float:
        one, other = sampler.passes(StreamRows(encoded, rows, ("books",), 64, 0, "books"))(0, 2)
        assert (one != other).mean() > 0.99
        assert sorted(one) == list(rows)
        batches = [lengths[one[start : start + 64]] for start in range(0, len(one), 64)]
        return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)

    assert waste(Shuffled()) > 0.8
    assert waste(ByLength()) < 0.2
