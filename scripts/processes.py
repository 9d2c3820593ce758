"""Child processes: one for every build that is made and every measurement, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Literal, TextIO, cast

from export.errors import INTERRUPTED, NOT_DECIDED, NemotronOVError
from scripts.extras import missing_extra

GRACE = 10.0
"""Seconds that an interrupted child has to remove what it has half-written."""


Stderr = Literal["keep", "show", "ours"]
"""Where a child's progress goes: kept for the message of its failure, also shown, or straight to our stderr."""


class ChildError(NemotronOVError):
    """A child process failed.

    Args:
        message: its own last line; nothing where it has printed that to our stderr itself.
        exit_code: the child's, 1 where a signal ended it.
    """

    def __init__(self, message: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_module(
    module: str,
    arguments: Sequence[object],
    *,
    text: str = "",
    stderr: Stderr = "keep",
    may_fail: bool = False,
    inherited: Sequence[int] = (),
) -> Any:
    """Run ``python -m MODULE ARGUMENTS`` and return the JSON that it prints.

    The child has a session of its own, so that a Ctrl-C in the terminal reaches this process alone, which passes it on.

    Args:
        module: what to run.
        arguments: for it.
        text: its standard input.
        stderr: see :data:`Stderr`.
        may_fail: take a verdict's exit status (:func:`export.errors.exit_status`) with a result as a result.
        inherited: file descriptors that it keeps, such as a lock's.

    Raises:
        ChildError: it failed.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    child = subprocess.Popen(  # noqa: S603  # our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if stderr == "ours" else subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=inherited,
        preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509  # the last child's listener has ended
    )
    stdin, stdout = cast(IO[str], child.stdin), cast(IO[str], child.stdout)
    lines: list[str] = []
    listener = threading.Thread(target=_listen, args=(child.stderr or (), lines, stderr == "show"), daemon=True)
    try:
        listener.start()
        with contextlib.suppress(BrokenPipeError):  # it ended early, with its reason on stderr
            stdin.write(text)
            stdin.close()
        output = stdout.read()
        child.wait()
        listener.join()
    except BaseException:
        _stop(child)
        raise
    status = child.returncode
    if status < 0:
        raise ChildError(_signal_reason(status))
    if status and not (may_fail and status in (1, NOT_DECIDED) and output.strip()):
        raise ChildError("" if stderr == "ours" else _reason(status, lines), status)
    return json.loads(output)


@contextlib.contextmanager
def result_of_a_child() -> Iterator[TextIO]:
    """In a module that :func:`run_module` runs: where its JSON goes. What libraries print goes to stderr.

    An error that a user can cause ends the process with its line, which :func:`run_module` raises.
    """
    warnings.filterwarnings("ignore")
    output = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield output
    except ModuleNotFoundError as error:
        sys.exit(f"error: {missing_extra(error) or error}")
    except NemotronOVError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _die_with_parent(parent: int) -> None:
    """On Linux, end this process when its parent is killed, or has been, so that no orphan goes on writing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _listen(stream: Iterable[str], lines: list[str], show: bool) -> None:
    """Keep what a child says on stderr, and show it where wanted; its ``error:`` line is for the caller to report."""
    for line in stream:
        lines.append(line.rstrip())
        if show and not line.startswith("error:"):
            sys.stderr.write(line)
            sys.stderr.flush()


def _stop(child: subprocess.Popen[str]) -> None:
    """Interrupt a child, and kill it where it does not end."""
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE)
    except BaseException:
        child.kill()
        child.wait()
        raise


def _signal_reason(status: int) -> str:
    """What ended a child that did not end by itself."""
    if status == -signal.SIGKILL:
        return "ended by SIGKILL, likely for lack of memory; close other programs"
    if status == -signal.SIGBUS:
        return (
            "ended by SIGBUS, likely because a file that it had mapped was made shorter, or its disk failed; leave the "
            "files that it reads alone"
        )
    return f"ended by {signal.Signals(-status).name}"


def _reason(status: int, lines: Sequence[str]) -> str:
    """Why a child failed, in one line."""
    spoken = [line for line in lines if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in spoken if line.startswith("error:")]
    return (errors or spoken or [f"ended with status {status}"])[-1]
