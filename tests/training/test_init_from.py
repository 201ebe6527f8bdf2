"""Training separately, splicing, then training together."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import polytask
from polytask.config import Config
from polytask.errors import UserError
from polytask.evaluation import Run
from polytask.training.job import make_job
from polytask.training.saved_model import load_description, load_model

STAGES = ("embed", "block1", "output")


def table_of(path, seed=0, rows=120):
    draw = np.random.default_rng(seed)
    x, city = draw.normal(size=(rows, 2)), draw.choice(["Ulm", "Jena", "Bonn"], rows)
    number = x[:, 0] - 2 * x[:, 1] + (city == "Ulm") + 0.1 * draw.normal(size=rows)
    pd.DataFrame(
        {
            "x": x[:, 0],
            "y": x[:, 1],
            "city": city,
            "kind": np.where(number > 0, "high", "low"),
            "number": number,
            "other": number**2,
        }
    ).to_csv(path, index=False)
    return path


def configuration(data, tasks, model=None, changes=None):
    kinds = {"kind": {"type": "classification"}, "number": {"type": "regression"}, "other": {"type": "regression"}}
    return {
        "data": {"train": str(data)},
        "inputs": {"row": {"type": "tabular", "columns": ["x", "y", "city"]}},
        "tasks": {task: kinds[task] for task in tasks},
        "model": {"encoders": {"row": {"type": "tabular_resnet", "width": 8, "depth": 1}}, **(model or {})},
        "training": {"epochs": 4, "batch_size": 32, "tensorboard": False, "optimizer": {"type": "adamw", "lr": 0.01}},
        **(changes or {}),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table_of(tmp_path_factory.mktemp("data") / "people.csv")


@pytest.fixture(scope="module")
def runs(data):
    """A run of each of two tasks alone."""
    folder = data.parent
    for task in ("kind", "number"):
        polytask.train(configuration(data, [task]), folder / task)
    return {task: str(folder / task) for task in ("kind", "number")}


def job_of(data, tasks, runs, how="average", model=None, changes=None):
    model = {**(model or {}), "init_from": {"runs": runs, "how": how}}
    return make_job(Config.from_mapping(configuration(data, tasks, model, changes)))


def weights_of(run, task):
    """Each tensor of the encoder that a run has trained for a task, by stage and name."""
    trunk = load_model(Run(run).folder.model).model.trunk
    stages = {part.depth: part.module for part in trunk.parts() if task in part.tasks}
    return {(depth, name): value for depth, stage in stages.items() for name, value in stage.state_dict().items()}


def new_weights(trunk, task):
    stages = {part.depth: part.module for part in trunk.parts() if task in part.tasks and part.depth is not None}
    return {(depth, name): value for depth, stage in stages.items() for name, value in stage.state_dict().items()}


def predicted(model, job):
    batch = next(iter(job.valid))
    with torch.no_grad():
        return model.eval()(batch.inputs)


def test_shared_stages_start_from_the_mean_and_heads_from_their_runs(data, runs):
    model = job_of(data, ["kind", "number"], runs).model
    kind, number = weights_of(runs["kind"], "kind"), weights_of(runs["number"], "number")
    found = new_weights(model.trunk, "kind")
    assert set(found) == set(kind) == set(number)
    assert any("running_var" in name for _, name in found)
    different = 0
    for place, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (kind[place] + number[place]) / 2)
            different += not torch.equal(kind[place], number[place])
    assert different > 5
    for task, run in runs.items():
        trained = load_model(Run(run).folder.model).model.heads[task].state_dict()
        for name, value in model.heads[task].state_dict().items():
            assert torch.equal(value, trained[name])


def test_each_stage_starts_from_the_runs_of_the_tasks_that_share_it(data, runs):
    sharing = {"type": "hard", "share_until": 1}
    trunk = job_of(data, ["kind", "number"], runs, model={"sharing": sharing}).model.trunk
    kind, number = weights_of(runs["kind"], "kind"), weights_of(runs["number"], "number")
    for task, own in (("kind", kind), ("number", number)):
        for place, value in new_weights(trunk, task).items():
            if value.is_floating_point():
                expected = (kind[place] + number[place]) / 2 if place[0] == 0 else own[place]
                torch.testing.assert_close(value, expected)


def test_a_task_without_a_run_starts_from_the_mean_of_all(data, runs):
    sharing = {"type": "soft"}
    trunk = job_of(data, ["kind", "number", "other"], runs, model={"sharing": sharing}).model.trunk
    kind, number = weights_of(runs["kind"], "kind"), weights_of(runs["number"], "number")
    for place, value in new_weights(trunk, "other").items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (kind[place] + number[place]) / 2)
    for place, value in new_weights(trunk, "number").items():
        assert torch.equal(value, number[place])


@pytest.mark.parametrize("how", ["average", "stack"])
@pytest.mark.parametrize("tasks", [["kind"], ["number", "kind"]])
def test_with_one_run_the_new_model_predicts_as_the_run(data, runs, how, tasks):
    job = job_of(data, tasks, {"kind": runs["kind"]}, how)
    expected = predicted(load_model(Run(runs["kind"]).folder.model).model, job)["kind"]
    torch.testing.assert_close(predicted(job.model, job)["kind"], expected)
    fresh = make_job(Config.from_mapping(configuration(data, tasks))).model
    assert not torch.allclose(predicted(fresh, job)["kind"], expected, atol=1e-3)


def test_averaging_runs_of_one_seed_is_a_better_start_than_new_weights(data, runs):
    averaged = job_of(data, ["kind", "number"], runs)
    fresh = make_job(Config.from_mapping(configuration(data, ["kind", "number"])))
    batch = next(iter(averaged.valid))
    losses = [sum(job.model.eval().losses(batch).values()).item() for job in (averaged, fresh)]
    assert losses[0] < 0.8 * losses[1]


def test_stacked_experts_are_the_runs_side_by_side(data, runs):
    job = job_of(data, ["kind", "number", "other"], runs, "stack")
    assert job.config.model.sharing.type == "stacked_experts"
    assert Config.from_mapping(job.config.to_mapping()) == job.config
    trunk = job.model.trunk
    assert list(trunk.experts) == ["kind", "number"]
    batch = next(iter(job.valid))
    networks = {task: load_model(Run(run).folder.model).model for task, run in runs.items()}
    with torch.no_grad():
        experts = {task: each.trunk(batch.inputs, [task], {}).features[task].values for task, each in networks.items()}
        found = trunk.eval()(batch.inputs, ["kind", "number", "other"], {}).features
        torch.testing.assert_close(found["kind"].values, 0.9 * experts["kind"] + 0.1 * experts["number"])
        torch.testing.assert_close(found["number"].values, 0.1 * experts["kind"] + 0.9 * experts["number"])
        torch.testing.assert_close(found["other"].values, 0.5 * experts["kind"] + 0.5 * experts["number"])


def test_a_scheme_of_the_users_own_settings_stays(data, runs):
    sharing = {"type": "stacked_experts", "gate": "input", "own": 0.5}
    job = job_of(data, ["kind", "number"], runs, "stack", model={"sharing": sharing})
    assert job.config.model.sharing.parameters["gate"] == "input"


def test_it_trains_from_the_command_line_and_needs_the_runs_no_more(data, runs, polytask, tmp_path):
    for task, run in runs.items():
        shutil.copytree(run, tmp_path / "runs" / task)
    relative = {task: f"runs/{task}" for task in runs}
    for how in ("average", "stack"):
        config = configuration(data, ["kind", "number"], {"init_from": {"runs": relative, "how": how}})
        path = tmp_path / f"{how}.json"
        path.write_text(json.dumps(config))
        code, _, err = polytask("train", path, "-q", "-o", how)
        assert code == 0, err
    shutil.rmtree(tmp_path / "runs")
    for how in ("average", "stack"):
        run = Run(tmp_path / how)
        assert run.config.model.init_from.runs["kind"] == str(tmp_path / "runs" / "kind")
        assert len(run.predict(data)) == 120
        # Resuming has the model's description, and weights from the checkpoint.
        job = make_job(run.config, run.folder.read_split(), load_description(run.folder.model))
        assert job.model.task_names == ("kind", "number")
        with pytest.raises(UserError, match=r"model.init_from.runs.kind: There is no run '.*kind'"):
            make_job(run.config)


@pytest.fixture
def told(caplog):
    """The warnings so far."""
    caplog.set_level(logging.WARNING, "polytask")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "polytask"]


def test_a_head_that_does_not_fit_starts_anew(data, runs, told):
    job_of(data, ["kind", "number"], runs)
    assert not told()
    tasks = {"kind": {"type": "classification", "hidden": [4]}, "number": {"type": "regression"}}
    model = job_of(data, [], runs, changes={"tasks": tasks}).model
    (message,) = told()
    assert "model.init_from.runs.kind: the task's head starts anew: head." in message
    trained = load_model(Run(runs["number"]).folder.model).model.heads["number"].state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.heads["number"].state_dict().items())


def test_a_head_whose_classes_mean_something_else_starts_anew(data, runs, told):
    tasks = {"kind": {"type": "classification", "classes": ["low", "high"]}}
    model = job_of(data, [], {"kind": runs["kind"]}, changes={"tasks": tasks}).model
    assert 'classes: ["high", "low"] there, ["low", "high"] here' in told()[0]
    trained = load_model(Run(runs["kind"]).folder.model).model.heads["kind"].state_dict()
    assert not any(torch.equal(v, trained[name]) for name, v in model.heads["kind"].state_dict().items() if v.any())


def test_encoders_whose_tensors_fit_but_whose_settings_differ_are_told_of(data, told, tmp_path):
    def model(**settings):
        return {"encoders": {"row": {"type": "ft_transformer", "dim": 8, "depth": 1, "heads": 2, **settings}}}

    polytask.train(configuration(data, ["kind"], model()), tmp_path / "run")
    start = {"kind": str(tmp_path / "run")}
    job_of(data, ["kind"], start, model=model(residual_dropout=0.3))
    assert not told()
    job_of(data, ["kind"], start, model=model(heads=4))
    assert "settings of the encoders differ" in told()[0]
    assert "encoder 'row': heads: 2 there, 4 here" in told()[0]


@pytest.mark.parametrize("how", ["average", "stack"])
@pytest.mark.parametrize(
    ("runs_of", "changes", "message"),
    [
        ({"kind": "kind2"}, {}, r"init_from.runs.kind: There is no run '.*kind2'\. Did you mean 'kind'\?"),
        ({"kinds": "kind"}, {}, r"runs.kinds: the model has no task 'kinds'\. Did you mean 'kind'\?"),
        ({"number": "kind"}, {}, "runs.number: the run '.*' has no task 'number'. Its tasks: 'kind'"),
        (
            {"kind": "kind"},
            {"encoders": {"row": {"type": "tabular_resnet", "width": 6, "depth": 1}}},
            r"init_from: runs.kind: the encoder of the run .* another architecture.*Of its tensors \d+ differ: "
            r"\S+ \[8, \d+\] there, \[6, \d+\] here; .*; and \d+ more",
        ),
        (
            {"kind": "kind"},
            {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 1}}},
            "another architecture.*only there",
        ),
    ],
)
def test_runs_that_do_not_fit_are_refused(data, runs, how, runs_of, changes, message):
    given = {task: str(data.parent / name) for task, name in runs_of.items()}
    model = dict(changes)
    if how == "stack" and "kinds" in given:
        model["sharing"] = "stacked_experts"
    with pytest.raises(UserError, match=message):
        job_of(data, ["kind", "number"], given, how, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"split": {"seed": 1}}},
            r"runs.kind: the run .* prepares its inputs in another way.*the input 'row': numeric 'x' mean: \S+ there, "
            r"\S+ here; .*Train it on the same rows",
        ),
        ({"inputs": {"row": {"type": "tabular", "columns": ["x", "city"]}}}, "numeric 'y' only there"),
        ({"inputs": {"row": {"type": "tabular", "columns": ["y", "x", "city"]}}}, "numeric in another order"),
        ({"inputs": {"line": {"type": "tabular", "columns": ["x"]}}}, "the input 'row': only there"),
    ],
)
def test_inputs_that_are_prepared_in_another_way_are_refused(data, runs, changes, message):
    if "data" in changes:
        changes = {"data": {"train": str(data), **changes["data"]}}
    encoder = {"type": "tabular_resnet", "width": 8, "depth": 1}
    model = {"encoders": dict.fromkeys(changes.get("inputs", ["row"]), encoder)}
    with pytest.raises(UserError, match=message):
        job_of(data, ["kind", "number"], {"kind": runs["kind"]}, model=model, changes=changes)


def test_columns_may_be_chosen_in_another_way_that_comes_to_the_same(data, runs):
    row = {"type": "tabular", "columns": "*", "exclude": ["other", "number"]}
    job_of(data, ["kind"], {"kind": runs["kind"]}, changes={"inputs": {"row": row}})


def test_text_that_is_read_in_another_way_is_refused(tmp_path):
    path = tmp_path / "reviews.csv"
    draw = np.random.default_rng(0)
    words = [" ".join(draw.choice(["good", "bad", "Film", "plot", "fine"], 4)) for _ in range(60)]
    pd.DataFrame({"text": words, "good": ["yes" if "good" in each else "no" for each in words]}).to_csv(path)

    def config(**changes):
        text = {"type": "text", "column": "text", "tokenizer": "words", "buckets": 50, "length": 8, **changes}
        return {
            "data": {"train": str(path)},
            "inputs": {"text": text},
            "tasks": {"good": {"type": "classification"}},
            "model": {"encoders": {"text": {"type": "bag", "dim": 4}}},
            "training": {"epochs": 1, "batch_size": 32, "tensorboard": False},
        }

    polytask.train(config(), tmp_path / "run")
    start = {"runs": {"good": str(tmp_path / "run")}}
    for changes, message in (
        ({"lowercase": False}, "the input 'text': lowercase: true there, false here"),
        ({"ngrams": 2}, "the input 'text': ngrams: 1 there, 2 here"),
        ({"buckets": 60}, "buckets: 50 there, 60 here"),
    ):
        changed = config(**changes)
        changed["model"]["init_from"] = start
        with pytest.raises(UserError, match=message):
            make_job(Config.from_mapping(changed))
    same = config()
    same["model"]["init_from"] = start
    make_job(Config.from_mapping(same))


def test_weights_of_words_that_follow_from_other_tasks_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "reviews.csv"
    draw = np.random.default_rng(0)
    words = [" ".join(draw.choice(["good", "bad", "Film", "plot", "fine"], 4)) for _ in range(60)]
    kinds = {
        "good": ["yes" if "good" in each else "no" for each in words],
        "film": ["f" if "F" in each else "g" for each in words],
    }
    pd.DataFrame({"text": words, **kinds}).to_csv(path)

    def config(tasks, weights):
        return {
            "data": {"train": str(path)},
            "inputs": {
                "text": {"type": "text", "column": "text", "tokenizer": "words", "min_count": 1, "weights": weights}
            },
            "tasks": {task: {"type": "classification"} for task in tasks},
            "model": {"encoders": {"text": {"type": "bag", "dim": 4}}},
            "training": {"epochs": 1, "batch_size": 32, "tensorboard": False},
        }

    def start(tasks, weights, run):
        wanted = config(tasks, weights)
        wanted["model"]["init_from"] = {"runs": {"good": str(tmp_path / run)}}
        make_job(Config.from_mapping(wanted))

    polytask.train(config(["good"], ["idf", "log_ratio"]), tmp_path / "both")
    polytask.train(config(["good"], ["idf"]), tmp_path / "idf")
    start(["good"], ["idf", "log_ratio"], "both")
    start(["good", "film"], ["idf"], "idf")
    message = r"the weights log_ratio.*'good' there and from those of 'good', 'film' here.*`weights: \[idf\]` in both"
    with pytest.raises(UserError, match=message):
        start(["good", "film"], ["idf", "log_ratio"], "both")
    with pytest.raises(
        UserError, match=r"the input 'text': weights of: \[\"idf\"\] there, \[\"idf\", \"log_ratio\"\] here"
    ):
        start(["good"], ["idf", "log_ratio"], "idf")


def test_an_unfinished_run_is_refused(data, runs, tmp_path):
    shutil.copytree(runs["kind"], tmp_path / "kind")
    (tmp_path / "kind" / "model" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="runs.kind: .* the run has not finished"):
        job_of(data, ["kind"], {"kind": str(tmp_path / "kind")})


def test_a_run_that_is_no_encoder_with_heads_is_refused(data, runs, tmp_path):
    mixed = configuration(data, ["kind", "number"], {"sharing": {"type": "stacked_experts"}})
    mixed["training"]["epochs"] = 1
    run = polytask.train(mixed, tmp_path / "mixed").folder.root
    with pytest.raises(UserError, match="'kind' do not come from one encoder alone.*'stacked_experts'"):
        job_of(data, ["kind"], {"kind": str(run)})


@pytest.mark.parametrize("scheme", ["mmoe", "stacked_experts", "cross_stitch"])
def test_schemes_with_several_copies_side_by_side_have_no_average(data, runs, scheme):
    model = {"sharing": {"type": scheme, **({"share_until": 1} if scheme == "mmoe" else {})}}
    with pytest.raises(UserError, match=f"init_from: how: average needs a sharing scheme.*'{scheme}' has several"):
        job_of(data, ["kind", "number"], runs, model=model)


def test_side_by_side_is_a_scheme_of_its_own_and_has_a_place_for_each_run(data, runs):
    with pytest.raises(UserError, match="how: stack puts .*'stacked_experts', but model.sharing is 'hard'"):
        job_of(data, ["kind", "number"], runs, "stack", {"sharing": "hard"})
    sharing = {"type": "stacked_experts", "experts": ["kind"]}
    with pytest.raises(UserError, match="runs for 'number', but model.sharing has experts for 'kind' only"):
        job_of(data, ["kind", "number"], runs, "stack", {"sharing": sharing})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runs": {}}, "expected 1 or more entries"),
        ({"how": "average"}, "runs"),
        ({"runs": {"kind": "x"}, "how": "mean"}, "'average'.*'stack'"),
        ({"kind": "x"}, "no such key"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(data, given, message):
    with pytest.raises(UserError, match=message):
        Config.from_mapping(configuration(data, ["kind"], {"init_from": given}))
