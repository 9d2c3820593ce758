"""Batches from the shards: length buckets, stream starts, the clients' chunk windows, masks.

The encoder sees two kinds of stream. *Plain*: the recording as it is, cut at a random frame before its first word.
*Chunked*: the log-mel of each 1.12 s chunk computed alone, in windows of 9 carried and 112 new frames, after silence.
Neither holds what only a client's loop makes up and the real model never sees: zero mel frames before the
stream, or a carry that is off by a frame.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.checkpoints.demo.corpus import LANGUAGES
from scripts.checkpoints.demo.features import CHUNK_FRAMES, INDEX_DTYPE, Mel, shard_path
from scripts.checkpoints.demo.model import AUTO_PROMPT_ID, MEL_BINS

CARRY_FRAMES = 9
DROPPED_FRAMES = 2  # encoder frames that the carried mel frames make
MEL_FRAMES_PER_BATCH = 3200  # padded, of each worker
MAX_BATCH = 16
_FILL = -10.0  # of masked mel, about the mean of speech
_SILENCE = math.log(2.0**-24)  # mel of digital silence
_STRIDE = 8


@dataclass(frozen=True)
class Batch:
    """What one training step needs."""

    windows: Tensor  # [W, frames, 128]: one window an utterance, or one a client chunk
    lengths: Tensor  # [W] i64, mel frames
    dropped: int  # encoder frames to drop from the start of every window
    windows_per_utterance: int
    frames: Tensor  # [B] i64, encoder frames
    targets: Tensor  # [B, U] i64
    labels: Tensor  # [B] i64
    spots: Tensor  # [B, U] f32, the encoder frame at which each token has been spoken
    prompts: Tensor  # [B] i64


class Corpus:
    """The shards that exist so far, memory-mapped."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._arrays: list[dict[str, np.ndarray]] = []

    def refresh(self) -> int:
        """Open the shards that have appeared since; returns their number."""
        while (path := shard_path(self._directory, len(self._arrays))).exists():
            names = ("mel", "tokens", "spots", "index")
            self._arrays.append({name: np.load(path / f"{name}.npy", mmap_mode="r") for name in names})
        return len(self._arrays)

    def frequencies(self, pieces: int) -> Tensor:
        """How often each of `pieces` tokens occurs, adding up to one; no token has none."""
        counts = np.ones(pieces)
        for arrays in self._arrays:
            counts += np.bincount(arrays["tokens"], minlength=pieces)
        return torch.from_numpy(counts / counts.sum()).float()

    def epoch(self, rng: random.Random, first_shard: int = 0) -> Iterator[Batch]:
        """Batches of similar lengths in random order, over all recordings from `first_shard` on."""
        keys = [
            (bool(row["chunked"]), int(row["frames"]) + rng.randrange(20), shard, number)
            for shard in range(first_shard, len(self._arrays))
            for number, row in enumerate(self._arrays[shard]["index"].astype(INDEX_DTYPE))
        ]
        groups = _group(sorted(keys))
        rng.shuffle(groups)
        for chunked, members in groups:
            yield self._assemble(members, chunked=chunked, rng=rng)

    def _assemble(self, members: list[tuple[int, int]], *, chunked: bool, rng: random.Random) -> Batch:
        rows = [self._arrays[shard]["index"][number] for shard, number in members]
        mels, tokens, spots, cuts = [], [], [], []
        dropped = DROPPED_FRAMES if chunked else 0
        for (shard, _), row in zip(members, rows, strict=True):
            arrays = self._arrays[shard]
            cut = 0 if chunked else rng.randint(0, min(int(row["speech_start"]), 60))
            frames = slice(int(row["frame"]) + cut, int(row["frame"]) + int(row["frames"]))
            labels = slice(int(row["token"]), int(row["token"]) + int(row["tokens"]))
            mels.append(_mask(arrays["mel"][frames].astype(np.float32), rng))
            tokens.append(torch.from_numpy(arrays["tokens"][labels].astype(np.int64)))
            spots.append(torch.from_numpy(arrays["spots"][labels].astype(np.float32)))
            cuts.append(cut)
        prompts = [AUTO_PROMPT_ID if rng.random() < 0.5 else LANGUAGES[int(row["language"])].prompt_id for row in rows]
        windows, lengths, count = _client_windows(mels) if chunked else _plain_windows(mels)
        frames_out = _encoder_frames(lengths) - dropped
        positions = [(spot - cut) / _STRIDE - dropped for spot, cut in zip(spots, cuts, strict=True)]
        return Batch(
            windows=windows,
            lengths=lengths,
            dropped=dropped,
            windows_per_utterance=count,
            frames=torch.tensor([-(-mel.shape[0] // _STRIDE) for mel in mels]) if chunked else frames_out,
            targets=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            labels=torch.tensor([token.numel() for token in tokens]),
            spots=torch.nn.utils.rnn.pad_sequence(positions, batch_first=True),
            prompts=torch.tensor(prompts),
        )


def _group(keys: list[tuple[bool, int, int, int]]) -> list[tuple[bool, list[tuple[int, int]]]]:
    """Cut sorted keys into batches of one kind and at most MEL_FRAMES_PER_BATCH padded frames."""
    groups: list[tuple[bool, list[tuple[int, int]]]] = []
    for chunked, length, shard, number in keys:
        full = not groups or groups[-1][0] != chunked or len(groups[-1][1]) == MAX_BATCH
        if full or (len(groups[-1][1]) + 1) * length > MEL_FRAMES_PER_BATCH:
            groups.append((chunked, []))
        groups[-1][1].append((shard, number))
    return groups


def _mask(mel: Mel, rng: random.Random) -> Mel:
    """SpecAugment with small masks on a part of the recordings; `mel` [frames, 128] is changed in place."""
    if rng.random() < 0.6:
        for _ in range(2):
            first = rng.randrange(MEL_BINS - 14)
            mel[:, first : first + rng.randint(0, 14)] = _FILL
        for _ in range(1 + mel.shape[0] // 300):
            first = rng.randrange(max(mel.shape[0] - 8, 1))
            mel[first : first + rng.randint(0, 8)] = _FILL
    return mel


def _encoder_frames(lengths: Tensor) -> Tensor:
    """Encoder frames of `lengths` mel frames: three causal stages of stride 2."""
    for _ in range(3):
        lengths = lengths // 2 + 1
    return lengths


def _plain_windows(mels: list[Mel]) -> tuple[Tensor, Tensor, int]:
    lengths = torch.tensor([mel.shape[0] for mel in mels])
    windows = torch.zeros(len(mels), int(lengths.max()), MEL_BINS)
    for window, mel in zip(windows, mels, strict=True):
        window[: mel.shape[0]] = torch.from_numpy(mel)
    return windows, lengths, 1


def _client_windows(mels: list[Mel]) -> tuple[Tensor, Tensor, int]:
    """Windows [B * chunks, 121, 128] as a client's loop cuts them, with silence before the first."""
    count = max(mel.shape[0] // CHUNK_FRAMES for mel in mels)
    chunks = torch.zeros(len(mels), count, CHUNK_FRAMES, MEL_BINS)
    for chunk, mel in zip(chunks, mels, strict=True):
        chunk.view(-1, MEL_BINS)[: mel.shape[0]] = torch.from_numpy(mel)
    carry = torch.full((len(mels), count, CARRY_FRAMES, MEL_BINS), _SILENCE)
    carry[:, 1:] = chunks[:, :-1, -CARRY_FRAMES:]
    windows = torch.cat([carry, chunks], 2).flatten(0, 1)
    return windows, torch.full((windows.shape[0],), windows.shape[1]), count
