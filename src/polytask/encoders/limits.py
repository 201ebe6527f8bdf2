"""Limits of an encoder's parameters, told in one way."""

from __future__ import annotations

from polytask.errors import UserError


def at_least(minimum: int, **values: int | None) -> None:
    """Refuse numbers below `minimum`; None, where a parameter allows it, passes.

    Raises:
        UserError: A value is too small.
    """
    for name, value in values.items():
        if value is not None and value < minimum:
            raise UserError(f"'{name}' must be at least {minimum}, but {value} was given.")


def dropout_rate(**values: float) -> None:
    """Refuse what is not the probability of dropping a value.

    Raises:
        UserError: A value is below 0, or 1 or more.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"'{name}' must be at least 0 and less than 1, but {value} was given.")


def one_of(allowed: tuple[object, ...], **values: object) -> None:
    """Refuse a choice that is not offered.

    Raises:
        UserError: A value is not in `allowed`.
    """
    for name, value in values.items():
        if value not in allowed:
            raise UserError(f"'{name}' must be one of {', '.join(map(repr, allowed))}, but {value!r} was given.")
