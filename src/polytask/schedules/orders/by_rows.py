"""At random, by how many rows are labelled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polytask.errors import UserError
from polytask.schedules.orders.order import Order, in_proportion
from polytask.schedules.report import Turn


class Random(Order):
    """At random, each with the same probability."""

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        return by_power(sizes, 0.0)


class Proportional(Order):
    """At random, in proportion to the labelled rows: `p_t = n_t / sum_s n_s`, as if all rows lay in one heap."""

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        return by_power(sizes, 1.0)


class SquareRoot(Order):
    """At random, in proportion to the square root of the labelled rows: `p_t = n_t^(1/2) / sum_s n_s^(1/2)`."""

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        return by_power(sizes, 0.5)


class Temperature(Order):
    """At random, with `p_t = n_t^(1/T) / sum_s n_s^(1/T)` for `n_t` labelled rows.

    In proportion to the rows at `T = 1`, and the same for all as `T` grows (Arivazhagan et al., Massively Multilingual
    Neural Machine Translation in the Wild, 2019, who took 5).

    Args:
        temperature: `T`, above 0.
    """

    def __init__(self, temperature: float = 5.0) -> None:
        if not temperature > 0:
            raise UserError(
                f"temperature is {temperature:g}, but must be above 0: tasks are drawn in proportion to their rows to "
                "the power of 1/temperature. 1 is proportional, more is more even."
            )
        self.temperature = temperature

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        return by_power(sizes, 1 / self.temperature)


class Annealed(Order):
    """At random, from in proportion to the rows at the beginning to more even at the end.

    In epoch `e` of `E`, `p_t = n_t^α / sum_s n_s^α` with `α = start + (end - start) (e - 1) / (E - 1)`; by default that
    is `α = 1 - 0.8 (e - 1) / (E - 1)` (Stickland and Murray, BERT and PALs, ICML 2019). Tasks with few rows are seen
    often when it is too late to overfit much, and are fresh at the end.

    Args:
        start: `α` in the first epoch, at least 0; 1 is proportional, 0 is the same for all.
        end: `α` in the last epoch.
    """

    def __init__(self, start: float = 1.0, end: float = 0.2) -> None:
        for name, value in (("start", start), ("end", end)):
            if not value >= 0:
                raise UserError(f"{name} is {value:g}, but must be at least 0: it is the power of the number of rows.")
        self.start = start
        self.end = end
        self.epochs = 1

    def prepare(self, epochs: int) -> None:
        """See `Order.prepare`."""
        self.epochs = epochs

    def shares(self, sizes: Mapping[Turn, int], epoch: int) -> dict[Turn, float]:
        """See `Order.shares`."""
        over = 0.0 if self.epochs < 2 else min(1.0, epoch / (self.epochs - 1))
        return by_power(sizes, self.start + (self.end - self.start) * over)


def by_power(sizes: Mapping[Turn, int], power: float) -> dict[Turn, float]:
    """Shares in proportion to the rows to a power; none for a turn without rows."""
    rows = np.array(list(sizes.values()), dtype=float)
    if not rows.any():
        return in_proportion(list(sizes), rows)
    # In logarithms, since a power of many rows at a low temperature is beyond what a number can hold.
    logs = np.log(np.maximum(rows, 1)) * power
    return in_proportion(list(sizes), np.exp(logs - logs.max()) * (rows > 0))
