"""Intervals of 95 %, and how people read them."""

from __future__ import annotations

from collections.abc import Sequence

Interval = tuple[float, float] | None
"""Of 95 %; None where nothing tells."""


def between(interval: Sequence[float] | None, form: str = "+.2f") -> str:
    """The two bounds in words, ``-0.16 to +0.16``; empty where there is no interval.

    Args:
        interval: lower and upper bound.
        form: format of each bound.
    """
    if interval is None:
        return ""
    low, high = interval
    return f"{low:{form}} to {high:{form}}"


def with_interval(value: float, interval: Sequence[float] | None, form: str = "+.2f", unit: str = "") -> str:
    """A value with its unit, and its interval in parentheses where there is one; arguments as in :func:`between`."""
    return f"{value:{form}}{unit}" + ("" if interval is None else f" ({between(interval, form)})")
