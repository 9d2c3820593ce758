"""The ``nemotron-ov`` command: one small module per group of verbs, wired together in :mod:`scripts.cli.app`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from export.errors import NemotronOVError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 not good enough, 2 bad input, 130 interrupted.

    Args:
        arguments: what to parse; None for the process's own.

    Raises:
        SystemExit: always, with the exit status.
    """
    from scripts.cli.app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="nemotron-ov")
    except NemotronOVError as error:
        message = " ".join(str(error).split())
        if message:  # empty where a stage's own process has printed the line already
            print(f"error: {message}", file=sys.stderr)  # noqa: T201  # rich would wrap the line
        sys.exit(error.exit_code)
