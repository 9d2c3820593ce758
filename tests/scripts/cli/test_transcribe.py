"""The verb: its sources, forms and options, and the command's version and completion."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.errors import UserError
from scripts.cli import main
from scripts.transcribe.sources import find_sources
from tests.helpers.command import assert_user_error, run_here, run_process
from verify.data.audio import load_audio
from verify.data.manifest import read_manifest
from verify.runtimes.graph import properties


@contextmanager
def standard_input(data: bytes) -> Iterator[None]:
    """A pipe with a little audio as descriptor 0."""
    saved, (reading, writing) = os.dup(0), os.pipe()
    try:
        os.dup2(reading, 0)
        os.write(writing, data)
        os.close(writing)
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


@pytest.fixture
def audio(short_manifest: Path) -> list[Path]:
    return [utterance.audio_filepath for utterance in read_manifest(short_manifest)]


def test_folders_are_searched(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/x.flac", "a/notes.txt", ".hidden/y.wav", "a/.z.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_sources(["first.xyz", str(tmp_path), "-"])
    assert found == ["first.xyz", str(tmp_path / "a" / "x.flac"), str(tmp_path / "b.WAV"), "-"]
    with pytest.raises(UserError, match="holds no audio files"):
        find_sources([str(tmp_path / ".hidden" / ".."), str(Path(__file__).parent)])
    with pytest.raises(UserError, match="named twice"):
        find_sources(["-", "-"])


def test_good_recordings_are_printed_and_the_status_says_that_one_was_not(
    demo_int8: Bundle, audio: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent [bold].wav"
    arguments = ["transcribe", demo_int8.path, audio[0], absent, audio[1]]
    done = run_here(capfd, *arguments)
    assert done.returncode == 2
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == [str(path) for path in audio]
    assert done.error_lines == [f"error: {absent}: no such audio file; check the path"]
    done = run_here(capfd, *arguments, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, len(result["transcripts"]), len(done.error_lines)) == (2, 2, 1)
    assert result["failed"] == [{"audio": str(absent), "error": done.error_lines[0].removeprefix("error: ")}]
    assert "".join(each["text"] for each in result["transcripts"][0]["segments"]) == result["transcripts"][0]["text"]
    lines = run_here(capfd, *arguments, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["pred_text"] for line in lines] == [each["text"] for each in result["transcripts"]]


def test_names_that_are_no_text_or_too_long(
    demo_int8: Bundle, audio: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / os.fsdecode(b"bad\xff.flac")
    named.symlink_to(audio[0])
    arguments = ["transcribe", demo_int8.path, "x" * 300, named, "--output", tmp_path / "list.jsonl", "--format"]
    for form in ("jsonl", "json", "text"):
        done = run_here(capfd, *arguments, form)
        assert (done.returncode, len(done.error_lines)) == (2, 1), done.stderr
        assert "bad\\udcff.flac" in done.stdout
    assert json.loads((tmp_path / "list.jsonl").read_text())["audio_filepath"] == str(named)


@pytest.mark.parametrize("runtime", ["streaming", "generation1"])
def test_standard_input_gives_what_a_file_gives(
    demo_int8: Bundle, audio: list[Path], runtime: str, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = (load_audio(audio[0], 16_000) * 32768).astype("<i2").tobytes()
    options = ["--runtime", runtime]
    with standard_input(samples):
        done = run_here(capfd, "transcribe", demo_int8.path, "-", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run_here(capfd, "transcribe", demo_int8.path, audio[0], *options).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["AUDIO", "--device", "NPU"], "--device NPU: OpenVINO finds no such device; here are CPU"),
        (["AUDIO", "--rate", "8000"], "--rate 8000: is of raw PCM on standard input"),
        (["AUDIO", "AUDIO", "--format", "srt"], "--format srt: takes one recording, and 2 are given"),
        (["AUDIO", "--format", "vtt", "--json"], "--json: means --format json; leave it out with --format vtt"),
        (["-", "--output", "x.jsonl"], "--output x.jsonl: cannot go on with standard input"),
        (["AUDIO", "--channel", "2"], "--channel 2: AUDIO has 1; choose one of them"),
    ],
)
def test_what_makes_no_sense_is_refused(
    demo_int8: Bundle, audio: list[Path], arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [str(audio[0]) if each == "AUDIO" else each for each in arguments]
    assert_user_error(run_here(capfd, "transcribe", demo_int8.path, *given), message.replace("AUDIO", str(audio[0])))


def test_each_device_gets_the_properties_that_it_takes() -> None:
    assert properties(2, None) == {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}
    assert properties(2, None, "GPU.1") == {"INFERENCE_PRECISION_HINT": "f32"}
    assert properties(2, {"PERF_COUNT": "YES"}, "NPU") == {"PERF_COUNT": "YES"}


def test_the_version_alone(capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "--version")
    assert (done.returncode, done.stdout) == (0, version("nemotron-ov") + "\n")


def test_verbs_are_completed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_NEMOTRON_OV_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "nemotron-ov tran")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main([])
    assert capfd.readouterr().out.split() == ["transcribe"]


def test_the_completion_script_is_printed() -> None:
    """In a process of its own: whether the shell is detected is decided when the command is made."""
    without = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run_process("--show-completion", "bash", environment=without)
    assert "_NEMOTRON_OV_COMPLETE=complete_bash" in done.stdout
