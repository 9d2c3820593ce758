"""What a verb hands back, and how it reaches the user: a table for people, one JSON object for scripts.

While a verb works, everything that libraries print to stdout goes to stderr, at the file descriptor too, so that
stdout holds the result and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

Parameters = ParamSpec("Parameters")


def all_tried(report: Mapping[str, Any]) -> bool | None:
    """Whether nothing of a report has failed, on all recordings; for :func:`export.errors.exit_status`."""
    return False if report["failed"] else None if report["unusable"] else True


@dataclass(frozen=True)
class Result:
    """A verb's result.

    Attributes:
        data: the JSON object.
        render: makes what people see instead.
        as_json: whether ``--json`` was given.
        exit_code: 0, or what :func:`export.errors.exit_status` says of a verdict.
    """

    data: Mapping[str, Any]
    render: Callable[[], Sequence[RenderableType]]
    as_json: bool = False
    exit_code: int = 0

    def show(self) -> None:
        """Print it on stdout."""
        if self.as_json:
            text = json.dumps(self.data, ensure_ascii=False)
            sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")  # names that are no text
        else:
            from rich.console import Console

            terminal = sys.stdout.isatty()
            console = Console(highlight=False, soft_wrap=not terminal, width=None if terminal else PIPE_WIDTH)
            for part in self.render():
                console.print(part)
        sys.stdout.flush()


PIPE_WIDTH = 200
"""Columns of tables that go to a file or a pipe: no head is shortened there."""


def verb(function: Callable[Parameters, Result]) -> Callable[Parameters, None]:
    """Make a typer command of a function that returns a :class:`Result`."""

    @functools.wraps(function)
    def command(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        with chatter_on_stderr():
            result = function(*args, **kwargs)
        result.show()
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    return command


@contextmanager
def chatter_on_stderr() -> Iterator[TextIO]:
    """Send what Python code and C++ libraries print to stdout to stderr while the body runs.

    Yields:
        Stdout itself, for results that come one by one.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    stream, sys.stdout = sys.stdout, sys.stderr
    os.dup2(2, 1)
    try:
        # A file's name that is no text is written as JSON escapes it.
        with os.fdopen(os.dup(saved), "w", encoding=stream.encoding, errors="backslashreplace") as out:
            yield out
    finally:
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)  # C streams keep lines that would come out after the switch back
        os.dup2(saved, 1)
        os.close(saved)
        sys.stdout = stream


def facts_table(title: str, facts: Mapping[str, object]) -> RenderableType:
    """A two-column table of names and values."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(name), escape(str(value)))
    return table


def megabytes(size: int) -> str:
    """Bytes as decimal megabytes, as file managers and the published figures count them."""
    return f"{size / 1e6:.1f} MB"
