"""A few bad days of each kind; ``scripts/bad-days`` has 200."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import ROOT

OUTLIVED = """
import subprocess
from tests.bad_days.warm import outlived
assert outlived(0.0) == []
sleeping = subprocess.Popen(["sleep", "600"])
(line,) = outlived(0.0)
assert line.startswith("sleep 600 (sleep, ") and line.endswith(") outlived its parent"), line
assert outlived(0.0) == []
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as the harness")
def test_what_outlives_its_parent_is_named_and_ended() -> None:
    done = subprocess.run([sys.executable, "-c", OUTLIVED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="forks, and mounts small disks as root")
def test_nothing_is_lost(tmp_path: Path) -> None:
    """In a process of its own, which imports and does not compute: it is forked."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bad_days", "--count", "4", "--json", str(figures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert figures.is_file(), done.stderr
    found = json.loads(figures.read_text())
    assert all(each["tried"] for each in found.values())
    assert {name: each["lost"] for name, each in found.items() if each["lost"]} == {}, done.stdout
