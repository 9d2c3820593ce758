"""Recordings together: the tokens of one after another, whatever the batch, the steps and the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import UserError
from export.pipeline import export_checkpoint
from tests.helpers.tiny_bundle import speechlike
from verify import shards
from verify.data.audio import load_audio
from verify.data.manifest import Utterance, default_manifest, read_manifest
from verify.data.selection import spread
from verify.pipeline import compare_runs
from verify.report import Report
from verify.runs import record_bundle
from verify.runtimes.streaming import Audio, Recording, Recordings, Streaming
from verify.runtimes.streaming.recording import whole
from verify.runtimes.streaming.recordings import Shape, shape_for
from verify.runtimes.transcript import Transcript
from verify.speed import speed

LANGUAGES = ("de", "en", "auto", "fr", "es")
SECONDS = (0.05, 1.0, 7.0, 2.2, 3.5, 1.12, 0.4, 5.01)
AUDIOS = [speechlike(seconds, seed) for seed, seconds in enumerate(SECONDS)]
PROMPTS = [LANGUAGES[index % len(LANGUAGES)] for index in range(len(AUDIOS))]


def blocks_of(audio: Audio, size: int = 5_000) -> Iterator[Audio]:
    return (audio[first : first + size] for first in range(0, len(audio), size))


def waiting() -> Iterator[tuple[int, Recording]]:
    for number, (audio, prompt) in enumerate(zip(AUDIOS, PROMPTS, strict=True)):
        yield number, Recording(lambda audio=audio: blocks_of(audio), prompt)  # type: ignore[misc]


@pytest.fixture(scope="module")
def alone(small_fp32: Bundle) -> list[Transcript]:
    one = Streaming(small_fp32, threads=1)
    return [one.transcribe(audio, prompt) for audio, prompt in zip(AUDIOS, PROMPTS, strict=True)]


@pytest.mark.parametrize("shape", [Shape(3, 1, 2), Shape(1, 4, 1), Shape(2, 2, 3)])
def test_together_gives_the_tokens_of_one_after_another(
    small_fp32: Bundle, alone: list[Transcript], shape: Shape
) -> None:
    together = Recordings(small_fp32, SECONDS, threads=2, shape=shape)
    start = time.perf_counter()
    found = dict(together.transcribe(waiting()))
    wall = time.perf_counter() - start
    transcripts = [found[number] for number in range(len(AUDIOS))]
    assert all(isinstance(each, Transcript) and each.together and not each.timings.steps for each in transcripts)
    assert [(each.tokens, each.frames, each.text) for each in transcripts if isinstance(each, Transcript)] == [
        (each.tokens, each.frames, each.text) for each in alone
    ]
    shares = sum(each.timings.wall for each in transcripts if isinstance(each, Transcript))
    assert 0.3 * wall < shares <= wall, "shares of what all took, and not each request's own time"


def test_a_short_recording_alone_is_timed_chunk_by_chunk(small_fp32: Bundle, alone: list[Transcript]) -> None:
    found = dict(
        Recordings(small_fp32, [2.2], threads=1).transcribe(iter([(0, Recording(lambda: [AUDIOS[3]], PROMPTS[3]))]))
    )
    transcript = whole(found[0])
    assert (transcript.tokens, transcript.together) == (alone[3].tokens, False)
    assert len(transcript.timings.steps) == transcript.timings.encoder_calls == alone[3].timings.encoder_calls


def test_what_cannot_be_read_keeps_no_other_from_being_transcribed(small_fp32: Bundle, alone: list[Transcript]) -> None:
    def broken() -> Iterator[Audio]:
        yield AUDIOS[2][:20_000]
        raise UserError("a.wav: breaks off")

    def all_of_them() -> Iterator[tuple[int, Recording]]:
        yield -1, Recording(broken)
        yield from waiting()

    found = dict(Recordings(small_fp32, SECONDS, threads=2, shape=Shape(2, 1, 2)).transcribe(all_of_them()))
    assert str(found.pop(-1)) == "a.wav: breaks off"
    assert [found[number].tokens for number in sorted(found)] == [each.tokens for each in alone]  # type: ignore[union-attr]


def test_stopped_they_end_with_what_was_recognized(small_fp32: Bundle) -> None:
    stop = threading.Event()

    def endless() -> Iterator[Audio]:
        for second in range(1_000):
            if second == 3:
                stop.set()
            yield speechlike(1.0, second % 7)

    together = Recordings(small_fp32, [1e3] * 2, threads=1, shape=Shape(1, 1, 1))
    unbegun = Recording(lambda: pytest.fail("it began after the stop"))
    found = dict(together.transcribe(iter([(0, Recording(endless)), (1, unbegun)]), stopped=stop.is_set))
    assert list(found) == [0]
    assert isinstance(found[0], Transcript)
    assert 2.0 < found[0].audio_seconds < 10.0


def test_a_caller_who_goes_away_leaves_no_thread_behind(small_fp32: Bundle) -> None:
    together = Recordings(small_fp32, SECONDS, threads=2, shape=Shape(1, 1, 2))
    results = together.transcribe(waiting())
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "recordings"]
    assert len(dict(together.transcribe(waiting()))) == len(AUDIOS), "nor a row taken"


def test_a_failed_step_is_raised(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Recordings(small_fp32, SECONDS, threads=2, shape=Shape(2, 1, 2))
    monkeypatch.setattr(together._lanes[1].encoder, "run", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dict(together.transcribe(waiting()))


@pytest.mark.parametrize(
    ("seconds", "threads", "changes", "shape"),
    [
        ([5.0] * 100, 2, {}, Shape(4, 1, 2)),
        ([5.0] * 100, 16, {}, Shape(4, 1, 4)),
        ([3600.0], 2, {}, Shape(1, 4, 1)),
        ([3600.0], 2, {"longer_steps": False}, Shape(1, 1, 1)),
        ([6.0], 2, {}, Shape(1, 2, 1)),  # four chunks a step would be half empty
        ([2.0], 2, {}, Shape(1, 1, 1)),
        ([60.0] * 3, 2, {}, Shape(2, 2, 2)),
        ([], 2, {}, Shape(1, 1, 1)),
        ([5.0] * 100, 2, {"chunk_mel_frames": 8}, Shape(4, 14, 2)),
        ([5.0] * 100, 2, {"chunk_mel_frames": 8, "longer_steps": False}, Shape(16, 1, 2)),
        ([60.0], 2, {"chunk_mel_frames": 800}, Shape(1, 1, 1)),
    ],
)
def test_shape_follows_from_what_there_is(
    small_fp32: Bundle, seconds: list[float], threads: int, changes: dict[str, object], shape: Shape
) -> None:
    metadata = small_fp32.metadata.model_copy(update={"chunk_mel_frames": 112, "longer_steps": True} | changes)
    assert shape_for(metadata, seconds, threads) == shape


def short_ones(count: int) -> list[Utterance]:
    return spread(sorted(read_manifest(default_manifest()), key=lambda each: each.duration), 60)[:count]


def test_much_audio_is_recorded_together_and_a_part_chunk_by_chunk(
    small_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = short_ones(6)
    before = record_bundle(small_fp32, utterances, runtime="streaming", threads=1)
    assert not any(each.together for each in before.transcripts), "so little audio is not worth another compilation"
    monkeypatch.setattr(shards, "TIMED_SECONDS", 3.0)
    run = record_bundle(small_fp32, utterances, runtime="streaming", threads=1, cache=tmp_path)
    pairs = list(zip(run.transcripts, before.transcripts, strict=True))
    assert [(ours.tokens, ours.frames) for ours, _ in pairs] == [(theirs.tokens, theirs.frames) for _, theirs in pairs]
    timed = [each for each in run.transcripts if not each.together]
    assert 1 <= len(timed) <= 3
    found = speed(run.transcripts)
    assert found.audio_seconds == pytest.approx(sum(each.audio_seconds for each in timed))
    assert found.latency is not None
    assert found.latency.chunks == sum(len(each.timings.steps) for each in timed) == found.calls["encoder"]
    assert found.together is not None
    assert found.together.utterances == 6 - len(timed)
    assert found.together.audio_seconds + found.audio_seconds == pytest.approx(speed(before.transcripts).audio_seconds)
    again = record_bundle(small_fp32, utterances, runtime="streaming", threads=1, cache=tmp_path)
    assert again.transcripts == run.transcripts
    report = compare_runs(run, before, utterances)
    report.save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")
    assert (loaded.speed, loaded.reference_speed) == (report.speed, report.reference_speed)
    assert report.reference_speed.together is None


def test_a_stopped_run_goes_on_together(small_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = short_ones(6)
    monkeypatch.setattr(shards, "TIMED_SECONDS", 2.0)
    transcribe = Recordings.transcribe

    def breaking(self: Recordings, *args: object, **options: object) -> Iterator[object]:
        results: Iterator[object] = transcribe(self, *args, **options)  # type: ignore[arg-type]
        yield next(results)
        results.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recordings, "transcribe", breaking)
        with pytest.raises(KeyboardInterrupt):
            record_bundle(small_fp32, utterances, runtime="streaming", threads=1, cache=tmp_path)
    (unfinished,) = tmp_path.glob("*.jsonl")
    assert '"together": true' in unfinished.read_text()
    run = record_bundle(small_fp32, utterances, runtime="streaming", threads=1, cache=tmp_path)
    whole = record_bundle(small_fp32, utterances, runtime="streaming", threads=1)
    assert [each.tokens for each in run.transcripts] == [each.tokens for each in whole.transcripts]


def test_audio_that_is_none_is_raised(small_fp32: Bundle) -> None:
    nothing = Recording(lambda: [np.array([np.nan], np.float32)])
    with pytest.raises(ValueError, match="not finite"):
        dict(Recordings(small_fp32, [1.0], threads=1).transcribe(iter([(0, nothing)])))


@pytest.mark.heavy
@pytest.mark.parametrize("cache", ["channel", "kv"])
@pytest.mark.parametrize("lookahead", [0, 3, 6, 13])
def test_the_whole_demo_set_together(demo_checkpoint: Checkpoint, tmp_path: Path, lookahead: int, cache: str) -> None:
    """In batches and in steps of several chunks; that one after another gives NeMo's tokens is proved elsewhere."""
    bundle = export_checkpoint(demo_checkpoint, tmp_path / "fp32", lookahead=lookahead, cache=cache)
    utterances = read_manifest(default_manifest())
    audios = [load_audio(each.audio_filepath, 16_000) for each in utterances]
    prompts = [each.target_lang for each in utterances]
    seconds = [each.duration for each in utterances]
    one = Streaming(bundle)
    alone = [one.transcribe(audio, prompt) for audio, prompt in zip(audios, prompts, strict=True)]
    for shape in (Shape(4, 1, 2), Shape(1, 4, 2), Shape(1, 8, 1), Shape(2, 2, 2)):
        recordings = (
            (number, Recording(partial(iter, [audio]), prompt))
            for number, (audio, prompt) in enumerate(zip(audios, prompts, strict=True))
        )
        found = dict(Recordings(bundle, seconds, shape=shape).transcribe(recordings))
        together = [whole(found[number]) for number in range(len(audios))]
        assert [(each.tokens, each.frames) for each in together] == [(each.tokens, each.frames) for each in alone]
