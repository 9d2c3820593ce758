"""The wheel in an empty virtual environment, without extras: what works on finished folders works there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections import Counter
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from export.bundle import Bundle
from tests.helpers.command import ROOT

pytestmark = pytest.mark.xdist_group("one environment")  # it takes as long as all its tests

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=cwd, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def required(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Distributions that one requires, and theirs in turn, as their metadata say."""
    if (name, extras) in found:
        return set()
    found.add((name, extras))
    names = set()
    for requirement in map(Requirement, requires(name) or []):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in extras | {""}):
            names |= {requirement.name} | required(requirement.name, frozenset(requirement.extras), found)
    return names


def link_requirements(site_packages: Path) -> None:
    """What the wheel requires without extras, as it lies in this environment."""
    files = {}
    for made in map(distribution, required("nemotron-ov", frozenset(), set())):
        for line in (made.read_text("RECORD") or "").splitlines():
            name = line.split(",")[0].split("/")[0]
            files[name] = made.locate_file(name)
    for name in files.keys() - {"..", "__pycache__"}:
        (site_packages / name).symlink_to(str(files[name]))


@pytest.fixture(scope="module", params=["linked", pytest.param("by pip", marks=pytest.mark.heavy)])
def command(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``nemotron-ov`` of an environment with the wheel and what it requires alone."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = (*PIP, "--python", python)
    if request.param == "linked":  # the installation of all takes longer than all else here
        link_requirements(Path(sysconfig.get_path("purelib", vars={"base": str(folder)})))
    done = run(*pip, "install", "--no-compile", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert run(python, "-c", "import torch", cwd=folder).returncode == 1, "this environment proves nothing"
    return folder / "bin" / "nemotron-ov"


def test_the_wheel_holds_the_rooms_and_no_training_code(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert rooms == {"export", "quantize", "verify", "scripts"}
    assert {"export/demo/demo.nemo", "scripts/publish/card.md.jinja", "scripts/page/page.html.jinja"} <= set(names)
    assert {"scripts/publish/licenses/apache-2.0.txt", "scripts/publish/licenses/openmdw-1.1.txt"} <= set(names)
    assert not [name for name in names if name.startswith(("scripts/checkpoints/demo", "tests/"))]


def test_less_than_45_percent_of_the_code_is_in_scripts(wheel: Path) -> None:
    lines: Counter[str] = Counter()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                lines[name.split("/")[0]] += archive.read(name).count(b"\n")
    assert lines.total() > 20_000
    assert lines["scripts"] / lines.total() < 0.45


def test_verbs_on_finished_folders_need_no_extra(command: Path, demo_fp32: Bundle, tmp_path: Path) -> None:
    audio = ROOT / "export" / "demo" / "audio" / "000-en-US.flac"

    def call(*arguments: str | Path) -> Any:
        done = run(command, *arguments, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert call("recipes")["recipes"]
    assert call("inspect", demo_fp32.path)["problems"] == []
    call("quantize", demo_fp32.path, tmp_path / "fp16", "--recipe", "fp16")
    (transcript,) = call("transcribe", tmp_path / "fp16", audio)["transcripts"]
    assert transcript["text"] == "Do not forget the yellow mirror."
    arguments = ("verify", tmp_path / "fp16", "--reference", demo_fp32.path, "--limit", "60", "--report", "fp16.json")
    report = call(*arguments)
    assert (report["passed"], report["utterances"]) == (True, 60)
    assert call("page", "fp16.json", "--output", "page.html", "--table", "rows.csv")["table"]["rows"] == 60


def test_verbs_that_read_checkpoints_name_the_extra(command: Path, tmp_path: Path) -> None:
    for arguments in (("export", "demo", "out"), ("regenerate", "--output", "out"), ("flaws", "demo", "--limit", "1")):
        done = run(command, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert re.search(r"is not installed; pip install 'nemotron-ov\[(nemo|export)\]'", done.stderr)
        assert "Traceback" not in done.stderr
        assert not any(tmp_path.iterdir())
