"""The examples on real data, test-sized: train, then evaluate and predict in a new process without the data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_FILES = {
    *("config.yaml", "metrics.csv", "summary.json", "split.parquet", "log.txt", "overlap.csv"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model/config.json", "model/weights.safetensors"),
}


@pytest.fixture
def prepared(data_root: Path, tmp_path: Path):
    """Prepare an example's data in the working folder."""

    def prepare(example: str, source: str) -> Path:
        script = EXAMPLES / example / "prepare.py"
        subprocess.run([sys.executable, str(script), str(data_root / source), str(tmp_path)], check=True, timeout=120)
        shutil.copy(EXAMPLES / example / "config.yaml", tmp_path / "config.yaml")
        return tmp_path / "config.yaml"

    return prepare


def files_of(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def trained(polytask, config: Path, *overrides: str) -> Path:
    code, _out, err = polytask("train", config, *overrides, "training.tensorboard=false", "-o", "run")
    assert code == 0, err
    assert files_of(config.parent / "run") == RUN_FILES
    assert not [path for path in config.parent.rglob("*") if path.suffix == ".arrow"], "caches go elsewhere"
    return config.parent / "run"


def scores(polytask, run: Path, *words: str) -> dict:
    code, out, err = polytask("evaluate", run, "--json", *words)
    assert code == 0, err
    return json.loads(out)


def test_student_performance(prepared, polytask, process, tmp_path: Path):
    config = prepared("student_performance", "student_performance")
    run = trained(polytask, config, "training.epochs=25")
    found = scores(polytask, run)
    assert found["mean_gain"] > 0.05
    assert found["tasks"]["passed"]["scores"]["balanced_accuracy"] > 0.6
    assert found["tasks"]["final_grade"]["gain"] > 0.05

    split = pd.read_parquet(run / "split.parquet")
    students = pd.read_csv(tmp_path / "students.csv").student
    parts = split.assign(student=students.iloc[split.row].to_numpy()).groupby("student").part.nunique()
    assert parts.max() == 1, "no student in two parts"

    fresh = pd.read_csv(tmp_path / "students.csv").head(40)
    (tmp_path / "students.csv").unlink()
    shutil.move(run, tmp_path / "moved")
    fresh.drop(columns=["G1", "G2", "G3", "passed", "Walc"]).to_csv(tmp_path / "new.csv", index=False)
    done = process("predict", "moved", "new.csv", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_csv(tmp_path / "out.csv")
    assert len(predicted) == 40
    assert set(predicted.passed) <= {"yes", "no"}
    assert predicted[["passed_p_no", "passed_p_yes"]].sum(axis=1).sub(1).abs().max() < 1e-5
    assert (predicted.final_grade - fresh.G3).abs().mean() < 5, "in the units of the grade, 0 to 20"
    fresh.to_csv(tmp_path / "labelled.csv", index=False)
    done = process("evaluate", "moved", "--data", "labelled.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 40


def test_init_writes_a_configuration_that_trains(prepared, polytask, tmp_path: Path):
    prepared("student_performance", "student_performance")
    code, _, err = polytask("init", "students.csv", "--targets", "G3,passed", "-o", "mine.yaml")
    assert code == 0, err
    code, _out, err = polytask("train", "mine.yaml", "training.epochs=2")
    assert code == 0, err
    assert (tmp_path / "runs" / "mine" / "model" / "weights.safetensors").is_file()


def test_fdu_mtl(prepared, polytask, process, tmp_path: Path):
    config = prepared("fdu_mtl", "fdu_mtl")
    small = ["training.epochs=2", "inputs.text.ngrams=2", "inputs.text.min_count=10", "inputs.text.length=400"]
    run = trained(polytask, config, *small)
    found = scores(polytask, run)
    accuracy = {task: part["scores"]["accuracy"] for task, part in found["tasks"].items()}
    assert len(accuracy) == 16
    assert sum(accuracy.values()) / 16 > 0.85, "a weighted bag of words and pairs of words, two epochs"
    (tmp_path / "train.csv").unlink()
    (tmp_path / "test.csv").unlink()
    pd.DataFrame({"text": ["a wonderful book , i loved it", "terrible , it broke at once"]}).to_csv(
        tmp_path / "new.csv", index=False
    )
    done = process("predict", "run", "new.csv", "-o", "out.parquet")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_parquet(tmp_path / "out.parquet")
    assert list(predicted.books) == ["positive", "negative"]


def test_pacs(prepared, polytask, process, tmp_path: Path):
    config = prepared("pacs", "pacs_112")
    run = trained(polytask, config, "training.epochs=6", "inputs.image.size=32", "inputs.image.crop=3")
    found = scores(polytask, run)
    assert found["tasks"]["style"]["scores"]["accuracy"] > 0.5
    assert found["tasks"]["kind"]["scores"]["accuracy"] > 0.25
    (tmp_path / "new").mkdir()
    for index, image in enumerate(sorted((tmp_path / "PACS" / "sketch" / "dog").iterdir())[:5]):
        shutil.copy(image, tmp_path / "new" / f"{index}.jpg")
    pd.DataFrame({"file_name": [f"{index}.jpg" for index in range(5)]}).to_csv(
        tmp_path / "new" / "metadata.csv", index=False
    )
    shutil.rmtree(tmp_path / "PACS")
    done = process("predict", "run", "new", "-o", "out.parquet")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_parquet(tmp_path / "out.parquet")
    assert list(predicted["style"]).count("sketch") >= 3


def test_qm9(prepared, polytask, tmp_path: Path):
    config = prepared("qm9", "qm9_13k")
    pd.read_csv(tmp_path / "qm9.csv").head(300).to_csv(tmp_path / "qm9.csv", index=False)
    run = trained(polytask, config, "training.epochs=1", "model.encoders.molecule.dim=16")
    assert len(scores(polytask, run)["tasks"]) == 12
    script = [sys.executable, EXAMPLES / "qm9" / "baseline.py", "qm9.csv", "run"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert float(found["zpve"]) > 0.9, "nearly a sum over the atoms"


def test_tox21(prepared, polytask, process, tmp_path: Path):
    config = prepared("tox21", "molecules")
    table = pd.read_csv(tmp_path / "tox21.csv")
    some = pd.concat([table[1300:1345], table.dropna().groupby("NR-AhR").head(60)]).drop_duplicates("smiles")
    some.to_csv(tmp_path / "tox21.csv", index=False)
    small = ["training.epochs=2", "model.encoders.molecule.dim=16", "balancing=upgrad", "data.split.test=0.2"]
    run = trained(polytask, config, *small)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["skipped_rows"] == 1, "a complex of aluminium"
    assert len(scores(polytask, run)["tasks"]) == 12
    # What is said of rows that are left out must not stand in the JSON.
    broken = some.head(30).assign(smiles=["CC(", *some.smiles.head(30)[1:]])
    broken.to_csv(tmp_path / "broken.csv", index=False)
    assert scores(polytask, run, "--data", "broken.csv")["rows"] == 30
    (tmp_path / "tox21.csv").unlink()
    smiles = ["CCO", "C", "c1ccccc1.[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O"]
    pd.DataFrame({"smiles": smiles}).to_csv(tmp_path / "new.csv", index=False)
    done = process("predict", "run", "new.csv", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_csv(tmp_path / "out.csv")
    assert set(predicted["SR-p53"]) <= {"active", "inactive"}
    assert predicted[["SR-p53_p_active", "SR-p53_p_inactive"]].sum(axis=1).sub(1).abs().max() < 1e-5


def test_census_income(prepared, polytask, tmp_path: Path):
    config = prepared("census_income", "census_income_kdd")
    table = pd.read_parquet(tmp_path / "census.parquet")
    assert table.part.value_counts().to_dict() == {"train": 60_000, "test": 29_762, "valid": 10_000}
    assert round((table.income == "above 50,000").mean(), 3) == 0.062
    assert round((table.never_married == "yes").mean(), 3) == 0.432
    some = table.groupby("part").head(3000)
    some.to_parquet(tmp_path / "census.parquet", index=False)
    run = trained(polytask, config, "training.epochs=2", "training.batch_size=64", "model.encoders.row.width=32")
    found = scores(polytask, run)["tasks"]
    assert found["income"]["scores"]["auroc"] > 0.85
    assert found["never_married"]["scores"]["auroc"] > 0.95


def test_mulan(prepared, polytask, tmp_path: Path):
    config = prepared("mulan", "mulan_mtr")
    assert pd.read_csv(tmp_path / "table.csv").shape == (768, 10)
    run = trained(polytask, config, "training.epochs=20", "model.encoders.row.width=64")
    found = scores(polytask, run)["tasks"]
    assert min(task["scores"]["r2"] for task in found.values()) > 0.8


@pytest.mark.parametrize(("name", "columns"), [("sf1", 13), ("oes97", 279), ("slump", 10)])
def test_other_sets_of_mulan_are_read(data_root: Path, tmp_path: Path, name, columns):
    script = [sys.executable, EXAMPLES / "mulan" / "prepare.py", data_root / "mulan_mtr", tmp_path, name]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "table.csv").columns) == columns


def test_pipe_rgbd(prepared, polytask, tmp_path: Path):
    config = prepared("pipe_rgbd", "pipe_rgbd")
    assert [len(pd.read_csv(tmp_path / f"{part}.csv")) for part in ("train", "valid")] == [50, 27]
    small = ["training.epochs=3", "inputs.image.size=[51, 90]", "model.encoders.image={type: cnn, width: 16, depth: 4}"]
    narrow = [f"tasks.{task}.width=16" for task in ("damage", "depth", "normals")]
    run = trained(polytask, config, *small, *narrow, "training.optimizer.lr=0.003")
    found = scores(polytask, run, "--part", "valid")["tasks"]
    assert found["normals"]["scores"]["mean_angle"] < 30
    assert found["depth"]["scores"]["abs_error"] < found["depth"]["baseline"]["abs_error"] + 5
    assert found["damage"]["scores"]["pixel_accuracy"] > 0.8


def test_camvid(prepared, polytask, tmp_path: Path):
    config = prepared("camvid", "camvid_240")
    tables = {part: pd.read_csv(tmp_path / f"{part}.csv") for part in ("train", "valid", "test")}
    assert [len(table) for table in tables.values()] == [367, 101, 233]
    for part, table in tables.items():
        table.iloc[:: 6 if part == "train" else 12].to_csv(tmp_path / f"{part}.csv", index=False)
    small = ["training.epochs=5", "inputs.image.size=[45, 60]", "model.encoders.image={type: cnn, width: 16, depth: 4}"]
    small += ["tasks.scene.width=32", "tasks.edges.width=16", "training.optimizer.lr=0.005"]
    run = trained(polytask, config, *small)
    found = scores(polytask, run)["tasks"]
    assert found["scene"]["scores"]["pixel_accuracy"] > 0.45
    assert found["scene"]["scores"]["miou"] > 2 * found["scene"]["baseline"]["miou"]
    code, _out, err = polytask("predict", "run", "test.csv", "-o", "out.parquet", "--pictures", "1")
    assert code == 0, err
    assert len(list((tmp_path / "out_files" / "scene").iterdir())) == len(pd.read_csv(tmp_path / "test.csv"))
