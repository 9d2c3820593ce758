"""Versions of OpenVINO compared; here all are this interpreter, and what it says is changed where it matters."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.bundle import Bundle
from export.digest import ROOT
from scripts.compatibility import run
from scripts.compatibility.__main__ import main
from scripts.compatibility.table import BEGIN, END, Compatibility, updated
from scripts.publish.reports import read_report
from tests.helpers.tiny_bundle import tiny_bundle
from verify.runtimes.generation1 import Generation1

Change = Callable[[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "fp32")


def pretend(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Environments by name only, and a worker in this process whose answers are changed by version."""
    from scripts.compatibility import worker

    def transcribe(python: Path, work: dict[str, Any]) -> dict[str, Any]:
        version = {"newest": "2026.4.1", "2025.0": "2025.0.0", "2025.4": "2025.4.1"}[python.name]
        return change(version, worker.tokens(work) | {"openvino": version})

    monkeypatch.setattr(run, "environment", lambda version, place: place / version)
    monkeypatch.setattr(run, "transcribe", transcribe)


def call(folder: Bundle, output: Path, *more: str) -> int:
    return main([str(folder.path), "--output", str(output), "--version", "2025.0", "--version", "2025.4", *more])


def test_identical_tokens(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, lambda _, result: result)
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert call(tiny, tmp_path / "out", "--limit", "3", "--document", str(document)) == 0
    found = Compatibility.model_validate_json((tmp_path / "out" / "compatibility.json").read_text())
    assert {ran.openvino for ran in found.compatibility} == {"2025.0.0", "2025.4.1", "2026.4.1"}
    assert {(ran.identical, ran.utterances) for ran in found.compatibility} == {(3, 3)}
    assert all(ran.files == tiny.hashes for ran in found.compatibility)
    text = document.read_text()
    assert "| 2025.0.0 | 3 | 3 |" in text
    assert "Lowest version that runs `fp32`: 2025.0.0." in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert capsys.readouterr().out.splitlines()[0] == "| OpenVINO | fp32, f32 | fp32, default |"
    assert not list((tmp_path / "out").glob(".audio*"))


def test_other_tokens_fail_and_a_version_that_cannot_read_is_named(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(version: str, result: dict[str, Any]) -> dict[str, Any]:
        if version == "2025.0.0":
            return result | {"runs": {each: {"error": "cannot be read"} for each in result["runs"]}}
        if version == "2025.4.1":
            result["runs"]["f32"]["tokens"][0] = [1, 2, 3]
        return result

    pretend(monkeypatch, change)
    assert call(tiny, tmp_path / "out", "--limit", "2") == 1
    output = capsys.readouterr().out
    assert "| 2025.0.0 | does not run | does not run |" in output
    assert "| 2025.4.1 | 1 | 2 |" in output
    assert "Lowest version that runs `fp32`: 2025.4.1." in output
    assert "fp32 under 2025.0.0: cannot be read" in output


def test_a_newest_version_that_cannot_run_a_folder_is_not_held_against_the_others(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(version: str, result: dict[str, Any]) -> dict[str, Any]:
        broken = {each: {"error": "cannot be read"} for each in result["runs"]}
        return result | {"runs": broken} if version == "2026.4.1" else result

    pretend(monkeypatch, change)
    assert call(tiny, tmp_path / "out", "--limit", "1") == 1
    output = capsys.readouterr().out
    assert "| 2025.0.0 | runs | runs |" in output
    assert "| 2026.4.1 | does not run | does not run |" in output
    assert "`fp32` does not run under 2026.4.1." in output
    assert "fp32 under 2025.0.0" not in output
    runs = [ran for _, ran in read_report(tmp_path / "out" / "compatibility.json").runs]
    assert {(ran.openvino, ran.tokens) for ran in runs} == {
        ("2025.0.0", "not compared: does not run under 2026.4.1"),
        ("2025.4.1", "not compared: does not run under 2026.4.1"),
        ("2026.4.1", "does not run"),
    }


def test_a_worker_that_finds_another_openvino_is_refused(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the project is installed, and not a checkout: its folder then holds an OpenVINO too."""
    pretend(monkeypatch, lambda _, result: result | {"openvino": "2026.4.1"})
    assert call(tiny, tmp_path / "out", "--limit", "1") == 2
    assert "2025.0: runs OpenVINO 2026.4.1 and not 2025.0" in capsys.readouterr().err
    assert not (tmp_path / "out" / "compatibility.json").exists()


def test_the_worker_is_a_process_that_needs_only_what_runs_a_folder(tiny: Bundle, tmp_path: Path) -> None:
    import numpy as np

    from tests.helpers.tiny_bundle import speech

    np.savez(tmp_path / "audio.npz", **{"0": speech(1.0)})  # type: ignore[arg-type]
    work = {"folder": str(tiny.path), "audio": str(tmp_path / "audio.npz"), "languages": ["en-US"]}
    result = run.transcribe(Path(sys.executable), work | {"precisions": ["f32"]})
    assert result["runs"]["f32"]["tokens"] == [Generation1(tiny).transcribe(speech(1.0), "en-US").tokens]

    code = (
        "import sys, scripts.compatibility.worker\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded & {'torch', 'nncf', 'soundfile', 'scipy', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""

    (tiny.path / "nemotron_joint.bin").write_bytes(b"")
    broken = run.transcribe(Path(sys.executable), work | {"precisions": ["f32", "default"]})
    assert [bool(each.get("error")) for each in broken["runs"].values()] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "latest"], "--version latest: is no version of OpenVINO"),
        (["--limit", "0"], "--limit 0"),
        (["--document", "nowhere.md"], "nowhere.md"),
        (["--document", str(ROOT / "README.md")], "README.md: no <!-- compatibility"),
    ],
)
def test_bad_input_is_one_line(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(tiny.path), "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_user_has_there_stays(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "out" / "compatibility.json"
    mine.parent.mkdir()
    mine.write_text('{"mine": 1}')
    assert main([str(tiny.path), "--output", str(mine.parent), "--limit", "1"]) == 2
    assert "compatibility.json: exists and is no such report of ours" in capsys.readouterr().err
    assert mine.read_text() == '{"mine": 1}'
    assert list(mine.parent.iterdir()) == [mine]


def test_folders_of_one_name_are_refused(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny.path), str(tiny.path), "--output", str(tmp_path / "out")]) == 2
    assert "two have one name" in capsys.readouterr().err


def test_an_environment_that_pip_cannot_make_is_one_line(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    python.chmod(0o755)

    class Builder:
        def __init__(self, **_: Any) -> None:
            self.env_exe = str(python)

        def ensure_directories(self, _: Path) -> Builder:
            return self

        def create(self, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            made.append(folder)
            if len(made) == 1:
                raise KeyboardInterrupt

    made: list[Path] = []
    monkeypatch.setattr(venv, "EnvBuilder", Builder)
    with pytest.raises(KeyboardInterrupt):
        main([str(tiny.path), "--output", str(tmp_path / "out"), "--limit", "1"])
    for _ in range(2):
        assert main([str(tiny.path), "--output", str(tmp_path / "out"), "--limit", "1"]) == 2
    assert len(made) == 2, "once where it was stopped, once whole"
    assert "pip cannot install openvino (ERROR: No matching distribution found)" in capsys.readouterr().err


def test_the_document_has_its_place_and_a_table() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n\nx\n\n{END}" in updated(text, "x")
    assert "| OpenVINO |" in text
    with pytest.raises(ValueError, match="no <!--"):
        updated("nothing", "x")


def test_json_is_what_the_card_reads(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _, result: result)
    assert call(tiny, tmp_path / "out", "--limit", "1") == 0
    file = tmp_path / "out" / "compatibility.json"
    runs = read_report(file).runs
    assert len(runs) == len(json.loads(file.read_text())["compatibility"]) == 6
    assert {ran.tokens for _, ran in runs} == {"as under 2026.4.1 in 1 of 1 recordings"}
