"""Tasks that answer for each pixel, from a table to files and pictures."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.integration

SIZE = (24, 32)


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """Images of rectangles, with masks, depths and normals; two rows lack a mask, one file is broken."""
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0)
    rows = []
    for i in range(24):
        mask = np.zeros(SIZE, np.uint8)
        for number in (1, 2):
            top, left = numbers.integers(0, 14), numbers.integers(0, 20)
            mask[top : top + 10, left : left + 12] = number
        depth = (1 + mask + 0.1 * numbers.random(SIZE)).astype(np.float32)
        depth[0, 0] = 0
        normal = np.stack([np.where(mask == 1, 255, 128), np.full(SIZE, 128), np.where(mask == 1, 128, 255)], -1)
        image = np.stack([60 + 90 * mask, 200 - 70 * mask, 40 + 30 * mask], -1) + numbers.integers(0, 20, (*SIZE, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(f"i{i}.png")
        Image.fromarray(np.where(mask == 2, 255, mask).astype(np.uint8)).save(f"m{i}.png")
        np.save(f"d{i}.npy", depth)
        Image.fromarray(normal.astype(np.uint8)).save(f"n{i}.png")
        rows.append(
            {
                "image": f"i{i}.png",
                "mask": None if i in (1, 2) else f"m{i}.png",
                "depth": f"d{i}.npy",
                "normals": f"n{i}.png",
                "large": ["no", "yes"][int((mask > 0).sum() > 200)],
            }
        )
    pd.DataFrame(rows).to_csv("scenes.csv", index=False)
    config = {
        "data": {"train": "scenes.csv", "split": {"by": "random", "valid": 0.2, "test": 0.2}},
        "inputs": {
            "image": {"type": "image", "size": [24, 32], "flip": True, "scale": [0.8, 1.4], "rotate": 10, "crop": 2}
        },
        "tasks": {
            "mask": {"type": "segmentation", "classes": {"ground": 0, "box": 1, "lid": 255}, "width": 8, "dice": 0.5},
            "edges": {"type": "edges", "target": "mask", "auxiliary": True, "width": 8},
            "depth": {"type": "depth", "width": 8, "loss": "silog"},
            "normals": {"type": "normals", "width": 8},
            "large": {"type": "classification"},
        },
        "model": {"encoders": {"image": {"type": "cnn", "width": 8, "depth": 3}}},
        "training": {"epochs": 3, "batch_size": 6, "optimizer": {"type": "adamw", "lr": 0.01}, "tensorboard": False},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path


def test_from_a_table_to_files_and_pictures(scenes, polytask):
    code, out, err = polytask("train", "c.yaml", "-o", "run", "balancing=upgrad")
    assert code == 0, err
    code, out, err = polytask("evaluate", "run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["tasks"]) == {"mask", "edges", "depth", "normals", "large"}
    assert found["tasks"]["mask"]["scores"]["miou"] > found["tasks"]["mask"]["baseline"]["miou"]
    assert all(np.isfinite(value) for value in found["tasks"]["depth"]["scores"].values())

    Image.open("i3.png").resize((64, 48)).save("large.png")
    pd.DataFrame({"image": ["i0.png", "large.png"]}).to_csv("new.csv", index=False)
    code, out, err = polytask("predict", "run", "new.csv", "-o", "p.csv", "--pictures", "5", "--json")
    assert code == 0, err
    assert json.loads(out) == {"output": "p.csv", "rows": 2, "pictures": 2}
    table = pd.read_csv("p.csv")
    assert list(table["mask"]) == ["p_files/mask/0.png", "p_files/mask/1.png"]
    masks = [np.asarray(Image.open(path)) for path in table["mask"]]
    assert [each.shape for each in masks] == [SIZE, (48, 64)], "of the size of each image"
    assert set(np.unique(masks[0])) <= {0, 1, 255}
    depth, normals = np.load(table["depth"][1]), np.load(table["normals"][0])
    assert depth.shape == (48, 64) and (depth > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-4)
    assert set(table["large"]) <= {"no", "yes"}
    assert sorted(path.name for path in (scenes / "p_pictures").iterdir()) == ["0.png", "1.png"]
    assert Image.open("p_pictures/0.png").width > 2 * SIZE[1]
    pd.read_csv("scenes.csv").head(3).to_csv("three.csv", index=False)
    code, _, err = polytask("predict", "run", "three.csv", "-o", "q.parquet", "--pictures", "1")
    assert code == 0, err
    assert Image.open("q_pictures/0.png").width > Image.open("p_pictures/0.png").width, "beside what is right"

    code, _, err = polytask("predict", "run", "new.csv", "-o", "p.parquet")
    assert code == 2 and "p_files" in err and "never overwritten" in err
    assert not (scenes / "p.parquet").exists()


def test_predictions_are_written_whole_or_not_at_all(scenes, polytask):
    code, _, err = polytask("train", "c.yaml", "-o", "run", "training.epochs=1")
    assert code == 0, err
    (scenes / "bad.png").write_bytes(b"broken")
    pd.DataFrame({"image": ["i0.png", "bad.png"]}).to_csv("new.csv", index=False)
    before = {path.name for path in scenes.iterdir()}
    code, _, err = polytask("predict", "run", "new.csv", "-o", "p.parquet", "--batch-size", "1")
    assert code == 2 and "bad.png" in err
    assert {path.name for path in scenes.iterdir()} == before
    pd.DataFrame({"image": ["i0.png"]}).to_csv("new.csv", index=False)
    code, _, err = polytask("predict", "run", "new.csv", "-o", "p.parquet")
    assert code == 0, err
    assert pd.read_parquet("p.parquet")["mask"].tolist() == ["p_files/mask/0.png"]


def test_what_a_dense_task_cannot_do_is_said_before_training(scenes, polytask):
    cases = {
        "training.tasks.mask.mixing=mixup": "predicts a mask, but mixing is for tasks with classes",
        "training.tasks.depth.unlabelled=consistency": "answers for positions",
        "inputs.image.rand_augment=true": "would move without telling where",
        "tasks.mask.image=photo": "'photo' is none of the inputs of images",
        "inputs.image.scale=[2]": "scale is [2.0]",
        "model.sharing=mmoe": "gives one vector a row",
        "tasks.mask.metric=iou": "iou",
    }
    for override, message in cases.items():
        code, _, err = polytask("train", "c.yaml", override)
        assert code == 2 and message in " ".join(err.split()), (override, err)


def test_a_mask_of_another_shape_and_a_broken_one(scenes, polytask, caplog):
    mask = Image.open("m5.png")
    mask.resize((32, 32), Image.Resampling.NEAREST).save("m5.png")
    code, _, err = polytask("train", "c.yaml")
    assert code == 2 and "row 6" in err and "another shape" in " ".join(err.split())
    (scenes / "m5.png").write_bytes(b"broken")
    code, _, err = polytask("train", "c.yaml")
    assert code == 2 and "m5.png" in err and "on_error: skip" in " ".join(err.split())
    skip = ["tasks.mask.on_error=skip", "tasks.edges.on_error=skip"]
    code, _, err = polytask("train", "c.yaml", *skip, "training.epochs=1")
    assert code == 0, err
    told = [record.message for record in caplog.records if "cannot be read, and count as unlabelled" in record.message]
    assert len(told) == 2, "once for each task"


def test_init_proposes_a_segmentation_for_masks_alone(scenes, polytask):
    code, _, err = polytask("init", "scenes.csv", "--targets", "mask", "-o", "mine.yaml")
    assert code == 0, err
    proposed = yaml.safe_load((scenes / "mine.yaml").read_text())
    assert proposed["tasks"]["mask"] == {"type": "segmentation", "target": "mask", "ignore": [255]}
    code, _, err = polytask("init", "scenes.csv", "--targets", "image", "-o", "other.yaml")
    assert code == 2 and "cannot be a target" in err


def test_a_source_of_masks_and_a_source_of_classes_over_one_backbone(scenes, polytask):
    table = pd.read_csv("scenes.csv")
    table[["image", "mask"]].head(14).to_csv("masks.csv", index=False)
    table[["image", "large"]].tail(12).to_csv("classes.csv", index=False)
    config = yaml.safe_load((scenes / "c.yaml").read_text())
    split = {"by": "random", "valid": 0.2, "test": 0.2}
    config["data"] = {
        "outlines": {"train": "masks.csv", "split": split},
        "sizes": {"train": "classes.csv", "split": split},
    }
    config["tasks"] = {name: config["tasks"][name] for name in ("mask", "large")}
    config["schedule"] = {"type": "alternating"}
    (scenes / "two.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    code, _, err = polytask("train", "two.yaml", "-o", "two", "training.epochs=1")
    assert code == 0, err
    code, out, err = polytask("evaluate", "two", "--json")
    assert code == 0, err
    assert set(json.loads(out)["tasks"]) == {"mask", "large"}
