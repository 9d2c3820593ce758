"""Audio that comes through a pipe: raw samples, or a WAV stream whose header may not know how long it is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.errors import UserError
from export.progress import note
from verify.data.audio import Audio, Resampler, audio_problem
from verify.data.containers import UNFINISHED

NAME = "standard input"

_READ_BYTES = 1 << 16  # at most: what is there is taken at once

_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3\x03": "MP3", b"ID3\x04": "MP3", b"RF64": "RF64", b"FORM": "AIFF",
           b".snd": "AU", b"\x1aE\xdf\xa3": "Matroska or WebM"}  # fmt: skip

_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE  # WAVE format tags


class Readable(Protocol):
    """A binary file; unbuffered where audio is live, so that a read gives what is there."""

    def read(self, size: int, /) -> bytes | None:
        """At most so many bytes; none at the end."""
        ...


@dataclass(frozen=True)
class _Form:
    """How samples are written."""

    rate: int
    channels: int
    kind: int = _INTEGERS
    bits: int = 16
    bytes_there: int | None = None  # None where nobody knows

    @property
    def frame(self) -> int:
        """Bytes of a sample of every channel."""
        return self.channels * self.bits // 8


def pcm_blocks(
    file: Readable, sample_rate: int, *, rate: int | None = None, channel: int | None = None
) -> Iterator[Audio]:
    """Samples as they come: signed 16-bit little-endian mono, or what the header of a WAV stream says.

    Args:
        file: see :class:`Readable`.
        sample_rate: wanted rate in Hz.
        rate: of raw samples in Hz; None for the wanted one. A WAV header says its own.
        channel: of a WAV stream, from 1; None averages all.

    Yields:
        Blocks of shape [samples], ±1; none of them empty.

    Raises:
        UserError: there are no samples, or they are no audio that can be taken.
    """
    head = _exactly(file, 4)
    if head in _OTHERS:
        raise UserError(
            f"{NAME}: holds {_OTHERS[head]}; pipe it through `ffmpeg -i - -f s16le -ac 1 -ar {sample_rate} -`"
        )
    if head == b"RIFF":
        form, head = _wav_form(file), b""
        if rate is not None and rate != form.rate:
            raise UserError(f"--rate {rate}: the WAV header on {NAME} says {form.rate}; leave the option out")
    else:
        form = _Form(rate or sample_rate, 1)
    if channel is not None and not 1 <= channel <= form.channels:
        raise UserError(f"--channel {channel}: {NAME} has {form.channels}; choose one of them")
    resampler, empty = Resampler(form.rate, sample_rate), True
    for samples in _samples(file, head, form):
        mono = samples[:, channel - 1] if channel else samples.mean(axis=1, dtype=np.float32)
        problem = audio_problem(mono)
        if problem:
            raise UserError(f"{NAME}: {problem}; check what is piped in")
        block = resampler.more(np.ascontiguousarray(mono))
        if len(block):
            empty = False
            yield block
    block = resampler.rest()
    if len(block):
        yield block
    elif empty:
        raise UserError(f"{NAME}: no audio came; pipe a recorder or a file into it")


def _samples(file: Readable, head: bytes, form: _Form) -> Iterator[NDArray[np.float32]]:
    """Blocks of [samples, channels]; a frame that two reads share is whole in the second."""
    waiting, left = head, form.bytes_there
    while left is None or left > 0:
        data = file.read(_READ_BYTES if left is None else min(left, _READ_BYTES))
        if not data:
            break
        left = None if left is None else left - len(data)
        waiting += data
        whole = len(waiting) // form.frame * form.frame
        if whole:
            yield _floats(waiting[:whole], form)
            waiting = waiting[whole:]
    if form.bytes_there and left:
        share = left / form.bytes_there
        note(f"warning: {NAME}: {100 * share:.0f} % of what its header promises is missing")


def _floats(data: bytes, form: _Form) -> NDArray[np.float32]:
    """Samples of ±1, [samples, channels]."""
    values: NDArray[np.float32]
    if form.kind == _FLOATS:
        values = np.frombuffer(data, f"<f{form.bits // 8}").astype(np.float32)
    elif form.bits == 8:
        values = np.frombuffer(data, np.uint8).astype(np.float32) / np.float32(128) - np.float32(1)
    elif form.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = wide.reshape(-1).view("<i4").astype(np.float32) / np.float32(2**31)
    else:
        values = np.frombuffer(data, f"<i{form.bits // 8}").astype(np.float32) / np.float32(2 ** (form.bits - 1))
    return values.reshape(-1, form.channels)


def _wav_form(file: Readable) -> _Form:
    """Read a WAV stream to the beginning of its samples.

    Raises:
        UserError: it is none that can be read.
    """
    form: _Form | None = None
    if _exactly(file, 8)[4:] != b"WAVE":
        raise UserError(f"{NAME}: begins as a RIFF file that is no WAV; pipe WAV or raw samples")
    while len(head := _exactly(file, 8)) == 8:
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            if form is None:
                break
            known = 0 < length < UNFINISHED
            return _Form(form.rate, form.channels, form.kind, form.bits, length if known else None)
        if length > 1 << 20:
            break
        chunk = _exactly(file, length + length % 2)
        if name == b"fmt " and len(chunk) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
            if kind == _EXTENSIBLE and len(chunk) >= 26:
                kind = struct.unpack("<H", chunk[24:26])[0]
            if not channels or not rate or bits not in {_INTEGERS: (8, 16, 24, 32), _FLOATS: (32, 64)}.get(kind, ()):
                raise UserError(f"{NAME}: is WAV of format {kind} with {bits} bits; pipe 16-bit PCM")
            form = _Form(rate, channels, kind, bits)
    raise UserError(f"{NAME}: its WAV header is damaged; pipe WAV or raw samples")


def _exactly(file: Readable, count: int) -> bytes:
    """So many bytes, or as many as there are."""
    data = b""
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data
