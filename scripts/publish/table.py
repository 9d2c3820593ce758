"""Tables and figures of the page."""

from __future__ import annotations

import re
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


def plain(value: object) -> str:
    """A value that somebody else wrote, as text of one line in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*#\[\]<>|])", r"\\\1", _line(value))


def code(value: object) -> str:
    """A value that somebody else wrote, as code of one line."""
    return f"`{_line(value).replace('`', chr(39))}`"


def cell(value: str) -> str:
    """The text of a cell, whose bars do not end it."""
    return re.sub(r"(?<!\\)\|", r"\|", _line(value))


def _line(value: object) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())


def figure(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number, or the words for none."""
    return NOT_MEASURED if value is None else f"{value:{sign}.{digits}f}"
