"""For each modality a small table with labels for every type of task that it can have."""

import wave
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROWS = 12
SIZE = 32

ROW_TASKS = {
    "class": {"type": "classification"},
    "number": {"type": "regression"},
    "labels": {"type": "multi_label", "target": ["one", "two"]},
    "count": {"type": "count"},
    "rank": {"type": "ordinal", "classes": ["low", "middle", "high"]},
    "life": {"type": "survival", "time": "time", "event": "died", "intervals": 3},
}
"""Tasks with one answer a row, which every modality has."""

DENSE = {"width": 8}

WORLDS = {
    "tabular": (
        {"type": "tabular", "columns": ["a", "b", "kind"]},
        {"type": "tabular_resnet", "width": 8, "depth": 2},
        {"rebuilt": {"type": "reconstruction"}, "alike": {"type": "contrastive", "projection": 4}},
    ),
    "image": (
        {"type": "image", "column": "image"},
        {"type": "cnn", "width": 4, "depth": 3},
        {
            "regions": {"type": "segmentation", "target": "mask", **DENSE},
            "borders": {"type": "edges", "target": "mask", **DENSE},
            "depth": {"type": "depth", **DENSE},
            "normals": {"type": "normals", **DENSE},
            "heat": {"type": "dense_regression", "target": "depth", **DENSE},
            "things": {"type": "detection", "target": "boxes", "width": 8, "hidden": 8, "regions": 16},
            "turned": {"type": "rotation"},
            "rebuilt": {"type": "reconstruction"},
            "alike": {"type": "contrastive", "projection": 4},
        },
    ),
    "text": (
        {"type": "text", "column": "words", "words": True},
        {"type": "transformer", "dim": 8, "depth": 2, "heads": 2},
        {
            "tags": {"type": "tagging"},
            "spelled": {"type": "ctc", "target": "letters"},
            "hidden": {"type": "masked_tokens"},
        },
    ),
    "audio": (
        {"type": "audio", "column": "sound"},
        {"type": "crnn", "width": 4, "hidden": 8},
        {"spelled": {"type": "ctc", "target": "letters"}},
    ),
    "graph": (
        {"type": "graph_columns", "nodes": "nodes", "edges": "edges"},
        {"type": "gin", "dim": 8, "depth": 2},
        {
            "node_class": {"type": "node_classification", "target": "node_classes"},
            "node_number": {"type": "node_regression", "target": "node_numbers"},
        },
    ),
    "sequence": (
        {"type": "sequence", "columns": ["up", "down"]},
        {"type": "tcn", "dim": 8, "depth": 2},
        {"spelled": {"type": "ctc", "target": "letters"}},
    ),
}
"""For each modality: an input, an encoder, and the tasks that only some modalities have."""


def tasks_of(modality):
    return {**ROW_TASKS, **WORLDS[modality][2]}


def configuration(modality, folder: Path):
    """A configuration of all tasks of a modality; its table lies in the folder."""
    source, encoder, _ = WORLDS[modality]
    return {
        "data": {"train": str(folder / "table.parquet"), "split": {"valid": 0.0, "test": 0.0}},
        "inputs": {"input": source},
        "tasks": tasks_of(modality),
        "model": {"encoders": {"input": encoder}},
        "training": {"batch_size": ROWS, "epochs": 1, "accelerator": "cpu", "tensorboard": False},
    }


def write_table(folder: Path) -> None:
    """The rows of all modalities, with labels for all tasks; some are missing."""
    draw = np.random.default_rng(0)
    rows = [_row(draw, folder, number) for number in range(ROWS)]
    rows[2]["number"] = None
    rows[3]["class"] = None
    rows[4]["mask"] = None
    rows[5]["tags"] = None
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")


def _row(draw, folder, number):
    row = {
        "a": float(draw.normal()),
        "b": float(draw.normal()),
        "kind": "xyz"[number % 3],
        "class": "pq"[number % 2],
        "number": float(draw.normal()),
        "one": number % 2 == 0,
        "two": number % 3 == 0,
        "count": int(draw.poisson(2)),
        "rank": ["low", "middle", "high"][number % 3],
        "time": float(draw.exponential(3)),
        "died": number % 4 > 0,
        "letters": "".join(draw.choice(list("ab"), 2)),
    }
    words = 3 + number % 3
    row |= {"words": list(draw.choice(["red", "green", "blue", "tree"], words)), "tags": list("NVNVNV"[:words])}
    steps = 8 + number % 3
    row |= {"up": draw.normal(size=steps).tolist(), "down": draw.normal(size=steps).tolist()}
    row |= {
        "nodes": [{"kind": str(draw.choice(["C", "N"])), "size": float(draw.normal())} for _ in range(3)],
        "edges": [[0, 1], [1, 2]],
        "node_classes": ["p", "q", "p"],
        "node_numbers": [1.0, 2.0, 3.0],
    }
    return row | _picture(draw, folder, number) | {"sound": _sound(draw, folder, number)}


def _picture(draw, folder, number):
    left, top = draw.integers(1, 10, 2).tolist()
    right, bottom = left + 12, top + 14
    pixels = draw.integers(0, 90, (SIZE, SIZE, 3)).astype(np.uint8)
    pixels[top:bottom, left:right] += 120
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top:bottom, left:right] = 1
    normals = np.zeros((SIZE, SIZE, 3), np.float32)
    normals[..., 2] = 1
    Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.fromarray(mask).save(folder / f"{number}-mask.png")
    np.save(folder / f"{number}-depth.npy", 1 + mask.astype(np.float32))
    np.save(folder / f"{number}-normals.npy", normals)
    box = {"class": "thing", "xmin": left, "ymin": top, "xmax": right, "ymax": bottom}
    names = {"image": "", "mask": "-mask"}
    return {
        **{column: str(folder / f"{number}{end}.png") for column, end in names.items()},
        "depth": str(folder / f"{number}-depth.npy"),
        "normals": str(folder / f"{number}-normals.npy"),
        "boxes": [box],
    }


def _sound(draw, folder, number):
    samples = (3000 * draw.normal(size=1600 + 160 * (number % 3))).astype(np.int16)
    path = folder / f"{number}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())
    return str(path)
