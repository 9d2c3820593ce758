"""Audio files as the mono float signal that a recognizer takes, decoded block by block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from export.errors import UserError
from export.progress import note
from verify.data.sources import Source, decoded, open_source

Audio = NDArray[np.float32]

LOUDEST = 256.0
"""Beyond this, samples are not ±1 audio: 16-bit integers that were not scaled, or a damaged float file."""

CANCELLED = 0.01
"""Power of a mix, as a share of its loudest channel's, below which the channels have cancelled each other."""


def audio_problem(signal: Audio) -> str | None:
    """Why a signal of ±1 cannot be recognized, or None. What a step takes in stays in a stream's caches."""
    if not np.isfinite(signal).all():
        return "holds samples that are not finite"
    if np.abs(signal).max(initial=0.0) > LOUDEST:
        return f"holds samples beyond ±{LOUDEST:g}, where full scale is ±1"
    return None


def load_audio(
    path: Path, sample_rate: int, *, channel: int | None = None, offset: float = 0.0, seconds: float | None = None
) -> Audio:
    """A recording as one array; see :func:`audio_blocks`.

    Returns:
        Signal of shape [samples], nominally within ±1.
    """
    blocks = list(audio_blocks(path, sample_rate, channel=channel, offset=offset, seconds=seconds))
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


def audio_seconds(path: Path) -> float:
    """How long a recording is; decoded where its header does not say.

    Raises:
        UserError: see :func:`audio_blocks`.
    """
    source = open_source(path)
    return _decoded_seconds(source) if source.seconds is None else source.seconds


def audio_blocks(
    path: Path, sample_rate: int, *, channel: int | None = None, offset: float = 0.0, seconds: float | None = None
) -> Iterator[Audio]:
    """Decode, mix and resample a recording, some seconds at a time.

    What libsndfile reads is taken, containers in a row and of unknown length included; other formats where the
    ``ffmpeg`` command is installed. Less audio than a header promises is reported on stderr.

    Args:
        path: WAV, FLAC, OGG, MP3, … file.
        sample_rate: wanted rate in Hz.
        channel: from 1; None averages all, unless they cancel each other: then the loudest is taken, with a warning.
        offset: seconds to leave out at the beginning.
        seconds: how many to read at most; None for all.

    Yields:
        Blocks of shape [samples]; at least one, none of them empty.

    Raises:
        UserError: the file is missing, no audio, empty (after ``offset``), damaged, or holds values that are no audio.
    """
    source = open_source(path)
    weights = _weights(source, channel)
    empty = True
    for signal in _resampled(source, weights, sample_rate, offset, seconds):
        problem = audio_problem(signal)
        if problem:
            raise UserError(f"{path}: {problem}; record or convert it again")
        empty = False
        yield signal
    if empty:
        reason = f"holds no samples from {offset:g} s on" if offset else f"holds no samples at {sample_rate} Hz"
        raise UserError(f"{path}: {reason}; give a longer recording")


def _weights(source: Source, channel: int | None) -> NDArray[np.float32]:
    """Of each channel in the mix, [channels]."""
    count, name = source.channels, source.name
    if channel is not None and not 1 <= channel <= count:
        raise UserError(f"--channel {channel}: {name} has {count}; choose one of them")
    if not source.frames and len(source.parts) == 1:
        raise UserError(f"{name}: holds no samples; give a recording")
    if channel is not None or count == 1:
        return _only((channel or 1) - 1, count)
    return _mix(source)


@lru_cache(maxsize=256)
def _mix(source: Source) -> NDArray[np.float32]:
    """Weights of a mix, which is decoded for it: its channels may cancel each other."""
    count, name = source.channels, source.name
    power, mixed = np.zeros(count), 0.0
    for block, _ in decoded(source, warn=False):
        if block.shape[1] != count:
            raise UserError(f"{name}: its parts have {count} and {block.shape[1]} channels; convert them to one form")
        power += np.square(block, dtype=np.float64).sum(axis=0)
        mixed += float(np.square(block.mean(axis=1, dtype=np.float64)).sum())
    loudest = int(power.argmax())
    if mixed < CANCELLED * power[loudest]:
        note(f"warning: {name}: its channels cancel each other; channel {loudest + 1} is taken (--channel chooses)")
        return _only(loudest, count)
    return np.full(count, 1 / count, np.float32)


@lru_cache(maxsize=256)
def _decoded_seconds(source: Source) -> float:
    return sum(len(block) / rate for block, rate in decoded(source, warn=False))


def _only(index: int, count: int) -> NDArray[np.float32]:
    """Weights that take one of so many channels."""
    weights = np.zeros(count, np.float32)
    weights[index] = 1.0
    return weights


def _resampled(
    source: Source, weights: NDArray[np.float32], sample_rate: int, offset: float, seconds: float | None
) -> Iterator[Audio]:
    """Mono blocks at the wanted rate, none of them empty."""
    resampler = Resampler(source.rate, sample_rate)
    for block, rate in decoded(source, offset, seconds):
        source.require_form(block, rate)
        mono = resampler.more(np.ascontiguousarray(block @ weights if len(weights) > 1 else block[:, 0]))
        if len(mono):
            yield mono
    rest = resampler.rest()
    if len(rest):
        yield rest


class Resampler:
    """A mono signal at another rate, block by block; between equal rates, as it is.

    Args:
        rate: of what comes in, in Hz.
        sample_rate: of what goes out, in Hz.
    """

    def __init__(self, rate: int, sample_rate: int) -> None:
        self._stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")

    def more(self, block: Audio) -> Audio:
        """What a block of [samples] adds; it may be empty."""
        resampled: Audio = block if self._stream is None else self._stream.resample_chunk(block)
        return resampled

    def rest(self) -> Audio:
        """What the end of the signal adds."""
        nothing = np.zeros(0, np.float32)
        resampled: Audio = nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)
        return resampled
