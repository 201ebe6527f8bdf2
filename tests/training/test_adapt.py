"""Starting a new task from the encoder of a run."""

import numpy as np
import pandas as pd
import pytest
import torch

from polytask import UserError
from polytask.config import Config
from polytask.training.adapt import adapted
from polytask.training.job import make_job
from polytask.training.saved_model import load_model
from polytask.training.train import train


def table(path, seed, columns):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=120), draw.normal(size=120)
    values = {"x": x, "y": y, "city": draw.choice(["Ulm", "Jena"], 120), "a": x + y, "b": x - y, "new": 2 * x + 3}
    pd.DataFrame({name: values[name] for name in ("x", "y", "city", *columns)}).to_csv(path, index=False)
    return str(path)


def config(path, tasks, columns=("x", "y", "city"), **others):
    mapping = {
        "data": {"train": path},
        "inputs": {"row": {"type": "tabular", "columns": list(columns)}},
        "tasks": {name: {"type": "regression"} for name in tasks},
        "model": {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 2}}},
        "training": {"epochs": 2, "batch_size": 32, "tensorboard": False},
    }
    return Config.from_mapping({**mapping, **others})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return train(config(table(folder / "first.csv", 0, "ab"), "ab"), folder / "run")


@pytest.fixture
def later(tmp_path):
    return table(tmp_path / "later.csv", 1, ["new", "a"])


def test_the_encoder_and_the_inputs_are_the_runs(run, later):
    other = {"encoders": {"row": {"type": "mlp", "width": 32, "depth": 1}}}
    found = adapted(config(later, ["new", "a"], model=other), run.root, "new")
    assert list(found.tasks) == ["new"]
    assert found.name == "run_new"
    job, trained = make_job(found), load_model(run.model)
    assert job.preparation.inputs["row"].state_dict() == trained.preparation.inputs["row"].state_dict()
    stages = {name: part.state_dict() for name, part in parts(trained.model).items()}
    for name, part in parts(job.model).items():
        assert all(torch.equal(value, stages[name][key]) for key, value in part.state_dict().items())
    # The target is the new one's own: about 2 x + 3.
    assert job.preparation.summaries["new"].mean == pytest.approx([3], abs=0.6)


def parts(model):
    return {model.trunk.stage_names[part.depth]: part.module for part in model.trunk.parts()}


def test_a_configuration_of_one_task_needs_no_name_of_it(run, later):
    assert list(adapted(config(later, ["new"]), run.root).tasks) == ["new"]
    with pytest.raises(UserError, match="Which task is the new one. Say --task with one of 'new', 'a'"):
        adapted(config(later, ["new", "a"]), run.root)


def test_a_stopped_run_of_it_goes_on(run, later, tmp_path):
    found = adapted(config(later, ["new"]), run.root)
    whole = train(found, tmp_path / "whole")
    again = train(Config.from_mapping(found.to_mapping()), tmp_path / "again")
    assert again.metrics.read_text() == whole.metrics.read_text()


def test_stages_of_tasks_own_are_averaged(later, tmp_path, caplog):
    mapping = config(table(tmp_path / "first.csv", 0, "ab"), "ab").to_mapping()
    mapping["model"]["sharing"] = {"type": "soft"}
    first = train(Config.from_mapping(mapping), tmp_path / "soft")
    job = make_job(adapted(config(later, ["new"]), first.root))
    assert "the new one starts from their mean" in caplog.text
    trunk = load_model(first.model).model.trunk
    for depth, name in enumerate(trunk.stage_names):
        copies = [part.module.state_dict() for part in trunk.parts() if part.depth == depth]
        assert len(copies) == 2
        for key, value in parts(job.model)[name].state_dict().items():
            torch.testing.assert_close(value, (copies[0][key] + copies[1][key]) / 2)


def test_a_run_whose_features_are_mixed_is_refused(later, tmp_path):
    mapping = config(table(tmp_path / "first.csv", 0, "ab"), "ab").to_mapping()
    mapping["model"]["sharing"] = {"type": "mmoe"}
    first = train(Config.from_mapping(mapping), tmp_path / "mixed")
    with pytest.raises(UserError, match="its sharing scheme is 'mmoe'. Schemes that a new task can start from"):
        make_job(adapted(config(later, ["new"]), first.root))


def test_an_input_that_reads_the_answer_is_refused(tmp_path, later):
    everything = {"row": {"type": "tabular", "columns": "*"}}
    first = table(tmp_path / "first.csv", 0, ["a", "new"])
    leak = train(config(first, "a", inputs=everything), tmp_path / "leak")
    with pytest.raises(UserError, match="the input 'row' of the run .* reads 'new', which is the target"):
        make_job(adapted(config(later, ["new"], inputs=everything), leak.root))


def test_other_inputs_are_refused(run, later):
    other = {"cells": {"type": "tabular", "columns": ["x"]}}
    with pytest.raises(UserError, match="reads the inputs 'row', but the configuration has 'cells'"):
        adapted(config(later, ["new"], inputs=other, model={}), run.root)


def test_written_by_hand_the_settings_must_be_the_runs(run, later):
    start = {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 2}}}
    start["init_from"] = {"runs": {"new": str(run.root)}, "how": "trunk"}
    make_job(config(later, ["new"], model=start))
    other = {"row": {"type": "tabular", "columns": ["x", "y", "city"], "min_count": 3}}
    with pytest.raises(UserError, match="model.init_from: the run .* prepares its inputs in another way"):
        make_job(config(later, ["new"], model=start, inputs=other))
    start["encoders"]["row"]["width"] = 16
    with pytest.raises(UserError, match="model.init_from: the encoder of the run .* has another architecture"):
        make_job(config(later, ["new"], model=start))


def test_one_run_it_must_be(run, later, tmp_path):
    start = {"init_from": {"runs": {"new": str(run.root), "a": str(tmp_path)}, "how": "trunk"}}
    with pytest.raises(UserError, match="the encoder of one run, but here are several"):
        make_job(config(later, ["new", "a"], model=start))


def test_what_lies_on_an_image_must_be_able_to_move_with_it(tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(draw.integers(0, 2, (16, 16), dtype=np.uint8)).save(tmp_path / f"{number}-mask.png")
    rows = [{"image": f"{n}.png", "mask": f"{n}-mask.png", "kind": "ab"[n % 2]} for n in range(8)]
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    mapping = {
        "data": {"train": str(tmp_path / "images.csv"), "split": {"valid": 0.0, "test": 0.0}},
        "inputs": {"image": {"type": "image", "rand_augment": True}},
        "tasks": {"kind": {"type": "classification"}},
        "model": {"encoders": {"image": {"type": "cnn", "width": 4, "depth": 1}}},
        "training": {"epochs": 1, "batch_size": 4, "tensorboard": False},
    }
    run = train(Config.from_mapping(mapping), tmp_path / "run")
    wanted = Config.from_mapping({**mapping, "tasks": {"mask": {"type": "segmentation", "width": 8}}})
    with pytest.raises(UserError, match="rand_augment would move without telling where"):
        make_job(adapted(wanted, run.root))
