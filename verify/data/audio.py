"""Audio files as the mono float signal that a recognizer takes, decoded block by block."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from export.errors import UserError
from export.progress import note
from verify.data.containers import Part, open_part, parts

Audio = NDArray[np.float32]

LOUDEST = 256.0
"""Beyond this, samples are not ±1 audio: 16-bit integers that were not scaled, or a damaged float file."""

BLOCK_SECONDS = 1

CANCELLED = 0.01
"""Power of a mix, as a share of its loudest channel's, below which the channels have cancelled each other."""

_UNKNOWN = 1 << 62  # libsndfile's frames where a header does not say how many
_NOT_SOUGHT = {"MP3", "MPEG"}
"""Formats in which a place is found by decoding up to it: sought, an MP3's samples were off by up to 0.06."""

_MISSING = 0.1  # seconds by which a decoder may stay below a header


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
    with _opened(path) as source:
        if len(source.parts) == 1 and source.frames < _UNKNOWN:
            return source.frames / source.rate
        return sum(len(block) / rate for block, rate in _decoded(source, 0.0, None, warn=False))


def header_seconds(path: Path) -> float | None:
    """How long a recording says it is, for a progress bar; None where it does not say, or is none."""
    try:
        with _SoundFile(_name(path)) as file:
            return file.frames / file.samplerate if file.frames < _UNKNOWN else None
    except (soundfile.LibsndfileError, TypeError, OSError):
        return None


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
    with _opened(path) as source:
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


@dataclass(frozen=True)
class _Source:
    """A recording that libsndfile reads; channels, frames and rate are its first part's, by the header."""

    name: Path  # the user's file, for errors and warnings
    path: Path
    parts: list[Part]
    channels: int
    frames: int
    rate: int


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """The file, or what FFmpeg makes of it where libsndfile cannot read it."""
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; check the path")
    try:
        source = _read_header(path, path)
    except (soundfile.LibsndfileError, TypeError, OSError) as error:  # TypeError: what is called .raw
        reason = str(error).strip().rstrip(".").rsplit(": ", 1)[-1]
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None or isinstance(error, OSError):
            remedy = "give a WAV, FLAC, OGG or MP3 file" + ("" if ffmpeg else ", or install FFmpeg for others")
            raise UserError(f"{path}: cannot be read as audio ({reason}); {remedy}") from error
        with tempfile.TemporaryDirectory() as folder:
            wave = Path(folder) / "audio.w64"
            command = [ffmpeg, "-v", "error", "-nostdin", "-i", f"file:{path}", "-vn", "-c:a", "pcm_f32le", str(wave)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode or done.stderr.strip():
                last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1].rsplit(": ", 1)[-1]
                if not wave.is_file():
                    raise UserError(f"{path}: cannot be read as audio (FFmpeg: {last}); give another file") from error
                raise UserError(f"{path}: FFmpeg cannot read it whole ({last}); convert it again") from error
            yield _read_header(path, wave)
    else:
        yield source


def _read_header(name: Path, path: Path) -> _Source:
    found = parts(path)
    with _open(path, found[0]) as file:
        return _Source(name, path, found, file.channels, file.frames, file.samplerate)


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """Reads forward only where the length is unknown: libsndfile fails to seek there, which every read would do."""

    def seekable(self) -> bool:
        return self.frames < _UNKNOWN and bool(super().seekable())


def _name(path: Path) -> Path | bytes:
    """A path as soundfile opens it: on POSIX, where names need not be text, as bytes."""
    return os.fsencode(path) if os.name == "posix" else path


def _open(path: Path, part: Part) -> _SoundFile:
    if part.is_all_of(path):
        return _SoundFile(_name(path))
    file = open_part(path, part)
    try:
        return _SoundFile(file)
    except BaseException:
        file.close()
        raise


def _decoded(
    source: _Source, offset: float, seconds: float | None, *, warn: bool = True
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Blocks of [samples, channels] and their rate; says what is missing where it is asked to."""
    # Samples, counted as NeMo's AudioSegment.from_file does.
    skip, left = int(offset * source.rate), _UNKNOWN if seconds is None else int(seconds * source.rate)
    for part in source.parts:
        decoded = 0
        try:
            with _open(source.path, part) as file:
                rate, promised = file.samplerate, file.frames
                if len(source.parts) == 1 and file.seekable() and file.format not in _NOT_SOUGHT:
                    decoded = min(skip, promised)
                    file.seek(decoded)
                    skip -= decoded
                while left and len(block := file.read(BLOCK_SECONDS * rate, dtype="float32", always_2d=True)):
                    decoded += len(block)
                    dropped = min(skip, len(block))
                    kept = block[dropped : dropped + left]
                    skip, left = skip - dropped, left - len(kept)
                    if len(kept):
                        yield kept, rate
        except soundfile.LibsndfileError as error:
            where = f"after {decoded / rate:.2f} s " if decoded else ""
            raise UserError(f"{source.name}: is damaged {where}({error}); record or convert it again") from error
        if not left:
            return
        lacks = part.lacks
        if not lacks and promised < _UNKNOWN and decoded < promised - _MISSING * rate:
            lacks = 1 - decoded / promised
        if lacks and warn:
            much = "its end" if math.isnan(lacks) else f"{100 * lacks:.0f} % of what its header promises"
            note(f"warning: {source.name}: {much} is missing; {decoded / rate:.2f} s are there")


def _weights(source: _Source, channel: int | None) -> NDArray[np.float32]:
    """Of each channel in the mix, [channels]. Only a mix is decoded for it: its channels may cancel each other."""
    count, name = source.channels, source.name
    if channel is not None and not 1 <= channel <= count:
        raise UserError(f"--channel {channel}: {name} has {count}; choose one of them")
    if not source.frames and len(source.parts) == 1:
        raise UserError(f"{name}: holds no samples; give a recording")
    if channel is not None or count == 1:
        return _only((channel or 1) - 1, count)
    power, mixed = np.zeros(count), 0.0
    for block, _ in _decoded(source, 0.0, None, warn=False):
        if block.shape[1] != count:
            raise UserError(f"{name}: its parts have {count} and {block.shape[1]} channels; convert them to one form")
        power += np.square(block, dtype=np.float64).sum(axis=0)
        mixed += float(np.square(block.mean(axis=1, dtype=np.float64)).sum())
    loudest = int(power.argmax())
    if mixed < CANCELLED * power[loudest]:
        note(f"warning: {name}: its channels cancel each other; channel {loudest + 1} is taken (--channel chooses)")
        return _only(loudest, count)
    return np.full(count, 1 / count, np.float32)


def _only(index: int, count: int) -> NDArray[np.float32]:
    """Weights that take one of so many channels."""
    weights = np.zeros(count, np.float32)
    weights[index] = 1.0
    return weights


def _resampled(
    source: _Source, weights: NDArray[np.float32], sample_rate: int, offset: float, seconds: float | None
) -> Iterator[Audio]:
    """Mono blocks at the wanted rate, none of them empty."""
    resampler = Resampler(source.rate, sample_rate)
    for block, rate in _decoded(source, offset, seconds):
        if block.shape[1] != len(weights) or rate != source.rate:
            raise UserError(f"{source.name}: its parts differ in rate or channels; convert them to one form")
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
