"""The real command line in real processes that need not import NeMo again: they are forked after the imports.

A command's own children (the stages of ``regenerate``) are forked too. Everything else is the project's: sessions,
inherited locks, death with the parent, exit statuses.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_LIBC = ctypes.CDLL(None)


def warm_up() -> None:
    """Import what the commands import, compute nothing: a thread pool would not live on in a fork."""

    import scripts.cli.app
    import scripts.processes
    import scripts.regenerate
    import verify.pipeline
    import verify.references.nemo  # noqa: F401

    gc.collect()
    gc.freeze()  # or every collection in a fork would copy the whole of the parent's memory
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # stages whose parent was killed become ours, to be waited for
    scripts.processes.subprocess = _Forking  # type: ignore[assignment, attr-defined]


class _ForkedPopen(subprocess.Popen[str]):
    """A child that is forked where it would be started."""

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        (_, preexec, _, pass_fds, _, _, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, _, errwrite, *_) = rest
        self.pid = os.fork()
        if not self.pid:
            _in_child(list(args), preexec, pass_fds, p2cread, c2pwrite, errwrite)
        self._child_created = True
        for descriptor in (p2cread, c2pwrite, errwrite):
            if descriptor >= 0:
                os.close(descriptor)
        del p2cwrite, c2pread


class _Forking:
    """What ``scripts.processes`` knows of :mod:`subprocess`."""

    Popen = _ForkedPopen
    PIPE = subprocess.PIPE


def _in_child(
    command: list[str], preexec: Callable[[], None], kept: Sequence[int], stdin: int, stdout: int, stderr: int
) -> None:
    _, _, module, *arguments = command
    assert module == "scripts.cli", command
    os.setsid()
    for descriptor, number in ((stdin, 0), (stdout, 1), (stderr, 2)):
        if descriptor >= 0:
            os.dup2(descriptor, number)
    others = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *kept}
    for descriptor in others:
        with contextlib.suppress(OSError):  # the one that listed them
            os.close(descriptor)
    preexec()
    _command_line(arguments)


def _command_line(arguments: Sequence[str]) -> None:
    """Be ``nemotron-ov ARGUMENTS``, and end with its exit status."""
    from scripts.cli import main

    _LIBC.prctl(_PR_SET_NAME, arguments[0].encode(), 0, 0, 0)
    atexit._clear()  # what the parent is to remove at its own end
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    status = 70
    try:
        main(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


@dataclass
class Run:
    """A command at work, or done.

    Attributes:
        process: its id.
        folder: holds its ``stdout`` and ``stderr``.
        begun: when, by :func:`time.monotonic`.
        status: its exit status, −N where signal N ended it; None while it is at work.
        seconds: how long it took; 0 while it is at work.
    """

    process: int
    folder: Path
    begun: float
    status: int | None = None
    seconds: float = 0.0

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]

    def stage(self) -> tuple[int, str]:
        """The process that works now and its verb: a stage, or the command itself between stages."""
        try:
            ids = Path(f"/proc/{self.process}/task/{self.process}/children").read_text().split()
            for each in ids:
                return int(each), Path(f"/proc/{each}/comm").read_text().strip()
        except OSError:
            pass
        return self.process, "between"

    def doing(self) -> str:
        """The last step that a command without stages has begun."""
        steps = [line.removesuffix(" …") for line in self.stderr.splitlines() if line.endswith(" …")]
        return steps[-1].split(": ")[-1] if steps else "starting"

    def send(self, number: int, process: int | None = None) -> None:
        """Signal it, or a stage of it; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process or self.process, number)

    def ended(self) -> bool:
        """Whether it has ended, without waiting."""
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.status, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.begun
        return self.status is not None

    def wait(self, seconds: float = 600.0) -> Run:
        """Wait for its end.

        Raises:
            TimeoutError: it was still at work, and was killed.
        """
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"{self.folder}: still at work after {seconds:g} s: {self.stderr[-500:]}")
            time.sleep(0.005)
        return self

    def wait_until(self, moment: float) -> bool:
        """Wait until so many seconds after its beginning; False where it ended before."""
        while not self.ended():
            if time.monotonic() >= self.begun + moment:
                return True
            time.sleep(0.002)
        return False


def outlived(seconds: float = 20.0) -> list[str]:
    """Wait for inherited children to end: stages whose parent was killed, and what these had started.

    Returns:
        A line for each that does not end in time; it is killed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            process, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if not process:
            if time.monotonic() > deadline:
                return [_killed(child) for child in psutil.Process().children()]
            time.sleep(0.005)


def _killed(child: psutil.Process) -> str:
    """What a process was, whose parent had ended long ago."""
    words: list[str] = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
        words += [*child.cmdline(), f"({child.name()}, {child.status()})"]
        child.kill()
        child.wait()
    return f"{' '.join(words)[-300:]} outlived its parent"


def start(
    folder: Path,
    *arguments: object,
    temporary: Path | None = None,
    before: Callable[[], None] | None = None,
) -> Run:
    """Start ``nemotron-ov ARGUMENTS``.

    Args:
        folder: for its output; made.
        arguments: of the command line.
        temporary: its TMPDIR.
        before: called in the process before the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):  # there even where it is killed at once
        (folder / name).write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    begun = time.monotonic()
    process = os.fork()
    if not process:
        try:
            os.setsid()
            for name, number in (("stdout", 1), ("stderr", 2)):
                descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(descriptor, number)
                os.close(descriptor)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            os.environ["NEMOTRON_OV_CACHE"] = str(folder / "cache")  # NeMo runs on every day
            if temporary is not None:
                import tempfile

                os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
            if before is not None:
                before()
            _command_line([str(each) for each in arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(71)
    return Run(process, folder, begun)


def run(folder: Path, *arguments: object, **options: Any) -> Run:
    """Start a command and wait for its end."""
    return start(folder, *arguments, **options).wait()
