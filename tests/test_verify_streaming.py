"""The streaming runtime: NeMo's tokens exactly, whatever the blocks, and no loss at the end."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint, load_model
from export.errors import UserError
from export.pipeline import export_checkpoint
from verify.nemo_reference import NemoStreaming
from verify.streaming import Audio, Streaming


def speechlike(seconds: float, seed: int) -> Audio:
    """Noise and tones in bursts, so that a random model emits varied tokens."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(16_000 * seconds)) / 16_000
    bursts = np.maximum(0.0, np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)))
    sound = bursts * (0.2 * rng.standard_normal(len(time)) + 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * time))
    return sound.astype(np.float32)


SECONDS = (0.05, 0.09, 0.4, 1.0, 1.12, 1.2, 2.237, 3.5, 7.03)


@pytest.mark.parametrize("lookahead", [3, 13])
def test_tokens_and_frames_are_nemos(small_checkpoint: Checkpoint, tmp_path: Path, lookahead: int) -> None:
    nemo = NemoStreaming(small_checkpoint, lookahead)
    ours = Streaming(export_checkpoint(small_checkpoint, tmp_path / "fp32", lookahead=lookahead), threads=1)
    emitted = 0
    for seed, seconds in enumerate(SECONDS):
        audio = speechlike(seconds, seed)
        expected, actual = nemo.transcribe(audio, "de"), ours.transcribe(audio, "de")
        assert (actual.tokens, actual.frames) == (expected.tokens, expected.frames), seconds
        emitted += len(expected.tokens)
    assert emitted > 20, "silence proves nothing"


def test_lookahead_0_equals_nemo_in_steps_of_the_folders_chunk(
    small_checkpoint: Checkpoint, small_fp32: Bundle
) -> None:
    # In steps of its own, of one frame, NeMo pads its second step with zero mel frames that it does not mask.
    nemo = NemoStreaming(small_checkpoint, 0, step_frames=14)
    ours = Streaming(small_fp32, threads=1)
    for seed, seconds in enumerate(SECONDS):
        audio = speechlike(seconds, seed)
        assert ours.transcribe(audio).tokens == nemo.transcribe(audio).tokens, seconds


def test_a_stream_begun_the_old_way_differs(small_checkpoint: Checkpoint, small_fp32: Bundle) -> None:
    nemo = NemoStreaming(small_checkpoint, 0, step_frames=14)
    ours = Streaming(small_fp32, threads=1)
    audio = speechlike(3.0, 1)
    stream = ours.stream()
    stream._caches["cache_len"][:] = 0
    stream.push(audio)
    stream.finish(flush=False)
    assert stream.tokens != nemo.transcribe(audio).tokens


@pytest.mark.parametrize("block", [1, 77, 160, 1600, 17_919, 40_000])
def test_blocks_of_any_size_give_the_same(small_fp32: Bundle, block: int) -> None:
    ours = Streaming(small_fp32, threads=1)
    audio = speechlike(0.3 if block == 1 else 4.4, 5)
    whole = ours.transcribe(audio)
    stream = ours.stream()
    for first in range(0, len(audio), block):
        stream.push(audio[first : first + block])
    stream.finish(flush=False)
    assert (stream.tokens, stream.frames) == (whole.tokens, whole.frames)


def test_mel_of_the_stream_is_nemos_mel(small_checkpoint: Checkpoint, small_fp32: Bundle) -> None:
    import torch

    model = load_model(small_checkpoint)
    audio = speechlike(3.3, 2)
    expected, _ = model.preprocessor(
        input_signal=torch.from_numpy(audio[None].copy()), length=torch.tensor([len(audio)])
    )
    stream = Streaming(small_fp32, threads=1).stream()
    parts = [stream._mel.push(audio[first : first + 700]) for first in range(0, len(audio), 700)]
    assert len(stream._mel._samples) < 3000, "past audio is dropped"
    actual = np.concatenate([*parts, stream._mel.finish()], axis=2)
    np.testing.assert_allclose(actual, expected.numpy(), atol=2e-3)


def test_streams_in_threads_do_not_mix(small_fp32: Bundle) -> None:
    ours = Streaming(small_fp32, threads=1)
    signals = [speechlike(2.5, seed) for seed in range(4)]
    alone = [ours.transcribe(signal).tokens for signal in signals]
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
    assert len({tuple(tokens) for tokens in alone}) > 1


def test_a_finished_stream_takes_no_more(small_fp32: Bundle) -> None:
    stream = Streaming(small_fp32, threads=1).stream()
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(np.zeros(160, np.float32))


def test_words_carry_times(small_fp32: Bundle) -> None:
    stream = Streaming(small_fp32, threads=1).stream()
    stream.push(speechlike(5.0, 3))
    stream.finish()
    words = stream.words()
    assert words
    assert all(0.0 <= word.start <= word.end <= 8.0 for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_nemos_graph_is_refused(small_nemo_fp32: Bundle) -> None:
    with pytest.raises(UserError, match="use --runtime generation1, or export with --graph fused"):
        Streaming(small_nemo_fp32)


def test_a_damaged_graph_is_one_line(small_fp32: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(small_fp32.path, tmp_path / "damaged")
    (copy / "nemotron_joint.xml").write_text("<net")
    with pytest.raises(UserError, match=r"nemotron_joint\.xml: CPU cannot load it .*regenerate the folder"):
        Streaming(Bundle.open(copy))
