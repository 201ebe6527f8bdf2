"""Random bits that follow from numbers alone, in whichever process and order they are asked for."""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64_BITS = 2**64 - 1


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64, of the same shape: one step of SplitMix64, a bijection of 64 bits without visible structure.

    Steele, Lea and Flood, OOPSLA 2014. Arrays overflow without a warning.
    """
    bits = np.asarray(values, dtype=np.uint64) + np.uint64(_GOLDEN)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(_FIRST)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_SECOND)
    bits ^= bits >> np.uint64(31)
    return bits


def key_of(*numbers: int) -> int:
    """64 bits that stand for some numbers in this order; `mixed` of `x ^ key` is random bits for each `x`."""
    key = 0
    for number in numbers:
        key = _mixed_number(number % 2**64 ^ key)
    return key


def keys_of(first: int, numbers: np.ndarray, last: int) -> np.ndarray:
    """uint64 `[N]`: `key_of(first, number, last)` for each of some numbers, int64 `[N]`."""
    keys = mixed(numbers.astype(np.uint64) ^ np.uint64(key_of(first)))
    return mixed(np.uint64(last % 2**64) ^ keys)


def uniform(bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), from random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed_number(value: int) -> int:
    bits = (value + _GOLDEN) & _64_BITS
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _64_BITS
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _64_BITS
    return bits ^ (bits >> 31)
