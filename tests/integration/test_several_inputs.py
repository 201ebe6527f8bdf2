"""Models of several inputs, through the command line: one table with gaps, and sources of one modality each."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytestmark = pytest.mark.integration

KINDS = {"colour": "classification", "size": "regression"}
ROWS = 240
WORDS = {"red": "warm fire sunset", "blue": "cold sea sky"}
ENCODERS = """\
  encoders:
    picture: {type: cnn, width: 4, depth: 2}
    text: {type: transformer, dim: 16, depth: 1, heads: 2}
    row: {type: mlp, width: 8, depth: 1}
"""
INPUTS = """\
inputs:
  picture: {type: image, column: picture}
  text: {type: text, column: text, tokenizer: words, buckets: 500, length: 8}
  row: {type: tabular, columns: [height, width]}
"""
TRAINING = (
    "training: {epochs: 12, batch_size: 32, tensorboard: false, optimizer: {type: adam, lr: 5.0e-3}, "
    "lr_schedule: {type: constant}}\n"
)


def things(seed: int, folder: Path) -> pd.DataFrame:
    """Things that picture, text and row say the same of: their colour and their size."""
    draw = np.random.default_rng(seed)
    colour = draw.choice(list(WORDS), ROWS)
    size = draw.normal(0, 1, ROWS)
    names = []
    for number in range(ROWS):
        pixels = draw.integers(0, 80, (10, 10, 3), dtype=np.uint8)
        pixels[..., 0 if colour[number] == "red" else 2] += 120
        pixels[: 5 + round(min(max(size[number], -2), 2) * 2)] //= 2
        names.append(f"{seed}_{number}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    return pd.DataFrame(
        {
            "picture": names,
            "text": [f"a {draw.choice(WORDS[c].split())} thing" for c in colour],
            "height": size + draw.normal(0, 0.1, ROWS),
            "width": (colour == "red") + draw.normal(0, 0.2, ROWS),
            "colour": colour,
            "size": size.round(3),
        }
    )


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """A table in which a third of each input's cells are missing, and five rows have nothing at all."""
    table = things(0, tmp_path)
    draw = np.random.default_rng(1)
    lacks = draw.random((ROWS, 3)) < 1 / 3
    lacks[lacks.all(1), 0] = False
    lacks[:5] = True
    table.loc[lacks[:, 0], "picture"] = None
    table.loc[lacks[:, 1], "text"] = None
    table.loc[lacks[:, 2], ["height", "width"]] = np.nan
    table.to_parquet(tmp_path / "things.parquet")
    return tmp_path


def configured(folder: Path, fusion: str, rest: str = "") -> str:
    name = "gaps.yaml"
    (folder / name).write_text(
        f"data: {{train: things.parquet}}\n{INPUTS}tasks: {{colour: classification, size: regression}}\n"
        f"model:\n{ENCODERS}  fusion: {fusion}\n{rest}{TRAINING}"
    )
    return name


FUSIONS = {
    "concat": "{type: concat, width: 16, drop: 0.2}",
    "attention": "{type: attention, dim: 16, hidden: 8}",
    "perceiver": "{type: perceiver, dim: 16, latents: 4, depth: 1, heads: 2}",
    "shared_transformer": "{type: shared_transformer, dim: 16, depth: 1, heads: 2, drop: 0.1}",
}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_table_with_gaps_is_learned_and_predicted(gaps: Path, polytask, fusion):
    config = configured(gaps, FUSIONS[fusion])
    code, out, err = polytask("train", config, "-o", "run")
    assert code == 0, err
    told = out + err
    assert "it has no value for any of the inputs 'picture', 'text', 'row'" in told
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"]["colour"]["scores"]["accuracy"] > 0.75
    table = pd.read_parquet(gaps / "things.parquet")
    only = table[table["text"].notna()]
    only[["text"]].to_csv(gaps / "texts.csv", index=False)
    only.assign(picture=None, height=np.nan, width=np.nan).to_parquet(gaps / "empty.parquet")
    found = []
    for name in ("texts.csv", "empty.parquet"):
        code, out, err = polytask("predict", "run", name, "-o", f"{name}.out.csv")
        assert code == 0, err
        found.append(pd.read_csv(gaps / f"{name}.out.csv"))
    pd.testing.assert_frame_equal(*found)
    assert len(found[0]) == len(only)
    assert (found[0]["colour"].to_numpy() == only["colour"].to_numpy()).mean() > 0.8


def test_a_column_that_every_training_row_had_is_not_left_out(gaps: Path, polytask):
    table = pd.read_parquet(gaps / "things.parquet")
    whole = table.dropna()
    whole.to_parquet(gaps / "things.parquet")
    config = configured(gaps, FUSIONS["attention"], "")
    code, _, err = polytask("train", config, "-o", "run", "training.epochs=1")
    assert code == 0, err
    whole[["text"]].to_csv(gaps / "texts.csv", index=False)
    code, _, err = polytask("predict", "run", "texts.csv", "-o", "texts.out.csv")
    assert code == 2
    assert "has no column 'picture', which the input 'picture' reads" in err
    whole.assign(picture=None).to_parquet(gaps / "empty.parquet")
    code, out, err = polytask("predict", "run", "empty.parquet", "-o", "empty.out.csv")
    assert code == 0, err
    told = " ".join((out + err).split())
    assert f"{len(whole)} of {len(whole)} rows lack the input 'picture', which every training row has" in told
    # Where inputs are hidden, the network has learned to do without each.
    code, _, err = polytask("train", config, "-o", "hidden", "training.epochs=1", "model.fusion.drop=0.2")
    assert code == 0, err
    code, _, err = polytask("predict", "hidden", "texts.csv", "-o", "texts.out.csv")
    assert code == 0, err
    assert len(pd.read_csv(gaps / "texts.out.csv")) == len(whole)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Three tables of other things each: of pictures, of texts and of rows, with a task of its own each."""
    for seed, (name, columns) in enumerate(
        {"pictures": ["picture", "colour"], "texts": ["text", "colour"], "rows": ["height", "width", "size"]}.items()
    ):
        table = things(seed, tmp_path)[columns].rename(columns={"colour": name[:-1] + "_colour"})
        table.to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "sources.yaml").write_text(
        "data:\n"
        + "".join(f"  {name}: {{train: {name}.parquet}}\n" for name in ("pictures", "texts", "rows"))
        + f"{INPUTS}tasks: {{picture_colour: classification, text_colour: classification, size: regression}}\n"
        + f"model:\n{ENCODERS}  fusion: {FUSIONS['shared_transformer']}\n"
        + TRAINING.replace("}}\n", "}, encoders: {picture: {lr_scale: 0.5}}}\n")
    )
    return tmp_path


@pytest.mark.parametrize(
    ("scheme", "method"), [("hard", "upgrad"), ("{type: mmoe, share_until: encoders}", "equal"), ("ple", "pcgrad")]
)
def test_sources_of_one_modality_each_share_a_network(sources: Path, polytask, scheme, method):
    code, out, err = polytask(
        "train", "sources.yaml", "-o", "run", f"model.sharing={scheme}", f"balancing={method}", "training.epochs=20"
    )
    assert code == 0, err
    assert "Rows of 'pictures' have no 'text', 'row': they are read without." in " ".join((out + err).split())
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    found = json.loads(out)["tasks"]
    assert found["picture_colour"]["scores"]["accuracy"] > 0.75
    assert found["text_colour"]["scores"]["accuracy"] > 0.75
    overlap = pd.read_csv(sources / "run" / "overlap.csv", index_col=0)
    np.testing.assert_array_equal(overlap.to_numpy(), np.eye(3))
    for name in ("pictures", "texts", "rows"):
        code, out, err = polytask("predict", "run", f"{name}.parquet", "-o", f"{name}.csv")
        assert code == 0, err
        assert len(pd.read_csv(sources / f"{name}.csv")) == ROWS


def test_the_steps_of_each_task_can_be_of_its_own_modality(sources: Path, polytask):
    code, _, err = polytask("train", "sources.yaml", "-o", "run", "schedule={type: alternating}", "training.epochs=1")
    assert code == 0, err
    code, out, err = polytask("train", "sources.yaml", "--dry-run")
    assert code == 0, err
    assert "multiply-adds" in out


def test_an_input_that_no_training_row_has_is_told(sources: Path, polytask):
    text = (sources / "sources.yaml").read_text().replace("column: text,", "column: texts,")
    (sources / "wrong.yaml").write_text(text)
    code, _, err = polytask("train", "wrong.yaml", "-o", "run")
    assert code == 2
    assert "texts" in err


def test_rows_of_several_inputs_are_not_mixed(gaps: Path, polytask):
    config = configured(gaps, FUSIONS["concat"])
    code, _, err = polytask("train", config, "training.tasks.colour.mixing=mixup")
    assert code == 2
    assert "rows of one input can be mixed, but the model has 3" in " ".join(err.split())


def test_tasks_learn_from_unlabelled_rows_that_lack_inputs(gaps: Path, polytask):
    table = pd.read_parquet(gaps / "things.parquet")
    table.loc[table.index % 2 == 0, "colour"] = None
    table.to_parquet(gaps / "things.parquet")
    config = configured(gaps, FUSIONS["concat"])
    code, _, err = polytask(
        "train", config, "-o", "run", "training.tasks.colour.unlabelled={type: consistency}", "training.epochs=2"
    )
    assert code == 0, err


def test_the_same_seed_hides_the_same(gaps: Path, polytask):
    config = configured(gaps, FUSIONS["shared_transformer"])
    found = []
    for name in ("one", "two"):
        code, _, err = polytask("train", config, "-o", name, "training.epochs=2", "model.fusion.drop=0.3")
        assert code == 0, err
        found.append(pd.read_csv(gaps / name / "metrics.csv"))
    pd.testing.assert_frame_equal(*found)


def test_a_new_task_starts_from_a_run_of_several_inputs(gaps: Path, polytask):
    config = configured(gaps, FUSIONS["shared_transformer"])
    code, _, err = polytask("train", config, "-o", "run", "training.epochs=3")
    assert code == 0, err
    table = pd.read_parquet(gaps / "things.parquet").drop(columns=["size"])
    table["warm"] = np.where(table["colour"] == "red", "yes", "no")
    table.drop(columns=["colour"]).to_parquet(gaps / "new.parquet")
    text = (gaps / config).read_text().replace("things.parquet", "new.parquet")
    new = text.replace("tasks: {colour: classification, size: regression}", "tasks: {warm: classification}")
    (gaps / "new.yaml").write_text(new)
    code, _, err = polytask("train", "new.yaml", "--adapt", "run", "-o", "adapted", "training.epochs=3")
    assert code == 0, err
    code, out, err = polytask("evaluate", "adapted", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"]["warm"]["scores"]["accuracy"] > 0.6


def test_runs_of_several_inputs_are_averaged(gaps: Path, polytask):
    config = configured(gaps, FUSIONS["attention"])
    for task in ("colour", "size"):
        text = (gaps / config).read_text().replace("colour: classification, size: regression", f"{task}: {KINDS[task]}")
        (gaps / f"{task}.yaml").write_text(text.replace("epochs: 12", "epochs: 2"))
        code, _, err = polytask("train", f"{task}.yaml", "-o", task)
        assert code == 0, err
    code, _, err = polytask(
        "train", config, "-o", "both", "training.epochs=1", "model.init_from={runs: {colour: colour, size: size}}"
    )
    assert code == 0, err


def test_images_texts_and_recordings_of_three_data_sets(data_root: Path, tmp_path: Path, polytask):
    """The example in small: one network for what is shown, written and said."""
    example = Path(__file__).parents[2] / "examples" / "image_text_speech"
    sets = [data_root / name for name in ("fashion_mnist_10k", "ag_news", "fsdd")]
    subprocess.run([sys.executable, example / "prepare.py", *sets, tmp_path], check=True, timeout=300)
    pd.read_parquet(tmp_path / "images.parquet")[:400].to_parquet(tmp_path / "images.parquet")
    for name, rows in (("texts", 400), ("recordings", 300)):
        path = tmp_path / f"{name}.csv"
        pd.read_csv(path).sample(rows, random_state=0).to_csv(path, index=False)
    (tmp_path / "config.yaml").write_text((example / "config.yaml").read_text())
    small = ["training.epochs=3", "training.tensorboard=false", "model.encoders.text.dim=16", "-q"]
    code, _, err = polytask("train", "config.yaml", *small, "-o", "run")
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    scores = {task: part["scores"]["accuracy"] for task, part in json.loads(out)["tasks"].items()}
    assert set(scores) == {"garment", "topic", "digit", "speaker"}
    assert scores["garment"] > 0.2
    assert scores["speaker"] > 0.25
    code, _, err = polytask("predict", "run", "recordings.csv", "-o", "found.csv")
    assert code == 0, err
    assert len(pd.read_csv(tmp_path / "found.csv")) == 300
