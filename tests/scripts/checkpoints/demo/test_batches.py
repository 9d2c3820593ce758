"""Shards, batches and the guessed moments of tokens in the demo checkpoint's training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import UserError
from scripts.checkpoints.demo import train
from scripts.checkpoints.demo.batches import CARRY_FRAMES, DROPPED_FRAMES, MEL_FRAMES_PER_BATCH, Batch, Corpus
from scripts.checkpoints.demo.corpus import LANGUAGES, generator
from scripts.checkpoints.demo.features import (
    CHUNK_FRAMES,
    CURRICULUM_SHARDS,
    Recording,
    save_recordings,
    shard_path,
    token_spots,
)
from scripts.checkpoints.demo.model import AUTO_PROMPT_ID, MEL_BINS
from scripts.checkpoints.demo.trainer import EARLY, LATE, emission_windows, frame_targets


def recording(number: int, *, chunked: bool) -> Recording:
    """A recording whose mel holds its frame numbers, so that every frame can be told."""
    frames = CHUNK_FRAMES * (1 + number % 3) if chunked else 150 + 7 * number
    mel = np.repeat(np.arange(1, frames + 1, dtype=np.float32)[:, None], MEL_BINS, axis=1)
    tokens = np.arange(1, 5 + number % 4, dtype=np.int16)
    spots = np.linspace(30.0, frames - 20.0, tokens.size, dtype=np.float32)
    return Recording(mel, tokens, spots, number % len(LANGUAGES), chunked, speech_start=12)


@pytest.fixture
def batches(tmp_path: Path) -> list[Batch]:
    for shard in range(2):
        save_recordings(shard_path(tmp_path, shard), [recording(n, chunked=n % 2 == 0) for n in range(40)])
    corpus = Corpus(tmp_path)
    assert corpus.refresh() == 2
    return [batch for epoch in range(4) for batch in corpus.epoch(generator(f"epoch {epoch}"))]


def encoder_frames(mel_frames: int) -> int:
    """Frames that three causal convolutions of kernel 3 and stride 2 make."""
    for _ in range(3):
        mel_frames = (mel_frames + 3 - 3) // 2 + 1
    return mel_frames


def test_an_epoch_has_every_recording_once(batches: list[Batch]) -> None:
    assert sum(batch.labels.numel() for batch in batches) == 4 * 2 * 40
    for batch in batches:
        assert batch.windows.shape[0] == batch.labels.numel() * batch.windows_per_utterance
        assert batch.windows.shape[0] * batch.windows.shape[1] <= MEL_FRAMES_PER_BATCH * 1.3


def test_frames_are_those_the_encoder_makes(batches: list[Batch]) -> None:
    for batch in batches:
        if batch.windows_per_utterance == 1:
            expected = [encoder_frames(int(length)) - batch.dropped for length in batch.lengths]
            assert batch.frames.tolist() == expected
        else:
            assert encoder_frames(batch.windows.shape[1]) - batch.dropped == CHUNK_FRAMES // 8
            assert int(batch.frames.max()) == CHUNK_FRAMES // 8 * batch.windows_per_utterance


def test_client_windows_carry_the_frames_before(batches: list[Batch]) -> None:
    chunked = [batch for batch in batches if batch.windows_per_utterance > 1]
    assert chunked
    for batch in chunked:
        assert batch.dropped == DROPPED_FRAMES
        windows = batch.windows.view(-1, batch.windows_per_utterance, CARRY_FRAMES + CHUNK_FRAMES, MEL_BINS)
        torch.testing.assert_close(windows[:, 1:, :CARRY_FRAMES], windows[:, :-1, -CARRY_FRAMES:])


def test_no_stream_starts_with_zero_frames(batches: list[Batch]) -> None:
    for batch in batches:
        first = batch.windows[:: batch.windows_per_utterance]
        assert not (first[:, 0] == 0.0).all(-1).any()


def test_prompts_are_auto_or_the_language(batches: list[Batch]) -> None:
    prompts = torch.cat([batch.prompts for batch in batches])
    assert set(prompts.tolist()) == {AUTO_PROMPT_ID, *(language.prompt_id for language in LANGUAGES)}
    assert 0.3 < float((prompts == AUTO_PROMPT_ID).float().mean()) < 0.7


def test_emission_windows_leave_a_path(batches: list[Batch]) -> None:
    for batch in batches:
        first, last = emission_windows(batch, batch.frames)
        for row in range(batch.labels.numel()):
            states = int(batch.labels[row]) + 1
            assert int(first[row, 0]) == 0
            assert int(last[row, states - 1]) >= int(batch.frames[row]) - 1
            assert bool((first[row, 1:states] <= last[row, : states - 1]).all())
            assert bool((last[row, : states - 1] - first[row, 1:states] <= EARLY + LATE + 2).all())


def test_frame_targets_follow_the_spots(batches: list[Batch]) -> None:
    batch = batches[0]
    targets = frame_targets(batch, int(batch.frames.max()))
    for row in range(batch.labels.numel()):
        known = targets[row][targets[row] >= 0]
        assert known.tolist() == sorted(known.tolist())  # the tokens of these recordings ascend
        assert set(known.tolist()) <= set(batch.targets[row, : batch.labels[row]].tolist())


def test_token_spots_follow_the_letters() -> None:
    spots = token_spots(["▁ab", "cdef", ".", "<en-US>"], 10.0, 70.0)
    assert spots == [30.0, 70.0, 70.0, 70.0]


def test_an_interrupted_shard_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_recordings(shard_path(tmp_path, 0), [recording(1, chunked=False)])
    assert Corpus(tmp_path).refresh() == 0


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("demo.txt", {}, "must end in .nemo"),
        ("demo.nemo", {"minutes": 0.0}, "minutes 0"),
        ("demo.nemo", {"shards": -1}, "shards -1"),
        ("demo.nemo", {"workers": 0}, "workers 0"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, output: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.train_demo_checkpoint(tmp_path / output, tmp_path / "work", **options)
    assert not (tmp_path / "work").exists()


def test_work_folder_of_another_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(UserError, match="belongs to seed 1, not 2"):
        train.train_demo_checkpoint(tmp_path / "demo.nemo", tmp_path, seed=2)


def test_curriculum_drops_the_short_sentences() -> None:
    assert train.first_shard(step=10, available=10) == 0
    assert train.first_shard(step=10_000, available=10) == CURRICULUM_SHARDS
    assert train.first_shard(step=10_000, available=2) == 0
