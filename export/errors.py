"""Errors that a user can act on.

Every error of the toolkit is one line that names the file, the value and the remedy::

    NemotronOVError          anything below; ``exit_code`` is the process's exit status
    ├── UserError            bad input: wrong file, wrong value, no room (exit status 2)
    └── ParityError          the work was done, and its result is not good enough (exit status 1)

The command line prints the message after ``error:`` and exits with ``exit_code``; so it does, with 2, for what the
operating system refuses (``OSError``). Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class NemotronOVError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class UserError(NemotronOVError, ValueError):
    """The input cannot be used; the message says which, why, and what to do instead."""

    exit_code = 2


class ParityError(NemotronOVError, AssertionError):
    """A graph or a folder does not reproduce its reference within the stated limit."""

    exit_code = 1


NOT_DECIDED = 3
"""Exit status where the work was done and something could not be judged."""

INTERRUPTED = 130
"""Exit status of a run that Ctrl-C ended, as a shell counts it."""


def exit_status(passed: bool | None) -> int:
    """0 where everything passed, 1 where something failed, :data:`NOT_DECIDED` where it is not known."""
    return NOT_DECIDED if passed is None else int(not passed)


def listed(items: Sequence[str], most: int, separator: str = "; ") -> str:
    """The first ``most`` of the items that a message names, and how many more there are."""
    more = len(items) - most
    rest = f"{separator.rstrip(', ')} and {more:,} more" if more > 0 else ""
    return separator.join(items[:most]) + rest


def require_utf8(name: str | os.PathLike[str]) -> None:
    """Refuse a file name that a JSON document could not hold.

    Raises:
        UserError: it is no UTF-8.
    """
    text = os.fspath(name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise UserError(f"{shown}: the name is no UTF-8, and reports could not name it; rename it") from error
