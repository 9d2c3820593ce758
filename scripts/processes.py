"""Child processes: one for every build that is made and every measurement, none left behind."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any, cast

from export.errors import NemotronOVError
from scripts.regenerate.stages import die_with_parent

GRACE = 10.0
"""Seconds that an interrupted child has to remove what it has half-written."""


class ChildError(NemotronOVError):
    """A child process failed; the message is its own last line."""


def run_module(module: str, arguments: Sequence[object], *, text: str = "", show: bool = False) -> Any:
    """Run ``python -m MODULE ARGUMENTS`` and return the JSON that it prints.

    The child has a session of its own, so that a Ctrl-C in the terminal reaches this process alone, which passes it on.

    Args:
        module: what to run.
        arguments: for it.
        text: its standard input.
        show: pass its progress on to our stderr.

    Raises:
        ChildError: it failed.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    child = subprocess.Popen(  # noqa: S603  # our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509  # the last child's listener has ended
    )
    stdin, stdout, stderr = (cast(IO[str], pipe) for pipe in (child.stdin, child.stdout, child.stderr))
    try:
        lines: list[str] = []
        listener = threading.Thread(target=_listen, args=(stderr, lines, show), daemon=True)
        listener.start()
        with contextlib.suppress(BrokenPipeError):  # it ended early and has said why
            stdin.write(text)
            stdin.close()
        output = stdout.read()
        child.wait()
        listener.join()
    except BaseException:
        _stop(child)
        raise
    if child.returncode:
        raise ChildError(_reason(child.returncode, lines))
    return json.loads(output)


def _listen(stream: IO[str], lines: list[str], show: bool) -> None:
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


def _reason(status: int, lines: Sequence[str]) -> str:
    """Why a child failed, in one line."""
    if status == -signal.SIGKILL:
        return "ended by SIGKILL, likely for lack of memory; close other programs"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    said = [line for line in lines if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in said if line.startswith("error:")]
    return (errors or said or [f"ended with status {status}"])[-1]
