"""What linear models on 1- to 3-grams of the SMILES' characters predict, on the same split as a run.

python baseline.py qm9.csv runs/qm9

One ridge regression for each property; how strong each is regularised is chosen on the validation part.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

STRENGTHS = (0.1, 1.0, 10.0, 100.0)


def ngrams(text: str) -> Counter[str]:
    """How often each run of one to three characters occurs."""
    return Counter(text[start : start + size] for size in (1, 2, 3) for start in range(len(text) - size + 1))


def features(texts: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    """float64 `[N, V + 1]`: counts of the n-grams that the vocabulary has, and 1."""
    found = np.zeros((len(texts), len(vocabulary) + 1))
    found[:, -1] = 1.0
    for row, text in enumerate(texts):
        for gram, count in ngrams(text).items():
            if gram in vocabulary:
                found[row, vocabulary[gram]] = count
    return found


def r2(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """`[T]`: the coefficient of determination of each property."""
    return 1 - ((predicted - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)


def main(data: Path, run: Path) -> None:
    """Print R2 of each property on the test part."""
    table = pd.read_csv(data)
    split = pd.read_parquet(run / "split.parquet")
    rows = {part: split.row[split.part == part].to_numpy() for part in ("train", "valid", "test")}
    texts = table.smiles.tolist()
    names = [column for column in table.columns if column != "smiles"]
    counts = Counter(gram for row in rows["train"] for gram in ngrams(texts[row]))
    vocabulary = {gram: number for number, gram in enumerate(gram for gram, times in counts.items() if times > 1)}
    x = {part: features([texts[row] for row in rows[part]], vocabulary) for part in rows}
    y = {part: table[names].to_numpy()[rows[part]] for part in rows}
    mean, std = y["train"].mean(0), y["train"].std(0)
    product, moment = x["train"].T @ x["train"], x["train"].T @ ((y["train"] - mean) / std)
    weights = [np.linalg.solve(product + strength * np.eye(len(product)), moment) for strength in STRENGTHS]
    valid = np.stack([r2(x["valid"] @ each * std + mean, y["valid"]) for each in weights])
    test = np.stack([r2(x["test"] @ each * std + mean, y["test"]) for each in weights])
    chosen = test[valid.argmax(0), np.arange(len(names))]
    for name, score in zip(names, chosen, strict=True):
        print(f"{name:10} {score:.3f}")
    print(f"{'mean':10} {chosen.mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
