"""Detection on real files: blood cells in the layout of Pascal VOC, alone and beside a classification."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_bccd"
SMALL = (
    *("training.epochs=1", "training.tensorboard=false", "training.tasks.label.batch_size=8"),
    *("inputs.image.size=[48,64]", "inputs.picture.size=32", "tasks.blood.width=16", "tasks.blood.hidden=32"),
    *("tasks.blood.regions=16", "training.epoch_length=blood"),
)


def few_cells(data_root: Path, sources: Path) -> None:
    """An archive of the first images of each list."""
    with zipfile.ZipFile(data_root / "bccd_voc/BCCD.zip") as whole, zipfile.ZipFile(sources / "BCCD.zip", "w") as few:
        for part, count in {"train": 12, "val": 4, "test": 5}.items():
            path = f"BCCD/ImageSets/Main/{part}.txt"
            names = whole.read(path).decode().split()[:count]
            few.writestr(path, "\n".join(names))
            for name in names:
                for file in (f"BCCD/JPEGImages/{name}.jpg", f"BCCD/Annotations/{name}.xml"):
                    few.writestr(file, whole.read(file))


def few_pictures(data_root: Path, sources: Path) -> None:
    """An archive of some pictures of two classes."""
    with (
        zipfile.ZipFile(data_root / "cifar10_jpg/cifar10.zip") as whole,
        zipfile.ZipFile(sources / "cifar10.zip", "w") as few,
    ):
        for name in whole.namelist():
            if re.search(r"/(cat|ship)/0\d\d[05]\.jpg$", name):
                few.writestr(name, whole.read(name))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


@pytest.fixture
def prepared(data_root: Path, sources: Path, tmp_path: Path) -> Path:
    """The example in the working folder, with few images."""
    few_cells(data_root, sources)
    few_pictures(data_root, sources)
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py"), str(sources), str(tmp_path)], check=True, timeout=120)
    shutil.copy(EXAMPLE / "config.yaml", tmp_path / "config.yaml")
    return tmp_path


def test_cells_and_pictures_share_an_encoder(prepared: Path, polytask, process):
    code, out, err = polytask("train", "config.yaml", *SMALL, "-o", "run")
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    tasks = json.loads(out)["tasks"]
    assert tasks["blood"]["metric"] == "map_50"
    assert {"map", "map_50", "map_75", "loss"} == set(tasks["blood"]["scores"])
    assert tasks["blood"]["baseline"]["map_50"] == 0
    assert tasks["label"]["scores"]["accuracy"] >= 0

    # Photographs alone, without their annotations, in a process of its own.
    images = sorted((prepared / "BCCD" / "JPEGImages").iterdir())[:3]
    new = prepared / "new"
    new.mkdir()
    for image in images:
        shutil.copy(image, new)
    pd.DataFrame({"file_name": [image.name for image in images]}).to_csv(new / "metadata.csv", index=False)
    done = process("predict", "run", "new", "-o", "out.csv", "--source", "cells", "--pictures", "1")
    assert done.returncode == 0, done.stderr
    found = [json.loads(text) for text in pd.read_csv(prepared / "out.csv")["blood"]]
    assert len(found) == 3
    for box in (box for row in found for box in row):
        assert box["class"] in ("RBC", "WBC", "Platelets") and 0 <= box["score"] <= 1
        assert 0 <= box["xmin"] < box["xmax"] <= 640 and 0 <= box["ymin"] < box["ymax"] <= 480
    assert Image.open(prepared / "out_pictures" / "0.png").size[0] > 640

    # A table of pictures has no photographs for boxes to lie on.
    pictures = prepared / "cifar10" / "test"
    code, _out, err = polytask("predict", "run", pictures, "-o", "pictures.csv", "--source", "pictures")
    assert code == 0, err
    predicted = pd.read_csv(prepared / "pictures.csv")
    assert "blood" not in predicted and set(predicted["label"]) <= {"cat", "ship"}


@pytest.fixture
def alone(data_root: Path, sources: Path, tmp_path: Path) -> Path:
    """Detection alone, from the whole folder and its lists."""
    few_cells(data_root, sources)
    with zipfile.ZipFile(sources / "BCCD.zip") as packed:
        packed.extractall(tmp_path)
    (tmp_path / "alone.yaml").write_text(
        """\
data: {train: BCCD, split: {by: column, column: part}}
inputs:
  image: {type: image, size: [48, 64]}
tasks:
  boxes: {type: detection, head: retinanet, width: 16}
model:
  encoders: {image: {type: cnn, width: 8, depth: 3}}
training: {epochs: 1, batch_size: 4, tensorboard: false}
"""
    )
    return tmp_path


def test_a_folder_with_lists(alone: Path, polytask):
    code, _out, err = polytask("train", "alone.yaml", "-o", "run")
    assert code == 0, err
    split = pd.read_parquet(alone / "run" / "split.parquet")
    assert split["part"].value_counts().to_dict() == {"train": 12, "valid": 4, "test": 5}
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"]["boxes"]["scores"]["loss"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "the annotation 'Annotations/NAME.xml' cannot be read"),
        (None, "row 2"),
    ],
)
def test_broken_annotations_are_named(alone: Path, polytask, text, message):
    name = (alone / "BCCD/ImageSets/Main/train.txt").read_text().split()[1]
    path = alone / "BCCD" / "Annotations" / f"{name}.xml"
    if text is None:
        path.write_text(path.read_text().replace("<xmin>", "<xmin>left ", 1))
    else:
        path.write_text(text)
    code, _out, err = polytask("train", "alone.yaml", "-o", "run")
    assert code == 2
    shown = " ".join(err.split())
    assert "row 2, column 'boxes' (task 'boxes')" in shown and message.replace("NAME", name) in shown
    assert "Mend it, or empty the cell" in shown
