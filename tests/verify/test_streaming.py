"""The streaming runtime: NeMo's tokens exactly, whatever the blocks, and no loss at the end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import UserError
from export.pipeline import export_checkpoint
from tests.helpers.tiny_bundle import speechlike, tiny_bundle
from verify.data.audio import load_audio
from verify.data.manifest import default_manifest, read_manifest
from verify.data.selection import spread
from verify.flaws import without_silence
from verify.pipeline import verify_bundle
from verify.references.nemo import NemoStreaming
from verify.runs import record_bundle
from verify.runtimes.generation1 import Generation1
from verify.runtimes.streaming import Audio, Recordings, Stream, Streaming
from verify.runtimes.streaming.stream import _prompt
from verify.runtimes.streaming.words import LONGEST_WORD


@pytest.fixture(scope="module")
def recognizer(small_fp32: Bundle) -> Streaming:
    """For tests that leave it as it is."""
    return Streaming(small_fp32, threads=1)


SECONDS = (0.05, 0.09, 0.4, 1.0, 1.12, 1.2, 2.237, 3.5, 7.03)


@pytest.mark.parametrize("lookahead", [3, 13])
def test_tokens_and_frames_are_nemos(
    small_checkpoint: Checkpoint, small_nemo: Any, small_export: Callable[..., Bundle], lookahead: int
) -> None:
    ours = Streaming(small_export(lookahead=lookahead), threads=1)
    nemo = NemoStreaming(
        small_checkpoint, lookahead, small_nemo, chunk_frames=ours.bundle.metadata.chunk_mel_frames // 8
    )
    emitted = 0
    for seed, seconds in enumerate(SECONDS):
        audio = speechlike(seconds, seed)
        expected, actual = nemo.transcribe(audio, "de"), ours.transcribe(audio, "de")
        assert (actual.tokens, actual.frames) == (expected.tokens, expected.frames), seconds
        emitted += len(expected.tokens)
    assert emitted > 20, "silence proves nothing"


@pytest.mark.parametrize(
    ("folder", "nemo_start", "nemo_frames"), [("1120", False, 14), ("80", True, 1), ("80", False, 2)]
)
def test_lookahead_0_equals_nemo(
    small_checkpoint: Checkpoint,
    small_nemo: Any,
    small_fp32: Bundle,
    small_80ms_fp32: Bundle,
    folder: str,
    nemo_start: bool,
    nemo_frames: int,
) -> None:
    """In the same chunks; in 80 ms steps also as NeMo begins in 160 ms steps, without its second window's zeros."""
    nemo = NemoStreaming(small_checkpoint, 0, small_nemo, chunk_frames=nemo_frames)
    ours = Streaming(small_80ms_fp32 if folder == "80" else small_fp32, threads=1, nemo_start=nemo_start)
    # NeMo leaves out another rest at the end where its steps are longer: only whole 160 ms steps compare.
    for seed, seconds in enumerate(SECONDS if nemo_frames != 2 else (1.12, 3.52)):
        audio = speechlike(seconds, seed)
        expected, actual = nemo.transcribe(audio), ours.transcribe(audio)
        assert (actual.tokens, actual.frames) == (expected.tokens, expected.frames), seconds


def test_a_folder_of_before_is_compared_with_nemos_own_start(
    small_checkpoint: Checkpoint, small_80ms_fp32: Bundle, short_manifest: Path
) -> None:
    """Its graph cannot begin cleanly, so NeMo must not begin cleanly either."""
    before = Bundle(small_80ms_fp32.path, small_80ms_fp32.metadata.model_copy(update={"knows_short_leads": False}))
    utterances = read_manifest(short_manifest)
    sides = [verify_bundle(folder, small_checkpoint, utterances) for folder in (before, small_80ms_fp32)]
    assert [(each.target.nemo_start, each.reference.chunk_ms) for each in sides] == [(True, 80), (False, 160)]


def test_a_recorded_run_that_begins_otherwise_is_refused(small_80ms_fp32: Bundle, short_manifest: Path) -> None:
    utterances = read_manifest(short_manifest)[:1]
    recorded = record_bundle(small_80ms_fp32, utterances, runtime="streaming", nemo_start=True)
    assert verify_bundle(small_80ms_fp32, recorded, utterances, runtime="streaming", nemo_start=True).exact_match == 1.0
    with pytest.raises(UserError, match=r"begin otherwise than .*; add --nemo-start"):
        verify_bundle(small_80ms_fp32, recorded, utterances, runtime="streaming")


def test_nemos_start_in_80_ms_steps_is_another(small_80ms_fp32: Bundle) -> None:
    """Else the switch that keeps it would switch nothing."""
    begun = [
        Streaming(small_80ms_fp32, threads=1, nemo_start=nemo).transcribe(speechlike(2.0, 3)) for nemo in (False, True)
    ]
    assert begun[0].tokens != begun[1].tokens


def test_a_stream_begun_the_old_way_differs(small_fp32: Bundle, recognizer: Streaming) -> None:
    meta = small_fp32.metadata
    old = Bundle(small_fp32.path, meta.model_copy(update={"lead_mel_frames": meta.pre_encode_cache}))
    audio = speechlike(3.0, 1)
    assert Streaming(old, threads=1).transcribe(audio).tokens != recognizer.transcribe(audio).tokens


@pytest.mark.parametrize("block", [1, 77, 160, 1600, 17_919, 40_000])
def test_blocks_of_any_size_give_the_same(recognizer: Streaming, block: int) -> None:
    audio = speechlike(0.3 if block == 1 else 4.4, 5)
    whole = recognizer.transcribe(audio)
    stream = recognizer.stream()
    for first in range(0, len(audio), block):
        stream.push(audio[first : first + block])
    stream.finish(flush=False)
    assert (stream.tokens, stream.frames) == (whole.tokens, whole.frames)


def test_mel_of_the_stream_is_nemos_mel(small_nemo: Any, small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    audio = speechlike(3.3, 2)
    expected, _ = small_nemo.preprocessor(
        input_signal=torch.from_numpy(audio[None].copy()), length=torch.tensor([len(audio)])
    )
    ours = Streaming(small_fp32, threads=1)
    windows: list[Audio] = []
    run = ours.encoder.run

    def spy() -> None:
        length = int(ours.encoder.output("mel_length")[0])
        windows.append(ours.encoder.output("mel")[:, :, 9 if windows else 16 : length].copy())
        run()

    monkeypatch.setattr(ours.encoder, "run", spy)
    stream = ours.stream()
    for first in range(0, len(audio), 700):
        stream.push(audio[first : first + 700])
    stream.finish(flush=False)
    actual = np.concatenate(windows, axis=2)
    np.testing.assert_allclose(actual, expected.numpy()[:, :, : actual.shape[2]], atol=2e-3)
    assert actual.shape[2] > 320


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_streams_in_threads_do_not_mix(small_fp32: Bundle, recognizer: Streaming, batch: int) -> None:
    """Fewer rows than streams, so that states wait outside of the batch, and more."""
    signals = [speechlike(2.5, seed) for seed in range(4)]
    alone = [recognizer.transcribe(signal).tokens for signal in signals]
    assert len({tuple(tokens) for tokens in alone}) > 1
    ours = Streaming(small_fp32, threads=1, batch=batch)
    streams = [ours.stream() for _ in signals]

    def run(index: int) -> None:
        for first in range(0, len(signals[index]), 5000):
            streams[index].push(signals[index][first : first + 5000])
        streams[index].finish(flush=False)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(signals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [stream.tokens for stream in streams] == alone


@pytest.mark.parametrize("batch", [1, 2])
def test_a_failed_step_is_known_to_all_its_streams(
    small_fp32: Bundle, recognizer: Streaming, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    ours = Streaming(small_fp32, threads=1, batch=batch)
    waiting, *members = (ours.stream() for _ in range(batch + 1))
    waiting.push(speechlike(1.2, 4))
    before = waiting.tokens
    for stream in members:
        stream.push(speechlike(1.2, 5), run=False)
    run = ours.decoder.run

    def fail() -> None:
        raise UserError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(ours.decoder, "run", fail)
        with pytest.raises(UserError, match=r"^no memory$"):
            ours.step()
    assert ours.decoder.run == run
    for stream in members:
        uses: dict[Callable[..., object], list[Audio]] = {
            stream.push: [speechlike(1.2, 5)], stream.finish: [], stream.transcript: []
        }  # fmt: skip
        for use, arguments in uses.items():
            with pytest.raises(UserError, match=r"a step of this stream failed \(no memory\); reset it"):
                use(*arguments)
        assert (stream.pending, stream.over) == (False, True)
        stream.reset()
        stream.push(speechlike(2.5, 2))
        stream.finish(flush=False)
    alone = recognizer.transcribe(speechlike(2.5, 2)).tokens
    assert [stream.tokens for stream in members] == [alone] * batch
    # Who was not in that step is as it was.
    waiting.push(speechlike(2.0, 6))
    waiting.finish(flush=False)
    whole = np.concatenate([speechlike(1.2, 4), speechlike(2.0, 6)])
    assert waiting.tokens == recognizer.transcribe(whole).tokens
    assert waiting.tokens[: len(before)] == before


def test_a_failure_before_the_step_leaves_nobody_waiting(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Streaming(small_fp32, threads=1, batch=2)
    first, second = ours.stream(), ours.stream()
    for stream in (first, second):
        stream.push(speechlike(1.2, 5), run=False)

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(second, "window", fail)
    with pytest.raises(MemoryError):
        ours.step()
    first.reset()  # waited for ever while the stream was taken for busy
    assert (first.pending, second.over, ours.step()) == (False, True, 0)


def test_others_failures_are_not_ours(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Streaming(small_fp32, threads=1)
    theirs, mine = ours.stream(), ours.stream()
    theirs.push(speechlike(1.2, 5), run=False)

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(theirs, "window", fail)
    mine.push(speechlike(1.2, 5))  # runs theirs first
    assert mine.encoder_frames > 0
    with pytest.raises(UserError, match="a step of this stream failed"):
        theirs.finish()


def test_an_error_leaves_no_streams_of_a_whole_run_behind(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Streaming(small_fp32, threads=1, batch=2)
    with monkeypatch.context() as broken:
        broken.setattr(ours.encoder, "run", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ours.transcribe_all([speechlike(1.2, seed) for seed in range(3)])
    assert ours.step() == 0
    assert ours._rows == [None, None]


def test_a_step_that_others_run_is_not_missed(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between taking a window and running it, a stream was for a moment neither due nor busy, so its end was lost."""
    ours = Streaming(small_fp32, threads=1, batch=2)
    signals = [speechlike(1.5 + seed, seed) for seed in range(4)]
    alone = [ours.transcribe(signal).tokens for signal in signals]
    window = Stream.window

    def slow(self: Stream) -> object:
        taken = window(self)
        time.sleep(0.003)
        return taken

    step = Streaming.step

    def late(self: Streaming) -> int:
        count = step(self)
        time.sleep(0.002)
        return count

    monkeypatch.setattr(Stream, "window", slow)
    monkeypatch.setattr(Streaming, "step", late)
    found: dict[int, list[int]] = {}

    def run(index: int) -> None:
        for repeat in range(3):
            found[4 * repeat + index] = ours.transcribe_all([signals[index]])[0].tokens

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(12)] == alone * 3


def test_a_streams_language_is_resolved_or_refused(tmp_path: Path) -> None:
    meta = tiny_bundle(tmp_path / "a").metadata
    assert _prompt(meta, "en_us") == _prompt(meta, "EN-us") == _prompt(meta, "en-US") != _prompt(meta, "auto")
    with pytest.raises(UserError, match="tlh"):
        _prompt(meta, "tlh")
    without = meta.model_copy(update={"prompt_dictionary": None})
    assert _prompt(without, "auto") == 0
    with pytest.raises(UserError, match="takes no language"):
        _prompt(without, "de-DE")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.array([0.1, np.nan], np.float32), "not finite"),
        (np.array([0.1, np.inf]), "not finite"),
        (np.array([0.1, 20_000.0]), "beyond ±256"),
        (np.array([1, 2], np.int16), "int16: give floats"),
        (np.zeros((2, 100), np.float32), r"shape \[2, 100\]"),
    ],
)
def test_what_is_no_audio_is_not_taken(recognizer: Streaming, block: Audio, message: str) -> None:
    audio = speechlike(3.0, 1)
    stream = recognizer.stream()
    stream.push(audio[:10_000])
    with pytest.raises(ValueError, match=message):
        stream.push(block)
    stream.push(audio[10_000:])
    stream.finish(flush=False)
    assert stream.tokens == recognizer.transcribe(audio).tokens


def test_a_finished_stream_takes_no_more(recognizer: Streaming) -> None:
    stream = recognizer.stream()
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(np.zeros(160, np.float32))


LANGUAGES = ("de", "en", "auto", "fr", "es")


@pytest.mark.parametrize(("cache", "batch"), [("channel", 2), ("channel", 4), ("kv", 3)])
def test_a_batch_gives_the_tokens_of_one(small_fp32: Bundle, small_kv_fp32: Bundle, cache: str, batch: int) -> None:
    small_fp32 = small_kv_fp32 if cache == "kv" else small_fp32
    signals = [speechlike(seconds, seed) for seed, seconds in enumerate((0.05, 1.0, 7.0, 2.2, 3.5, 1.12, 0.4))]
    prompts = [LANGUAGES[index % len(LANGUAGES)] for index in range(len(signals))]
    one = Streaming(small_fp32, threads=1)
    alone = [one.transcribe(signal, prompt) for signal, prompt in zip(signals, prompts, strict=True)]
    together = Streaming(small_fp32, threads=1, batch=batch).transcribe_all(signals, prompts)
    assert [(each.tokens, each.frames) for each in together] == [(each.tokens, each.frames) for each in alone]
    assert [each.audio_seconds for each in together] == [len(signal) / 16_000 for signal in signals]
    calls = sum(each.timings.encoder_calls for each in together)
    assert (
        calls == sum(each.timings.encoder_calls for each in alone) == sum(len(each.timings.steps) for each in together)
    )
    assert sum(together[2].timings.steps) > together[2].timings.wall, "a chunk waits for all of its step"
    # The prompt is each stream's own.
    assert one.transcribe(signals[2], "ja").tokens != alone[2].tokens


@pytest.mark.parametrize("chunks", [2, 4])
def test_steps_of_several_chunks_give_the_tokens_of_one(
    small_fp32: Bundle, small_kv_fp32: Bundle, small_r13_fp32: Bundle, small_80ms_fp32: Bundle, chunks: int
) -> None:
    frames = [1, 60, 108, 112 + 108, 3 * 112 + 50, 9 * 112 - 5]  # 108: a rest of four that is no encoder frame
    signals = [speechlike(count * 0.01 + 0.002, seed=count) for count in frames]
    for bundle in (small_fp32, small_kv_fp32, small_r13_fp32, small_80ms_fp32):
        one, several = Streaming(bundle), Streaming(bundle, chunks=chunks)
        for signal in signals:
            expected, actual = one.stream("de"), several.stream("de")
            for stream in (expected, actual):
                stream.push(signal)
                stream.finish(flush=False)
            assert (actual.tokens, actual.frames) == (expected.tokens, expected.frames)
            assert actual.encoder_frames == expected.encoder_frames
        assert len(expected.tokens) > 5
        assert several.encoder.calls < one.encoder.calls


def test_a_folder_of_before_takes_one_chunk_a_step(small_fp32: Bundle) -> None:
    before = Bundle(small_fp32.path, small_fp32.metadata.model_copy(update={"longer_steps": False}))
    with pytest.raises(UserError, match="one chunk a step"):
        Streaming(before, chunks=2)
    with pytest.raises(UserError, match="NeMo's own start is that of one chunk a step"):
        Streaming(small_fp32, chunks=2, nemo_start=True)
    assert Recordings(small_fp32, [600.0], threads=1, nemo_start=True).shape.chunks == 1


def test_demo_batch_of_8_equals_batch_of_1(demo_fp32: Bundle) -> None:
    utterances = spread(read_manifest(default_manifest()), 10)
    audios = [load_audio(each.audio_filepath, 16_000) for each in utterances]
    prompts = [each.target_lang for each in utterances]
    alone, together = (Streaming(demo_fp32, threads=1, batch=batch).transcribe_all(audios, prompts) for batch in (1, 8))
    assert [(each.tokens, each.frames) for each in together] == [(each.tokens, each.frames) for each in alone]
    assert all(each.text for each in alone)


def test_a_cache_of_keys_and_values_changes_no_token(small_fp32: Bundle, small_kv_fp32: Bundle) -> None:
    audio = speechlike(7.0, 2)
    loops = [(Streaming(each, threads=1), Generation1(each, threads=1)) for each in (small_fp32, small_kv_fp32)]
    plain, kv = ([loop.transcribe(audio, "de").tokens for loop in pair] for pair in loops)
    assert kv == plain
    assert all(plain)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_streams_that_wait_keep_their_state(demo_fp32: Bundle, batch: int) -> None:
    """Turn by turn, so that every step finds the others waiting, in their rows or outside of the batch."""
    utterances = spread(read_manifest(default_manifest()), 3)
    audios = [load_audio(each.audio_filepath, 16_000) for each in utterances]
    ours = Streaming(demo_fp32, threads=1, batch=batch)
    streams = [ours.stream(each.target_lang) for each in utterances]
    for first in range(0, max(map(len, audios)), 6000):
        for stream, audio in zip(streams, audios, strict=True):
            stream.push(audio[first : first + 6000])
    for stream, audio, utterance in zip(streams, audios, utterances, strict=True):
        stream.finish(flush=False)
        assert stream.tokens == ours.transcribe(audio, utterance.target_lang).tokens
        assert stream.tokens


def test_a_step_of_others_leaves_a_waiting_row_as_it_was(small_fp32: Bundle) -> None:
    ours = Streaming(small_fp32, threads=1, batch=2)
    waiting, other = ours.stream(), ours.stream("de")
    waiting.push(speechlike(1.2, 1))
    row = ours._rows.index(waiting)
    before = [array.copy() for array in ours._row(row)]
    for _ in range(2):
        other.push(speechlike(1.2, 2))
        for array, kept in zip(ours._row(row), before, strict=True):
            np.testing.assert_array_equal(array, kept)
    assert ours._rows.index(other) != row


def test_steps_in_lock_step_take_all_that_are_ready(small_fp32: Bundle) -> None:
    ours = Streaming(small_fp32, threads=1, batch=3)
    streams = [ours.stream() for _ in range(4)]
    assert ours.step() == 0
    for stream in streams:
        stream.push(speechlike(1.2, 1), run=False)
    assert (ours.step(), ours.step(), ours.step()) == (3, 1, 0)
    assert len({tuple(stream.tokens) for stream in streams}) == 1
    streams[0].push(speechlike(1.2, 1), run=False)
    streams[0].reset()  # its step is no longer due
    assert ours.step() == 0


def test_reset_begins_anew(recognizer: Streaming) -> None:
    audio = speechlike(3.0, 2)
    stream = recognizer.stream("de")
    stream.push(speechlike(2.0, 3))
    for language in (None, "fr"):
        stream.reset(language)
        assert stream.tokens == []
        stream.push(audio)
        stream.finish(flush=False)
        assert stream.tokens == recognizer.transcribe(audio, language or "de").tokens


def test_flush_gives_what_was_still_to_come(demo_fp32: Bundle) -> None:
    ours = Streaming(demo_fp32, threads=1, batch=8)
    utterances = spread(read_manifest(default_manifest()), 16)
    audios = [load_audio(each.audio_filepath, 16_000) for each in utterances]
    prompts = [each.target_lang for each in utterances]
    cut = [without_silence(audio, 16_000) for audio in audios]
    whole = [each.text for each in ours.transcribe_all(audios, prompts)]
    plain, flushed = (ours.transcribe_all(cut, prompts, flush=flush) for flush in (False, True))
    assert [each.audio_seconds for each in flushed] == [len(audio) / 16_000 for audio in cut]
    same = [sum(each.text == text for each, text in zip(run, whole, strict=True)) for run in (plain, flushed)]
    assert same[0] < 8
    assert same[1] >= 15


def test_taken_words_are_forgotten(demo_fp32: Bundle) -> None:
    utterance = read_manifest(default_manifest())[0]
    audio = load_audio(utterance.audio_filepath, 16_000)
    ours = Streaming(demo_fp32, threads=1)
    stream = ours.stream(utterance.target_lang)
    taken = []
    for first in range(0, len(audio), 8000):
        stream.push(audio[first : first + 8000])
        taken += stream.take()
        assert len(stream.words()) <= 1, "only the last word may go on"
    stream.finish()
    whole = ours.stream(utterance.target_lang)
    whole.push(audio)
    whole.finish()
    assert taken + stream.take() == whole.words()
    assert stream.tokens == []
    assert (stream.result()[1], len(whole.words()) > 2) == (whole.result()[1], True)


def held_bytes(recognizer: Streaming, stream: Stream) -> int:
    """Everything of a size that could grow with the audio."""
    arrays = [value for owner in (stream, recognizer) for value in vars(owner).values()]
    arrays = [each.base if isinstance(each, np.ndarray) and each.base is not None else each for each in arrays]
    return sum(each.nbytes for each in arrays if isinstance(each, np.ndarray)) + 8 * len(stream.tokens)


def listen(recognizer: Streaming, seconds: float, measure: Callable[[Stream], int]) -> list[int]:
    """A long signal in blocks of 0.37 s; what is measured after each ten seconds of it."""
    utterances = read_manifest(default_manifest())[::20]
    spoken = np.concatenate([load_audio(each.audio_filepath, 16_000) for each in utterances])
    stream = recognizer.stream("en-US")
    measured, block = [], 5_920
    for number in range(int(seconds * 16_000) // block):
        stream.push(np.take(spoken, range(number * block, (number + 1) * block), mode="wrap"))
        stream.take()
        if number % 27 == 26:
            measured.append(measure(stream))
    return measured


def test_an_endless_stream_does_not_grow(demo_fp32: Bundle) -> None:
    ours = Streaming(demo_fp32, threads=1)
    sizes = listen(ours, 120.0, lambda stream: held_bytes(ours, stream))
    assert len(sizes) >= 12
    step = 4 * ours.geometry.samples
    assert max(sizes) - min(sizes) <= step + 8 * 100, "less than a step's audio and a long word"


@pytest.mark.heavy
@pytest.mark.parametrize("lookahead", [0, 3, 6, 13])
def test_demo_tokens_are_nemos(demo_checkpoint: Checkpoint, tmp_path: Path, lookahead: int) -> None:
    """Every utterance; 60 at lookahead 0 are those of the default test that regenerates the demo's folders."""
    bundle = export_checkpoint(demo_checkpoint, tmp_path / "fp32", lookahead=lookahead)
    report = verify_bundle(bundle, demo_checkpoint, read_manifest(default_manifest()))
    assert (report.target.runtime, report.utterances > 100, report.exact_match) == ("streaming", True, 1.0)


@pytest.mark.heavy
def test_an_hour_holds_memory_constant(demo_fp32: Bundle) -> None:
    process = psutil.Process()
    ours = Streaming(demo_fp32, threads=1)
    resident = listen(ours, 3600.0, lambda _: process.memory_info().rss)
    warm = resident[len(resident) // 10 :]
    assert max(warm) - warm[0] < 4e6, "an hour's mel alone is 184 MB, its audio 230 MB"


def test_japanese_is_taken_piece_by_piece(demo_fp32: Bundle) -> None:
    """It has no spaces, and a stream without pauses was one word that grew for ever."""
    ours = Streaming(demo_fp32, threads=1)
    spoken = [each for each in read_manifest(default_manifest()) if each.target_lang == "ja-JP"][:6]
    stream, whole = ours.stream("ja-JP"), ours.stream("ja-JP")
    taken, held = [], []
    for utterance in spoken:
        for each in (stream, whole):
            each.push(load_audio(utterance.audio_filepath, 16_000))
        taken += stream.take()
        held.append(len(stream.tokens))
    for each in (stream, whole):
        each.finish()
    taken += stream.take()
    assert taken == whole.words()
    assert len(taken) > 20
    assert max(held) < 10
    assert "".join(" " * word.spaced + word.text for word in taken).strip() == whole.result()[0]


def test_a_word_that_never_ends_is_cut(small_fp32: Bundle, recognizer: Streaming) -> None:
    vocabulary = small_fp32.vocabulary
    piece = next(index for index, each in enumerate(vocabulary) if each.isascii() and each.isalpha())
    size = len(vocabulary[piece])
    stream = recognizer.stream()
    for frame in range(LONGEST_WORD + 2):
        stream.emit(piece, frame)
    assert [len(word.text) for word in stream.words()] == [LONGEST_WORD * size, 2 * size]
    assert [word.spaced for word in stream.words()] == [False, False]
    assert len(stream.take()) == 1
    assert len(stream.tokens) == 2


def test_words_carry_times(small_fp32: Bundle, recognizer: Streaming) -> None:
    stream = recognizer.stream()
    stream.push(speechlike(5.0, 3))
    stream.finish()
    words = stream.words()
    assert words
    seconds = small_fp32.metadata.subsampling_factor / 100
    pairs = zip(stream.tokens, stream.frames, strict=True)
    written = [(token, frame) for token, frame in pairs if token not in recognizer.tags]
    starts = {round(frame * seconds, 3) for _, frame in written}
    ends = {round((frame + 1) * seconds, 3) for _, frame in written}
    assert {word.start for word in words} <= starts
    assert {word.end for word in words} <= ends | starts
    assert words[0].start == min(starts)
    assert words[-1].end == max(ends)
    assert any(word.end > word.start for word in words)


def test_a_stream_that_ends_without_a_step_gives_its_row_back(small_fp32: Bundle) -> None:
    recognizer = Streaming(small_fp32, threads=1)
    first = recognizer.stream()
    first.push(speechlike(1.2, 0))
    assert recognizer._rows == [first]
    first.finish(flush=False)
    assert first.over
    assert recognizer._rows == [None]


def test_another_streams_failure_does_not_end_recordings(small_fp32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = Streaming(small_fp32, threads=1)
    audio = speechlike(3.0, 1)
    alone = recognizer.transcribe(audio).tokens
    other = recognizer.stream()
    other.push(speechlike(2.0, 2), run=False)
    encode = recognizer._encode

    def failing(members: dict[int, Stream], leads: dict[int, int]) -> None:
        if other in members.values():
            raise RuntimeError("out of memory")
        encode(members, leads)

    monkeypatch.setattr(recognizer, "_encode", failing)
    assert recognizer.transcribe_all([audio])[0].tokens == alone
    assert other.failure is not None


def test_nemos_graph_is_refused(small_nemo_fp32: Bundle) -> None:
    with pytest.raises(UserError, match="use --runtime generation1, or export with --encoder rewritten"):
        Streaming(small_nemo_fp32)


def test_a_damaged_graph_is_one_line(small_fp32: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(small_fp32.path, tmp_path / "damaged")
    (copy / "nemotron_joint.xml").write_text("<net")
    with pytest.raises(UserError, match=r"nemotron_joint\.xml: CPU cannot load it .*regenerate the folder"):
        Streaming(Bundle.open(copy))
