"""A run over recordings: blocks give the tokens of the whole, nothing ends it early, and finished transcripts stay."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.bundle import Bundle
from export.progress import Task
from scripts.transcribe.finished import Finished
from scripts.transcribe.formats import row
from scripts.transcribe.printing import Printer
from scripts.transcribe.run import Outcome, Transcriber, transcribe_all
from scripts.transcribe.sentences import RecordingTranscript
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.tiny_bundle import speechlike
from verify.data import audio
from verify.data.audio import load_audio
from verify.data.manifest import default_manifest, read_manifest
from verify.data.selection import spread
from verify.runtimes.streaming import Recordings, Stream, Streaming
from verify.runtimes.streaming.recordings import Shape

RATE = 16_000


class Quiet:
    """Nobody who reads."""

    def growing(self, audio: str, stream: Stream, progress: Task) -> None:
        pass

    def done(self, recording: RecordingTranscript) -> None:
        pass


@pytest.fixture(scope="module")
def recognizer(small_fp32: Bundle) -> Streaming:
    return Streaming(small_fp32, threads=1)


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    """Three of a second or two."""
    names = [tmp_path / "audio" / f"{name}.wav" for name in "abc"]
    names[0].parent.mkdir()
    for seed, name in enumerate(names):
        soundfile.write(name, speechlike(1.0 + seed / 2, seed), RATE, subtype="FLOAT")
    return [str(name) for name in names]


def run(
    small_fp32: Bundle, recognizer: Streaming | Recordings, recordings: list[str], output: Path | None = None
) -> Outcome:
    transcriber = Transcriber(small_fp32, recognizer, "en-US")
    if output is None:
        return transcribe_all(transcriber, recordings, Quiet())
    with Finished(output, small_fp32, language="en-US") as finished:
        return transcribe_all(transcriber, recordings, Quiet(), finished)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_blocks_give_the_tokens_of_the_whole(
    small_fp32: Bundle, recognizer: Streaming, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded, mixed and resampled in blocks that are no multiple of anything."""
    path = tmp_path / f"a.{suffix}"
    stereo = np.stack([speechlike(6.0, 1), speechlike(6.0, 2)], axis=1).clip(-1, 1)
    soundfile.write(path, stereo, 22_050)
    whole = recognizer.transcribe(load_audio(path, RATE), "de-DE", flush=True)
    read = soundfile.SoundFile.read
    odd = {"read": lambda file, frames, **options: read(file, frames // 3, **options)}
    monkeypatch.setattr(soundfile.SoundFile, "read", odd["read"])
    (recording,) = transcribe_all(Transcriber(small_fp32, recognizer, "de-DE"), [str(path)], Quiet()).transcripts
    assert whole.tokens
    assert (recording.transcript.tokens, recording.transcript.frames) == (whole.tokens, whole.frames)
    assert recording.transcript.audio_seconds == pytest.approx(whole.audio_seconds)


def test_one_bad_recording_does_not_end_a_run(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(RATE * 12, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    bad = [str(tmp_path / name) for name in ("text.wav", "absent.wav", "nan.wav", "none.wav")]
    alone = run(small_fp32, recognizer, recordings)
    mixed = run(small_fp32, recognizer, [bad[0], recordings[0], *bad[1:], *recordings[1:]])
    assert all(each.transcript.tokens for each in alone.transcripts)
    assert [each.transcript.tokens for each in mixed.transcripts] == [
        each.transcript.tokens for each in alone.transcripts
    ]
    assert [name for name, _ in mixed.failed] == bad
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert [next(name for name in bad if name in line) for line in errors] == bad


def test_a_stopped_run_goes_on(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "finished.jsonl"
    first = run(small_fp32, recognizer, recordings[:2], output)
    whole = output.read_bytes()
    output.write_bytes(whole[:-20])  # a kill in the second line
    second = run(small_fp32, recognizer, recordings, output)
    assert (len(first.fresh), len(second.fresh)) == (2, 2)
    plain = run(small_fp32, recognizer, recordings)
    for each, other in zip(second.transcripts, plain.transcripts, strict=True):
        assert {**row(each), "time": 0} == {**row(other), "time": 0}
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["audio_filepath"] for line in lines] == recordings
    assert all(line["pred_text"] for line in lines)
    monkeypatch.setattr(Transcriber, "transcribe", None)
    assert len(run(small_fp32, recognizer, recordings, output).transcripts) == 3


def test_a_changed_recording_is_transcribed_again(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "finished.jsonl"
    before = run(small_fp32, recognizer, recordings, output)
    soundfile.write(recordings[1], speechlike(3.0, 9), RATE, subtype="FLOAT")
    after = run(small_fp32, recognizer, recordings, output)
    assert len(after.fresh) == 1
    assert after.transcripts[1].transcript.tokens != before.transcripts[1].transcript.tokens
    lines = [json.loads(line)["audio_filepath"] for line in output.read_text().splitlines()]
    assert sorted(lines) == recordings


def test_only_ones_own_list_is_continued(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "finished.jsonl"
    run(small_fp32, recognizer, recordings, output)
    options = ["--output", output]
    one_line = '{"audio_filepath": "a.wav", "text": "a manifest without a line break at its end"}'
    for other in ("half a li", "notes\n", one_line, f"{one_line}\n", '{"audio_filepath": "\xff'):
        (tmp_path / "other").write_text(other, encoding="latin-1")
        done = run_here(capfd, "transcribe", small_fp32.path, recordings[0], "--output", tmp_path / "other")
        if other.startswith('{"audio_filepath": "\xff'):
            assert done.returncode == 0  # the half line of a name
            continue
        assert_user_error(done, "--output", tmp_path / "other")
        assert (tmp_path / "other").read_text(encoding="latin-1") == other
    before = output.read_bytes()
    assert_user_error(
        run_here(capfd, "transcribe", small_fp32.path, *recordings, *options), output, "another folder, lang"
    )
    assert output.read_bytes() == before
    assert_user_error(
        run_here(capfd, "transcribe", small_fp32.path, *recordings, "--output", tmp_path), "no regular file"
    )
    with Finished(output, small_fp32, language="en-US"):
        assert_user_error(run_here(capfd, "transcribe", small_fp32.path, *recordings, *options), output, "another run")


def test_a_line_that_lacks_its_break_is_whole(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    run(small_fp32, recognizer, recordings[:2], output)
    whole = output.read_bytes()
    output.write_bytes(whole[:-1])
    assert not run(small_fp32, recognizer, recordings[:2], output).fresh
    assert output.read_bytes() == whole


@pytest.mark.parametrize("then", ["another", "gone"])
@pytest.mark.parametrize("together", [False, True])
def test_a_recording_that_changes_while_it_is_read_is_not_kept(
    small_fp32: Bundle,
    recognizer: Streaming,
    recordings: list[str],
    tmp_path: Path,
    then: str,
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Else the next run would take its transcript for that of what lies there now."""

    def changing(path: Path, rate: int, **_: object) -> Iterator[np.ndarray]:
        yield load_audio(path, rate)
        if str(path) == recordings[1]:
            path.unlink()
            if then == "another":
                soundfile.write(path, speechlike(0.7, 9), RATE, subtype="FLOAT")

    monkeypatch.setattr("scripts.transcribe.run.audio_blocks", changing)
    several = Recordings(small_fp32, [1.0], threads=1, shape=Shape(2, 1, 1)) if together else recognizer
    assert len(run(small_fp32, several, recordings, tmp_path / "out.jsonl").transcripts) == 3
    kept = [json.loads(line)["audio_filepath"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(kept) == [recordings[0], recordings[2]]
    assert f"{recordings[1]}: changed while it was read" in capfd.readouterr().err


def test_ctrl_c_ends_with_what_was_recognized(
    small_fp32: Bundle, recognizer: Streaming, recordings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third block of the second recording: its beginning is kept, but not as finished."""
    monkeypatch.setattr("scripts.transcribe.run.audio_blocks", lambda path, rate, **_: cut(load_audio(path, rate)))
    pushed = []
    push = Stream.push

    def interrupted(stream: Stream, samples: audio.Audio) -> None:
        pushed.append(len(samples))
        if len(pushed) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        push(stream, samples)

    expected = recognizer.transcribe(load_audio(Path(recordings[1]), RATE)[:4800], "en-US", flush=True).tokens
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & would have ignored
    monkeypatch.setattr(Stream, "push", interrupted)
    try:
        outcome = run(small_fp32, recognizer, recordings, tmp_path / "finished.jsonl")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    assert [round(each.transcript.audio_seconds, 3) for each in outcome.transcripts] == [1.0, 0.3]
    assert outcome.transcripts[1].transcript.tokens == expected
    assert [each.partial for each in outcome.transcripts] == [False, True]
    assert ["partial" in row(each) for each in outcome.transcripts] == [False, True]
    assert len((tmp_path / "finished.jsonl").read_text().splitlines()) == 1


def cut(signal: audio.Audio) -> Iterator[audio.Audio]:
    """In blocks of a tenth of a second."""
    return (signal[first : first + 1600] for first in range(0, len(signal), 1600))


def test_standard_input_is_written_as_it_is_spoken(demo_fp32: Bundle) -> None:
    """Sentence by sentence, each as soon as the next begins; together they are the text."""
    utterances = spread(read_manifest(default_manifest()), 6)
    samples = np.concatenate([load_audio(each.audio_filepath, RATE) for each in utterances])
    out = io.StringIO()
    written: list[str] = []

    class Watched(Printer):
        def growing(self, audio: str, stream: Stream, progress: Task) -> None:
            super().growing(audio, stream, progress)
            written.append(out.getvalue())

    data = io.BytesIO((samples * 32767).astype("<i2").tobytes())
    transcriber = Transcriber(demo_fp32, Streaming(demo_fp32, threads=1), "auto", standard_input=data)
    (recording,) = transcribe_all(transcriber, ["-"], Watched(demo_fp32, ["-"], "text", out)).transcripts
    lines = out.getvalue().splitlines()
    assert len(lines) > 3
    assert "".join(lines).replace(" ", "") == recording.transcript.text.replace(" ", "")
    assert len({word.language for word in recording.words}) > 2
    assert all(out.getvalue().startswith(part) for part in written)
    counts = [part.count("\n") for part in written]
    assert counts[-1] >= len(lines) - 2, "not at the end only"
    assert len(set(counts)) > 3
