"""The English sibling, without prompt and with a left context of 70, from checkpoint to page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.devices import device_findings
from export.errors import NOT_DECIDED
from tests.helpers.command import ROOT, run_here

AUDIO = ROOT / "export" / "demo" / "audio" / "000-en-US.flac"


def quantize_verify_transcribe_and_describe(fp32: Bundle, output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All verbs on finished folders, with the exit status that each has for random weights."""
    output.mkdir()
    shutil.copytree(fp32.path, output / "fp32")
    full, small = output / "fp32", output / "int8"

    def call(*arguments: object, status: tuple[int, ...] = (0,)) -> str:
        done = run_here(capfd, *map(str, arguments))
        assert done.returncode in status, (arguments, done.stderr)
        return done.stdout

    call("quantize", full, small, "--recipe", "int8")
    for folder in (full, small):
        found = json.loads(call("inspect", folder, "--device", "NPU", "--json"))
        assert (found["problems"], found["devices"]["NPU"]["findings"]) == ([], [])
        assert device_findings(Bundle.open(folder))["GPU"] == []
    report = output / "reports" / "int8.json"
    report.parent.mkdir()
    for runtime in ("streaming", "generation1", "generation2"):
        arguments = ("--limit", 1, "--runtime", runtime, "--report", report)
        call("verify", small, "--reference", full, *arguments, status=(1, NOT_DECIDED))  # nearly tied logits
        found = json.loads(report.read_text())
        assert (found["target"]["runtime"], len(found["rows"])) == (runtime, 1)
    assert json.loads(call("transcribe", small, AUDIO, "--json"))["transcripts"][0]["tokens"]
    call("card", output)
    card = (output / "README.md").read_text()
    assert "prompt_id" not in card
    assert "language prompt" not in card
    assert f"[1, {fp32.metadata.cache_channel_shape[1]}, 70, {fp32.metadata.encoder_dim}]" in card
    assert " --language" not in card
    call("card", output, "--check")


def test_every_verb(small_english_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantize_verify_transcribe_and_describe(small_english_fp32, tmp_path / "out", capfd)


@pytest.mark.heavy
def test_full_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """1,024 pieces, 24 layers."""
    checkpoint = tmp_path / "en.nemo"
    made = ("checkpoint", "random", checkpoint, "--size", "full", "--variant", "english")
    assert run_here(capfd, *made).returncode == 0
    assert run_here(capfd, "export", checkpoint, tmp_path / "fp32").returncode == 0
    checkpoint.unlink()
    bundle = Bundle.open(tmp_path / "fp32")
    assert bundle.metadata.vocab_size == 1024
    quantize_verify_transcribe_and_describe(bundle, tmp_path / "out", capfd)
