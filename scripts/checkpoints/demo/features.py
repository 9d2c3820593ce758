"""Training recordings as log-mel features, in shards on disk.

A shard is a directory: ``mel.npy`` [frames, 128] float16 of all its recordings, ``tokens.npy`` and
``spots.npy`` of all their tokens, and ``index.npy``, one row a recording. Shards are a function of the
seed and their number alone and are written under a temporary name first, so a killed run resumes.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scripts.checkpoints.demo.corpus import LANGUAGES, Language, Sentence, Split, draw_sentence, generator, joined_text
from scripts.checkpoints.demo.model import MEL_BINS, preprocessor_config
from scripts.checkpoints.demo.speech import SAMPLE_RATE, Audio, Segment, degrade, draw_delivery, join, synthesize

Mel = npt.NDArray[np.float32]

CHUNK_FRAMES = 112  # of the deployed clients: 1.12 s
HOP = 160
CHUNK_SAMPLES = CHUNK_FRAMES * HOP
RECORDINGS_PER_SHARD = 1500
CURRICULUM_SHARDS = 3  # the first shards have only short single sentences
CHUNKED_SHARE = 0.25
MAX_SECONDS = 25.0

INDEX_DTYPE = np.dtype(
    [
        ("frame", "<i8"), ("frames", "<i4"), ("token", "<i8"), ("tokens", "<i4"),
        ("language", "<i1"), ("chunked", "?"), ("speech_start", "<i4"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """One training recording."""

    mel: Mel  # [frames, 128]
    tokens: npt.NDArray[np.int16]
    spots: npt.NDArray[np.float32]  # per token: the mel frame at which it has been spoken
    language: int  # index into LANGUAGES
    chunked: bool  # log-mel computed per client chunk, not over the whole recording
    speech_start: int  # mel frame


class FrontEnd:
    """NeMo's log-mel front end without dither."""

    def __init__(self) -> None:
        from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

        options = {key: value for key, value in preprocessor_config().items() if key != "_target_"}
        self._module: Any = AudioToMelSpectrogramPreprocessor(**(options | {"dither": 0.0}))
        self._module.eval()

    def __call__(self, signals: npt.NDArray[np.float32]) -> Mel:
        """Log-mel [B, frames, 128] of [B, samples], one frame a full hop."""
        import torch

        lengths = torch.full((signals.shape[0],), signals.shape[1])
        with torch.inference_mode():
            mel, valid = self._module(input_signal=torch.from_numpy(signals), length=lengths)
        features: Mel = mel[:, :, : int(valid[0])].transpose(1, 2).numpy()
        return features

    def chunked(self, signal: Audio) -> Mel:
        """Log-mel of each client chunk alone, laid end to end: [chunks * 112, 128]."""
        chunks = -(-signal.size // CHUNK_SAMPLES)
        padded = np.zeros(chunks * CHUNK_SAMPLES, np.float32)
        padded[: signal.size] = signal
        return self(padded.reshape(chunks, CHUNK_SAMPLES)).reshape(-1, MEL_BINS)


def token_spots(pieces: list[str], start: float, end: float) -> list[float]:
    """When each piece of one sentence has been spoken, if its letters are spread evenly over [start, end]."""
    letters = [0 if piece.startswith("<") else len(piece.replace("▁", "").strip(".,?¿、。")) for piece in pieces]
    shares = np.cumsum(letters) / max(sum(letters), 1)
    return [start + (end - start) * float(share) for share in shares]


def draw_sentences(language: Language, split: Split, rng: random.Random, *, short: bool) -> list[Sentence]:
    """The sentences of one recording: one short one early in the curriculum, else one to five."""
    if short:
        return [draw_sentence(language, split, rng, max_words=9)]
    kind = rng.random()
    if kind < 0.5:
        return [draw_sentence(language, split, rng)]
    count, longest = (rng.randint(2, 3), 12) if kind < 0.85 else (rng.randint(3, 5), 16)
    return [draw_sentence(language, split, rng, max_words=longest) for _ in range(count)]


def make_recording(tokenizer: Any, front_end: FrontEnd, rng: random.Random, *, short: bool) -> Recording:
    """Synthesize one training recording."""
    number = rng.randrange(len(LANGUAGES))
    language = LANGUAGES[number]
    sentences = draw_sentences(language, Split.TRAIN, rng, short=short)
    delivery = draw_delivery(Split.TRAIN, rng)
    parts = [synthesize(sentence.spoken, language, delivery) for sentence in sentences]
    while len(parts) > 1 and sum(part.size for part in parts) > (MAX_SECONDS - 4.0) * SAMPLE_RATE:
        parts.pop()
    signal, segments = join(parts, rng)
    signal = degrade(signal, rng)
    chunked = rng.random() < CHUNKED_SHARE
    mel = front_end.chunked(signal) if chunked else front_end(signal[None])[0]
    tokens, spots = _tokens(tokenizer, language, sentences[: len(parts)], segments)
    return Recording(mel, tokens, spots, number, chunked, segments[0].start // HOP)


def _tokens(
    tokenizer: Any, language: Language, sentences: list[Sentence], segments: list[Segment]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Token ids and spots of joined sentences, a language tag closing each sentence."""
    tokens: list[int] = tokenizer.encode(joined_text(language, sentences, tags=True))
    tag = tokenizer.piece_to_id(language.piece)
    spots: list[float] = []
    pieces: list[str] = []
    remaining = iter(segments)
    for token in tokens:
        pieces.append(tokenizer.id_to_piece(token))
        if token == tag:
            segment = next(remaining)
            spots += token_spots(pieces, segment.start / HOP, segment.end / HOP)
            pieces = []
    return np.asarray(tokens, np.int16), np.asarray(spots, np.float32)


def shard_path(directory: Path, number: int) -> Path:
    """Where shard `number` lies."""
    return directory / f"shard-{number:03d}"


def write_shard(directory: Path, number: int, tokenizer_model: Path, seed: int, parent: int | None = None) -> Path:
    """Make shard `number` unless it is there already; give up when process `parent` is not the parent any more."""
    import sentencepiece

    path = shard_path(directory, number)
    if path.exists():
        return path
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model))
    front_end = FrontEnd()
    rng = generator(f"shard-{seed}-{number}")
    short = number < CURRICULUM_SHARDS
    recordings = []
    for _ in range(RECORDINGS_PER_SHARD):
        if parent is not None and os.getppid() != parent:
            raise SystemExit(1)
        recordings.append(make_recording(tokenizer, front_end, rng, short=short))
    save_recordings(path, recordings)
    return path


def save_recordings(path: Path, recordings: list[Recording]) -> None:
    """Write a shard to `path`, which appears when it is complete."""
    index = np.zeros(len(recordings), INDEX_DTYPE)
    index["frames"] = [recording.mel.shape[0] for recording in recordings]
    index["tokens"] = [recording.tokens.size for recording in recordings]
    index["frame"] = np.cumsum(index["frames"]) - index["frames"]
    index["token"] = np.cumsum(index["tokens"]) - index["tokens"]
    index["language"] = [recording.language for recording in recordings]
    index["chunked"] = [recording.chunked for recording in recordings]
    index["speech_start"] = [recording.speech_start for recording in recordings]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / "mel.npy", np.concatenate([recording.mel for recording in recordings]).astype(np.float16))
    np.save(temporary / "tokens.npy", np.concatenate([recording.tokens for recording in recordings]))
    np.save(temporary / "spots.npy", np.concatenate([recording.spots for recording in recordings]))
    np.save(temporary / "index.npy", index)
    temporary.rename(path)


def write_shards(directory: Path, count: int, tokenizer_model: Path, seed: int, parent: int) -> None:
    """Make shards 0 to `count` - 1 in order, on one thread; the entry point of the producing process."""
    import torch

    os.nice(2)
    torch.set_num_threads(1)
    for number in range(count):
        write_shard(directory, number, tokenizer_model, seed, parent)
