"""The main job for real, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import NOT_DECIDED
from tests.helpers.command import ROOT, Done, run_process
from tests.helpers.pages import Parsed
from tests.helpers.transformers_folder import write_transformers_folder


def regenerate(*arguments: object) -> Done:
    return run_process("regenerate", *arguments, "--json")


def test_demo_checkpoint_becomes_verified_folders(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = regenerate("--output", out, "--limit", "60")
    assert done.returncode == NOT_DECIDED, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report["passed"] is None
    # Identical tokens are seen on 60 recordings; that INT8 loses no more than 0.3 points takes the whole set.
    assert [(row["judged"], row["passed"]) for row in report["folders"]] == [(True, True), (True, True), (True, None)]
    fp32, fp16, int8 = report["folders"]
    assert fp32["bytes"] > fp16["bytes"] > int8["bytes"] > 0
    assert (fp16["exact_match"], fp16["utterances"]) == (1.0, 60)
    assert (fp32["exact_match"], fp32["reference"], fp32["runtime"]) == (1.0, "NeMo", "streaming")
    assert fp32["scored_utterances"] == 60
    rows = json.loads((out / fp32["report"]).read_text())["rows"]
    assert len({row["language"] for row in rows}) == 5
    assert all(row["reference"]["tokens"] for row in rows), "a trained model, whose tokens mean something"
    for row in report["folders"]:
        assert row["encoder_step_ms"] > 0
        assert row["peak_rss_mb"] > 0
        assert not Bundle.open(out / row["recipe"]).damaged_files()
        assert row["files"] == Bundle.open(out / row["recipe"]).hashes
        assert json.loads((out / row["report"]).read_text())["rows"]
    page = Parsed((out / "report.html").read_text())
    assert "fp16: passed" in page.text
    differing = [row for row in json.loads((out / "reports" / "int8.json").read_text())["rows"]
                 if row["target"]["tokens"] != row["reference"]["tokens"]]  # fmt: skip
    assert {each["data-audio"] for each in page.all("article")} == {row["audio"] for row in differing}
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_killed_run_is_continued(tmp_path: Path, small_checkpoint: Checkpoint, short_manifest: Path) -> None:
    """kill -9 while the first folder is written, and again when it is there: its stages die too.

    The next run clears what is half-written and keeps what is whole. One recording cannot be used, one is a part.
    The checkpoint is a Transformers folder, because NeMo's import takes longer than all stages of such a run.
    """
    out, manifest, lines = tmp_path / "out", tmp_path / "manifest.jsonl", short_manifest.read_text().splitlines()
    whole = {key: str(short_manifest.parent / value) if key == "audio_filepath" else value
             for key, value in json.loads(lines[0]).items()}  # fmt: skip
    (tmp_path / "bad.wav").write_text("no audio")
    rows = [whole, whole | {"offset": 0.5, "duration": 1.0}, whole | {"audio_filepath": "bad.wav"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = write_transformers_folder(small_checkpoint, tmp_path / "checkpoint")
    arguments = [checkpoint, "--output", out, "--manifest", manifest, "--nemo-limit", "1", "--run-by", "transformers"]
    kill_when(lambda: bool(list(out.glob(".fp32.*.tmp"))), arguments)
    (half_written,) = out.glob(".fp32.*.tmp")
    assert not (out / "fp32").exists()
    kill_when((out / "fp32").exists, arguments)
    assert not half_written.exists()
    assert not (out / "report.json").exists()
    inode = (out / "fp32").stat().st_ino

    other = run_process("regenerate", *arguments, "--lookahead", "13")
    assert other.returncode == 2
    assert "lookahead" in other.error_lines[0]

    done = regenerate(*arguments)
    report = json.loads(done.stdout)
    assert done.returncode == NOT_DECIDED, "random weights are not judged"
    assert "keeping" in done.stderr
    assert (out / "fp32").stat().st_ino == inode
    assert [row["recipe"] for row in report["folders"]] == ["fp32", "fp16", "int8"]
    assert [list(row["unusable"]) for row in report["folders"]][1:] == [[str(tmp_path / "bad.wav")]] * 2
    assert {row["utterances"] for row in report["folders"][1:]} == {2}
    assert not [path for path in out.iterdir() if path.name.endswith((".tmp", ".old"))]


def kill_when(condition: Callable[[], bool], arguments: list[object]) -> None:
    """Start ``regenerate`` and kill it, and no stage of it by hand, when the condition holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "regenerate", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stage_ids = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(stage_ids)


def children(process: int) -> list[int]:
    """Ids of a process's children."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def wait_until_gone(processes: list[int]) -> None:
    """Fail unless they end within ten seconds."""
    for process in processes:
        deadline = time.monotonic() + 10
        while alive(process):
            assert time.monotonic() < deadline, f"stage {process} outlived its parent"
            time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.heavy
def test_full_size_checkpoint_within_ten_gigabytes(tmp_path: Path) -> None:
    """Sizes and memory of the published model, on random weights; tokens of such a model are not judged here."""
    checkpoint, out = tmp_path / "full.nemo", tmp_path / "out"
    assert run_process("checkpoint", "random", checkpoint, "--size", "full", timeout=1800).returncode == 0
    done = run_process(
        "regenerate", checkpoint, "--output", out, "--limit", "3", "--nemo-limit", "1", "--json", timeout=3600
    )
    report = json.loads(done.stdout)
    folders = {row["recipe"]: row for row in report["folders"]}
    assert max(stage["peak_rss_mb"] for row in folders.values() for stage in row["stages"].values()) < 10_000
    limits = {"fp32": 2_500e6, "fp16": 1_250e6, "int8": 600e6}
    assert {name: row["encoder_bytes"] <= limits[name] for name, row in folders.items()} == dict.fromkeys(limits, True)
    assert folders["int8"]["bytes"] <= 660e6
    os.remove(checkpoint)
