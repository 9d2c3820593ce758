"""Recordings transcribed together: the transcripts of one after another, given in order."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from export.bundle import Bundle
from export.progress import Task
from scripts.transcribe.finished import Finished
from scripts.transcribe.formats import row
from scripts.transcribe.interrupt import Interrupt
from scripts.transcribe.run import Outcome, Transcriber, transcribe_all
from scripts.transcribe.sentences import RecordingTranscript
from tests.helpers.command import run_here
from tests.helpers.tiny_bundle import speechlike
from verify.runtimes.streaming import Recordings, Stream, Streaming
from verify.runtimes.streaming.recordings import Shape

RATE = 16_000


class Names:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def growing(self, audio: str, stream: Stream, progress: Task) -> None:
        raise AssertionError((audio, stream, progress))

    def done(self, recording: RecordingTranscript) -> None:
        self.names.append(recording.audio)


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    """The first is the longest, so that others end before it."""
    paths = [str(tmp_path / f"{number}.wav") for number in range(6)]
    for number, path in enumerate(paths):
        soundfile.write(path, speechlike(9.0 if number == 0 else 0.8 + 0.3 * number, number), RATE, subtype="FLOAT")
    return paths


@pytest.fixture(scope="module")
def together(small_fp32: Bundle) -> Recordings:
    return Recordings(small_fp32, [2.0] * 6, threads=2, shape=Shape(2, 1, 2))


def run(bundle: Bundle, recognizer: Recordings | Streaming, audio: list[str], output: Path, observer: Names) -> Outcome:
    with Finished(output, bundle, language="de-DE") as finished:
        return transcribe_all(Transcriber(bundle, recognizer, "de-DE"), audio, observer, finished)


def test_transcripts_are_those_of_one_after_another(
    small_fp32: Bundle, together: Recordings, recordings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(RATE * 12, np.nan, np.float32), RATE, subtype="FLOAT")
    absent = [str(tmp_path / name) for name in ("nan.wav", "absent.wav")]
    mixed = [absent[0], *recordings[:3], absent[1], *recordings[3:]]
    observer = Names()
    ours = run(small_fp32, together, mixed, tmp_path / "a.jsonl", observer)
    one = run(small_fp32, Streaming(small_fp32, threads=1), recordings, tmp_path / "b.jsonl", Quiet())
    assert observer.names == recordings
    assert [{**row(each), "time": 0} for each in ours.transcripts] == [
        {**row(each), "time": 0} for each in one.transcripts
    ]
    assert [each.transcript.tokens for each in ours.transcripts] == [each.transcript.tokens for each in one.transcripts]
    assert [name for name, _ in ours.failed] == absent
    assert capfd.readouterr().err.count("error:") == 2
    kept = {json.loads(line)["audio_filepath"] for line in (tmp_path / "a.jsonl").read_text().splitlines()}
    assert kept == set(recordings)
    again = run(small_fp32, together, mixed, tmp_path / "a.jsonl", observer)
    assert (len(again.transcripts), len(again.fresh), observer.names) == (6, 0, recordings * 2)


class Quiet(Names):
    """Says nothing of what grows."""

    def growing(self, audio: str, stream: Stream, progress: Task) -> None:
        pass


def test_ctrl_c_ends_with_the_beginnings(
    small_fp32: Bundle, together: Recordings, recordings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first four are being transcribed; what is not through is printed and not kept."""
    pushes: list[int] = []
    push, take, taken = Stream.push, Interrupt._note, threading.Event()

    def noting(*arguments: Any) -> None:
        try:
            take(*arguments)
        finally:
            taken.set()

    def interrupting(stream: Stream, *args: object, **options: object) -> None:
        pushes.append(1)
        if len(pushes) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        if len(pushes) >= 6:  # the main thread takes the signal when it comes to run
            assert taken.wait(60)
        push(stream, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Interrupt, "_note", noting)
    monkeypatch.setattr(Stream, "push", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    observer = Names()
    try:
        outcome = run(small_fp32, together, recordings, tmp_path / "a.jsonl", observer)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    assert observer.names == [each.audio for each in outcome.transcripts] == sorted(observer.names)
    assert outcome.transcripts[0].audio == recordings[0]
    assert outcome.transcripts[0].transcript.audio_seconds < 9.0
    assert recordings[5] not in observer.names
    kept = [json.loads(line)["audio_filepath"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert recordings[0] not in kept
    assert {each.audio for each in outcome.transcripts if not each.partial} == set(kept)
    monkeypatch.undo()
    rest = run(small_fp32, together, recordings, tmp_path / "a.jsonl", Names())
    assert len(rest.transcripts) == 6
    assert len(rest.fresh) == 6 - len(kept)


def test_ctrl_c_names_what_was_heard_in_part(
    small_fp32: Bundle, recordings: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    push = Stream.push

    def interrupting(stream: Stream, *args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        push(stream, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "push", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = run_here(capfd, "transcribe", small_fp32.path, *recordings[:2], "--format", "jsonl")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 130
    partial = [line["audio_filepath"] for line in map(json.loads, done.stdout.splitlines()) if line.get("partial")]
    assert partial
    assert f"only the beginning of {', '.join(partial)}" in done.stderr


def test_a_reader_who_fails_ends_the_run(small_fp32: Bundle, together: Recordings, recordings: list[str]) -> None:
    """Standard output may be closed: no thread may go on with the other recordings."""

    class Closed(Names):
        def done(self, recording: RecordingTranscript) -> None:
            raise BrokenPipeError(recording.audio)

    with pytest.raises(BrokenPipeError):
        transcribe_all(Transcriber(small_fp32, together, "de-DE"), recordings, Closed())
    assert len(transcribe_all(Transcriber(small_fp32, together, "de-DE"), recordings[1:], Names()).transcripts) == 5
