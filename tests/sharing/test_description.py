import pytest
from rich.console import Console
from torch import nn

from polytask import sharing
from polytask.sharing import Part
from polytask.sharing.description import mermaid, model_tree

from .test_hard import TASKS

HEADS = {task: nn.Linear(3, 2) for task in TASKS}
ENDS = {task: Part(f"head of {task}", (task,), head) for task, head in HEADS.items()}


def text_of(tree):
    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        console.print(tree)
    return captured.get().splitlines()


def test_the_tree_says_who_shares_what_and_how_large_it_is(encoder):
    trunk = sharing.Hard("middle").build({"row": encoder}, TASKS)
    lines = [line.strip("│├└─ ") for line in text_of(model_tree(trunk.parts(), trunk.stage_names, ENDS))]
    shared, own = 30 + 35, 18
    assert lines == [
        f"3 tasks, {shared + 3 * own + 3 * 8} parameters, {shared} of them (45%) shared",
        "bottom: all 3 tasks, 30",
        "middle: all 3 tasks, 35",
        "top",
        "age: 18",
        "type: 18",
        "values: 18",
        "heads",
        "age: 8",
        "type: 8",
        "values: 8",
    ]


def test_one_task_shares_nothing(encoder):
    trunk = sharing.Hard().build({"row": encoder}, ["age"])
    lines = text_of(model_tree(trunk.parts(), trunk.stage_names, {"age": ENDS["age"]}))
    assert lines[:2] == ["1 task, 91 parameters", "├── bottom: age, 30"]


def test_the_diagram_has_a_node_for_each_part_and_arrows_along_the_tasks(encoder):
    trunk = sharing.Hard("middle").build({"row": encoder}, TASKS)
    lines = mermaid(trunk.parts(), trunk.stage_names, HEADS).splitlines()
    assert lines[:2] == ["flowchart LR", "  input([input])"]
    assert '  p0["bottom<br/>all 3 tasks<br/>30"]' in lines
    assert '  h1(["type<br/>8"])' in lines
    arrows = [line.strip() for line in lines if "-->" in line]
    assert arrows == [
        "input --> p0",
        "p0 --> p1",
        *(f"p1 --> p{number}" for number in (2, 3, 4)),
        *(f"p{number + 2} --> h{number}" for number in range(3)),
    ]


@pytest.mark.parametrize("name", ['say "hi"', "a<b>", "x & y"])
def test_names_cannot_break_the_diagram(encoder, name):
    trunk = sharing.Hard().build({"row": encoder}, [name])
    text = mermaid(trunk.parts(), trunk.stage_names, {name: HEADS["age"]})
    assert name not in text
    assert all(line.count('"') in (0, 2) for line in text.splitlines())


def arrows_of(trunk, heads):
    lines = mermaid(trunk.parts(), trunk.stage_names, heads).splitlines()
    names = {line.split('"')[0].strip(" (["): line.split('"')[1] for line in lines if '"' in line}
    names = {node: text.removesuffix("<br/>" + text.split("<br/>")[-1]) for node, text in names.items()}
    pairs = [line.strip().split(" --> ") for line in lines if "-->" in line]
    return {(names.get(one, one), names[other]) for one, other in pairs}


def test_encoders_side_by_side_do_not_feed_each_other(encoder):
    tasks = ["age", "type"]
    trunk = sharing.Adversarial(private_until="middle").build({"row": encoder}, tasks)
    heads = {task: nn.Linear(1, 1) for task in tasks}
    found = arrows_of(trunk, heads)
    shared = [f"{stage}<br/>both tasks" for stage in ("bottom", "middle", "top")]
    private = {task: [f"{stage}: private {stage}<br/>{task}" for stage in ("bottom", "middle")] for task in tasks}
    expected = {("input", shared[0]), (shared[0], shared[1]), (shared[1], shared[2])}
    for task in tasks:
        expected |= {("input", private[task][0]), tuple(private[task]), (private[task][1], task), (shared[2], task)}
    assert found == expected
