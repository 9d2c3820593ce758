"""How tests run the command line: in this process where it is quick, in one of its own where that is the point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.cli import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def error_lines(self) -> list[str]:
        """Lines of stderr that report an error."""
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]


def run_process(*arguments: object, timeout: float = 600.0, environment: Mapping[str, str] | None = None) -> Done:
    """Run a verb in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(capfd: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run a verb in this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    code = ended.value.code
    return Done(code if isinstance(code, int) else 0, captured.out, captured.err)


def assert_user_error(done: Done, *mentions: str | Path) -> None:
    """Exit status 2, exactly one ``error:`` line that names each of ``mentions``, no traceback, nothing on stdout."""
    assert done.returncode == 2, done
    assert len(done.error_lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    for mention in mentions:
        assert str(mention) in done.error_lines[0]
