"""Tables and figures of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """A table: head, rows of cells, and a sentence above it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    figures: bool = False  # columns after the first hold numbers


def figure(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number, or the words for none."""
    return NOT_MEASURED if value is None else f"{value:{sign}.{digits}f}"
