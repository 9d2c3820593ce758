"""The ``nemotron-ov`` command: one small module per group of verbs, wired together in :mod:`scripts.cli.app`."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence

from export.errors import INTERRUPTED, NemotronOVError, UserError, require_utf8
from scripts.extras import missing_extra

_REMEDIES = {
    errno.ENOSPC: "make room on the disks of the output and of TMPDIR",
    errno.EDQUOT: "make room on the disks of the output and of TMPDIR",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


BUG = 70
"""Exit status of an error that nobody foresaw (``EX_SOFTWARE`` of sysexits.h)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 not good enough, 2 bad input, 3 not judged, 70 a bug, 130 interrupted.

    Args:
        arguments: what to parse; None for the process's own.

    Raises:
        SystemExit: always, with the exit status.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)

    def run() -> None:
        from scripts.cli.app import command

        if not {"transcribe", "inspect"} & set(given[:1]):  # these write no document that names its inputs
            for argument in given:
                require_utf8(argument)
        command(args=given, prog_name="nemotron-ov")

    end_with_status(run)


def end_with_status(command: Callable[[], object]) -> None:
    """Run a command, and where it raises, say why in one line and exit as :func:`main` does.

    Raises:
        SystemExit: with the exit status.
    """
    try:
        command()
    except KeyboardInterrupt:  # while the verbs were loaded, which typer does not catch
        sys.exit(INTERRUPTED)
    except NemotronOVError as error:
        _print_error(str(error))  # empty where a stage's own process has printed the line already
        sys.exit(error.exit_code)
    except OSError as error:
        _print_error(_system_error(error))
        sys.exit(UserError.exit_code)
    except Exception as error:
        if out_of_memory(error):
            _print_error(_memory_error())
            sys.exit(UserError.exit_code)
        missing = missing_extra(error)
        if missing is None:
            traceback.print_exc()
            sys.exit(BUG)
        _print_error(missing)
        sys.exit(UserError.exit_code)


def _print_error(message: str) -> None:
    """One line on stderr, if there is anything to say."""
    line = " ".join(message.split())
    if line:
        print(f"error: {line}", file=sys.stderr)  # noqa: T201  # rich would wrap the line


def out_of_memory(error: BaseException) -> bool:
    """Whether numpy, PyTorch or OpenVINO got no memory; the last two say so in a text only."""
    texts = ("can't allocate memory", "bad_alloc", "not enough memory", "bad allocation")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def _memory_error() -> str:
    """What there is, and what may be done about it."""
    import psutil

    free = psutil.virtual_memory().available
    return (
        f"not enough memory: {free / 1e9:.1f} GB are available now, and the full-size export takes 4.7 GB; close other "
        "programs, or raise the limit of this process (ulimit -v, the container's)"
    )


def _system_error(error: OSError) -> str:
    """What the system refused where no check had foreseen it: path, reason, remedy."""
    path = error.filename if error.filename is not None else "a file or folder"  # a full disk names none
    remedy = _REMEDIES.get(error.errno or 0, "check the path and its disk")
    return f"{path}: {error.strerror or str(error) or type(error).__name__}; {remedy}, then run again"
