"""Rows divided into training (0), validation (1) and test (2): the rules, on plain numbers."""

from __future__ import annotations

import numpy as np

_GREATEST_NUMBER_OF_EXCHANGES = 200


def random_rows(count: int, valid: float, test: float, generator: np.random.Generator) -> np.ndarray:
    """The part of each of `count` rows, int8; the sizes are rounded to the nearest."""
    parts = np.zeros(count, np.int8)
    order = generator.permutation(count)
    tested, held = _rounded(count * test), _rounded(count * test) + _rounded(count * valid)
    parts[order[:tested]] = 2
    parts[order[tested:held]] = 1
    return parts


def by_stratum(strata: np.ndarray, valid: float, test: float, generator: np.random.Generator) -> np.ndarray:
    """The part of each row, such that each stratum is divided in the same proportion.

    What rounding leaves over in one stratum counts in the next, so that many small strata add up to parts of the right
    size. One row at least of each stratum is in training.

    Args:
        strata: `[N]`, the stratum of each row, from 0.
        valid: The fraction of validation.
        test: The fraction of test.
        generator: Chooses the rows, and the order of the strata.

    Returns:
        `[N]`, int8; in each stratum, the number of training rows is within one row of its share, and the others within
        two.
    """
    parts = np.zeros(len(strata), np.int8)
    sizes = np.bincount(strata)
    order = generator.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    held_over = tested_over = 0.5
    for stratum in generator.permutation(len(sizes)):
        if sizes[stratum] == 0:
            continue
        held_over += sizes[stratum] * (valid + test)
        held = min(int(held_over), int(sizes[stratum]) - 1)
        held_over = min(held_over - held, 1.0)
        tested_over += held * (test / (valid + test) if test else 0.0)
        tested = int(tested_over)
        tested_over -= tested
        rows = order[starts[stratum] : starts[stratum] + held]
        parts[rows[:tested]] = 2
        parts[rows[tested:]] = 1
    return parts


def by_group(groups: np.ndarray, valid: float, test: float, generator: np.random.Generator) -> np.ndarray:
    """The part of each row, such that no group is in two parts, and the sizes are near to the fractions.

    Groups are dealt out in random order, each to the part that lacks most; then they are moved and exchanged for as
    long as that brings the sizes nearer. Every part with a fraction gets a group.

    Args:
        groups: `[N]`, the group of each row, from 0; every number occurs, and there are as many groups as parts.
        valid: The fraction of validation.
        test: The fraction of test.
        generator: The order of the groups.

    Returns:
        `[N]`, int8.
    """
    sizes = np.bincount(groups)
    numbers = np.array([0] + [1] * (valid > 0) + [2] * (test > 0), np.int8)
    wanted = len(groups) * np.array([1 - valid - test, valid, test])[numbers]
    owner = np.empty(len(sizes), np.int64)
    lacking = wanted.copy()
    for group in generator.permutation(len(sizes)):
        owner[group] = lacking.argmax()
        lacking[owner[group]] -= sizes[group]
    _fill_empty(owner, sizes, len(numbers))
    for _ in range(_GREATEST_NUMBER_OF_EXCHANGES):
        if not _improve(owner, sizes, wanted):
            break
    parts: np.ndarray = numbers[owner[groups]]
    return parts


def largest_first(
    groups: np.ndarray, valid: float, test: float, generator: np.random.Generator | None = None
) -> np.ndarray:
    """The part of each row, such that no group is in two parts, and large groups are trained on.

    The groups come one after the other, and each goes to the first part (training, validation, test) that has room for
    it; where none has, to the one that lacks most rows. So splits by scaffold are made for benchmarks of molecules (Wu
    et al., "MoleculeNet", Chemical Science 2018, https://arxiv.org/abs/1703.00564; DeepChem and chemprop).

    Args:
        groups: `[N]`, the group of each row, from 0; every number occurs.
        valid: The fraction of validation.
        test: The fraction of test.
        generator: None: the largest group comes first, of equally large ones that which appears first; so validation
            and test get small groups, which makes the split hard. Otherwise, as chemprop's "balanced" split does it,
            groups that would fill half of validation or test come first, and then all others in random order.

    Returns:
        `[N]`, int8.
    """
    sizes = np.bincount(groups)
    order = np.argsort(-sizes, kind="stable")
    numbers = np.array([0] + [1] * (valid > 0) + [2] * (test > 0), np.int8)
    wanted = len(groups) * np.array([1 - valid - test, valid, test])[numbers]
    if generator is not None and len(numbers) > 1:
        large = sizes > wanted[1:].min() / 2
        order = np.concatenate([generator.permutation(np.flatnonzero(each)) for each in (large, ~large)])
    owner = np.empty(len(sizes), np.int64)
    lacking = wanted.copy()
    for group in order:
        room = sizes[group] <= lacking + 0.5  # shares are rounded to the nearest row
        owner[group] = room.argmax() if room.any() else lacking.argmax()
        lacking[owner[group]] -= sizes[group]
    _fill_empty(owner, sizes, len(numbers))
    parts: np.ndarray = numbers[owner[groups]]
    return parts


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _fill_empty(owner: np.ndarray, sizes: np.ndarray, parts: int) -> None:
    """Give each part without a group the smallest group of the part that has most groups."""
    for part in range(parts):
        if not (owner == part).any():
            giver = np.bincount(owner, minlength=parts).argmax()
            candidates = np.flatnonzero(owner == giver)
            owner[candidates[sizes[candidates].argmin()]] = part


def _improve(owner: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> bool:
    """Move one group, or exchange two, where that helps most; whether anything helped."""
    surplus = np.bincount(owner, sizes, len(wanted)) - wanted
    best, change = -1e-9, None
    for giver in range(len(wanted)):
        for taker in range(len(wanted)):
            if giver == taker:
                continue
            gain, groups = _best_exchange(owner, sizes, surplus, giver, taker)
            if gain < best:
                best, change = gain, (giver, taker, groups)
    if change is None:
        return False
    giver, taker, (given, taken) = change
    owner[given] = taker
    if taken is not None:
        owner[taken] = giver
    return True


def _best_exchange(
    owner: np.ndarray, sizes: np.ndarray, surplus: np.ndarray, giver: int, taker: int
) -> tuple[float, tuple[int, int | None]]:
    """The change of the total deviation by the best move from one part to another, and the groups of it."""
    given = np.flatnonzero(owner == giver)
    taken = np.flatnonzero(owner == taker)
    taken = taken[np.argsort(sizes[taken], kind="stable")]

    def change(shift: np.ndarray) -> np.ndarray:
        before = abs(surplus[giver]) + abs(surplus[taker])
        after: np.ndarray = np.abs(surplus[giver] - shift) + np.abs(surplus[taker] + shift) - before
        return after

    # The best shift lies between the giver's surplus and the taker's lack: look for partners nearest to the middle.
    near = np.searchsorted(sizes[taken], sizes[given] - (surplus[giver] - surplus[taker]) / 2)
    options: list[tuple[float, tuple[int, int | None]]] = []
    for partner in (np.maximum(near - 1, 0), np.minimum(near, len(taken) - 1)):
        gains = change(sizes[given] - sizes[taken[partner]])
        index = int(gains.argmin())
        options.append((float(gains[index]), (int(given[index]), int(taken[partner[index]]))))
    if len(given) > 1:
        gains = change(sizes[given].astype(float))
        index = int(gains.argmin())
        options.append((float(gains[index]), (int(given[index]), None)))
    return min(options, key=lambda option: option[0])
