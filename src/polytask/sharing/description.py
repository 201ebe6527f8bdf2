"""A model in words and as a diagram: its parts, who shares them, and how large they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from polytask.sharing.sharing import Part

if TYPE_CHECKING:
    from rich.tree import Tree


def model_tree(parts: Sequence[Part], stages: Sequence[str], heads: Mapping[str, Part]) -> Tree:
    """The model as a text tree: the stages from the input on, the parts beside them, the heads.

    Args:
        parts: All that lies before the heads.
        stages: The stages' names, in order.
        heads: The tasks' heads by name.
    """
    from rich.text import Text
    from rich.tree import Tree

    tasks = tuple(heads)
    total = sum(size(part.module) for part in (*parts, *heads.values()))
    shared = sum(size(part.module) for part in (*parts, *heads.values()) if len(part.tasks) > 1)
    share = f", {shared:,} of them ({shared / total:.0%}) shared" if len(tasks) > 1 and total else ""
    root = Tree(Text(f"{len(tasks)} task{'s' * (len(tasks) > 1)}, {total:,} parameters{share}"))
    for name, found in _levels(parts, stages):
        if len(found) == 1 and found[0].name == name:
            root.add(Text(_line(name, found[0].tasks, tasks, size(found[0].module))))
            continue
        level = root.add(Text(name))
        for part in found:
            title = _line(part.name if part.name != name else "", part.tasks, tasks, size(part.module))
            level.add(Text(title))
    ends = root.add(Text("heads"))
    for task, head in heads.items():
        also = "" if len(head.tasks) < 2 else f"{_who(head.tasks, tasks)}, "
        ends.add(Text(f"{task}: {also}{size(head.module):,}"))
    return root


def mermaid(parts: Sequence[Part], stages: Sequence[str], heads: Mapping[str, nn.Module]) -> str:
    """The model as a Mermaid flowchart: each part one node, with arrows along the tasks that pass through it.

    Args:
        parts: All that lies before the heads.
        stages: The stages' names, in order.
        heads: The tasks' heads by name.
    """
    tasks = tuple(heads)
    lines = ["flowchart LR", "  input([input])"]
    edges: dict[str, None] = {}
    # Nodes with the tasks that pass through them and their lanes; `before` is what the next stage can read.
    before: list[tuple[str, frozenset[str], str]] = [("input", frozenset(tasks), "")]
    beside: list[tuple[str, frozenset[str]]] = []
    number = 0
    for name, found in _levels(parts, stages):
        current = []
        for part in found:
            node = f"p{number}"
            number += 1
            label = part.name if part.name == name or part.depth is None else f"{name}: {part.name}"
            shown = (_quoted(label), _quoted(_who(part.tasks, tasks)), f"{size(part.module):,}")
            lines.append(f'  {node}["{"<br/>".join(shown)}"]')
            reached = frozenset(part.tasks)
            if part.depth is None:
                beside.append((node, reached))
                continue
            current.append((node, reached, part.lane))
            edges.update(
                dict.fromkeys(
                    f"  {one} --> {node}"
                    for one, through, lane in before
                    if through & reached and (lane == part.lane or not lane or not part.lane)
                )
            )
        ended = [each for each in before if each[2] and each[2] not in {lane for *_, lane in current}]
        before = [*ended, *current] if current else before
    for index, (task, head) in enumerate(heads.items()):
        lines.append(f'  h{index}(["{_quoted(task)}<br/>{size(head):,}"])')
        edges.update(dict.fromkeys(f"  {one} --> h{index}" for one, through, _ in before if task in through))
        edges.update(dict.fromkeys(f"  {one} -.-> h{index}" for one, through in beside if task in through))
    return "\n".join([*lines, *edges]) + "\n"


def size(module: nn.Module) -> int:
    """The number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _levels(parts: Sequence[Part], stages: Sequence[str]) -> Iterable[tuple[str, list[Part]]]:
    """The parts by stage, and then those that belong to none."""
    parts = [part for part in parts if size(part.module)]
    for depth, name in enumerate(stages):
        found = [part for part in parts if part.depth == depth]
        if found:
            yield name, found
    rest = [part for part in parts if part.depth is None]
    if rest:
        yield "beside the stages", rest


def _line(name: str, tasks: Sequence[str], all_tasks: Sequence[str], parameters: int) -> str:
    who = _who(tasks, all_tasks)
    return f"{name}: {who}, {parameters:,}" if name else f"{who}: {parameters:,}"


def _who(tasks: Sequence[str], all_tasks: Sequence[str]) -> str:
    if not tasks:
        return "no task"
    if len(tasks) == len(all_tasks) > 1:
        return "both tasks" if len(tasks) == 2 else f"all {len(tasks)} tasks"
    shown = ", ".join(tasks[:6])
    return shown if len(tasks) <= 6 else f"{shown} and {len(tasks) - 6} more"


def _quoted(text: str) -> str:
    """Text that Mermaid takes as it is."""
    return text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;").replace(">", "&gt;")
