"""What a recording's container says of its length, and where one container in a file ends and the next begins.

libsndfile reads the first container of a file and believes its header: files that were joined with ``cat``, and those
of a recorder or a copy that was stopped, give too little audio there without a word.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

Bytes = mmap.mmap

UNFINISHED = 0x7FFF_0000
"""WAV sizes from here on are what recorders write before they know better."""

_WINDOW = 1 << 24
"""Bytes of a mapped file that are looked through at a time: pages that were read count as this process's memory."""

_BEGINS, _ENDS = 2, 4  # flags of an Ogg page: first or last of its stream

_MPEG_RATES = (44100, 48000, 32000)
_MPEG1_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


@dataclass(frozen=True)
class Part:
    """One container of a file.

    Attributes:
        first: its first byte.
        last: the byte after its last one.
        lacks: share of its audio that its header promises and the file does not hold.
        patches: bytes to be read in place of the file's, by their place in it: a length that was never filled in.
    """

    first: int
    last: int
    lacks: float = 0.0
    patches: tuple[tuple[int, bytes], ...] = ()

    def is_all_of(self, path: Path) -> bool:
        """Whether the file can be read as it is."""
        return not self.patches and self.first == 0 and self.last == path.stat().st_size


def parts(path: Path) -> list[Part]:
    """The containers of a file, in their order; one where the format is not WAV, MP3, Ogg or FLAC.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if not size:
        return [Part(0, 0)]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return list(_wav_parts(data))
        if data[:4] == b"OggS":
            return list(_ogg_parts(data))
        if data[:4] == b"fLaC":
            return _split(_flac_starts(data), size)
        if data[:3] == b"ID3" or _mpeg_frame(data, 0):
            return _split(_mp3_starts(data), size)
        return [Part(0, size)]


def open_part(path: Path, part: Part) -> io.BufferedReader:
    """A part as a file of its own."""
    return io.BufferedReader(_Section(path, part))


class _Section(io.RawIOBase):
    """Bytes of a file from one place to another."""

    def __init__(self, path: Path, part: Part) -> None:
        self._file = path.open("rb", buffering=0)
        self._first, self._size, self._place = part.first, part.last - part.first, 0
        self._patches = [(place - part.first, patch) for place, patch in part.patches]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._first + self._place)
        data = bytearray(self._file.read(max(0, min(len(buffer), self._size - self._place))))
        for place, patch in self._patches:
            for index, byte in enumerate(patch, place - self._place):
                if 0 <= index < len(data):
                    data[index] = byte
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _let_go(data: Bytes) -> None:
    """Give the pages of a mapped file back; they are read again where they are needed."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        data.madvise(mmap.MADV_DONTNEED)


def _split(starts: list[int], size: int) -> list[Part]:
    return [Part(first, last) for first, last in zip(starts, [*starts[1:], size], strict=True)]


def _wav_parts(data: Bytes) -> Iterator[Part]:
    """RIFF WAVE after RIFF WAVE, by their chunks."""
    first, end = 0, len(data)
    while first < end:
        place, part = first + 12, Part(first, end)
        while place + 8 <= end:
            name, length = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
            if name == b"RIFF" and data[place + 8 : place + 12] == b"WAVE":
                part = replace(part, last=place)
                break
            there = end - place - 8
            unfinished = length == 0 or length >= UNFINISHED
            if name == b"data" and there and (unfinished or length > there):
                sizes = [
                    (field, struct.pack("<I", min(end - field - 4, UNFINISHED))) for field in (first + 4, place + 4)
                ]
                part = replace(part, lacks=0.0 if unfinished else 1 - there / length, patches=tuple(sizes))
                break
            place += 8 + length + length % 2
        yield part
        first = part.last


def _ogg_parts(data: Bytes) -> Iterator[Part]:
    """Chained streams: a page that begins one, after a page that does not, begins another part."""
    place = first = page = 0
    begun, window = False, _WINDOW
    while data[place : place + 4] == b"OggS" and place + 27 <= len(data):
        segments = data[place + 26]
        after = place + 27 + segments + sum(data[place + 27 : place + 27 + segments])
        if after > len(data):
            break
        begins = bool(data[place + 5] & _BEGINS)
        if begins and begun:
            yield Part(first, place)
            first = place
        begun, page, place = not begins, place, after
        if place > window:
            window = place + _WINDOW
            _let_go(data)
    yield Part(first, len(data), lacks=0.0 if data[page + 5] & _ENDS else float("nan"))


def _flac_starts(data: Bytes) -> list[int]:
    """Where a stream marker stands before a STREAMINFO block of its fixed length."""
    starts, place, end = [0], 4, len(data)
    while place < end:
        window = place + _WINDOW
        found = data.find(b"fLaC", place, window + 3)
        if found < 0:
            place = window
            _let_go(data)
            continue
        if data[found + 4 : found + 5] in (b"\x00", b"\x80") and data[found + 5 : found + 8] == b"\x00\x00\x22":
            starts.append(found)
        place = found + 4
    return starts


def _mp3_starts(data: Bytes) -> list[int]:
    """Where an MPEG frame holds an encoder's header of what follows (Xing's, in LAME's form or not; VBRI's)."""
    starts, place, end, tag = [0], 0, len(data), None
    window = _WINDOW
    while place < end - 4:
        if place > window:
            window = place + _WINDOW
            _let_go(data)
        if data[place : place + 3] == b"ID3":  # its size in four bytes of seven bits
            tag = place
            size = sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(data[place + 6 : place + 10]))
            place += 10 + size
            continue
        if data[place : place + 3] == b"TAG":
            place += 128
            continue
        length = _mpeg_frame(data, place)
        if not length:
            place = data.find(b"\xff", place + 1)
            if place < 0:
                break
            continue
        head = data[place : place + 48]
        if (b"Xing" in head or b"Info" in head or b"VBRI" in head) and (begin := place if tag is None else tag) > 0:
            starts.append(begin)
        tag = None
        place += length
    return starts


def _mpeg_frame(data: Bytes, place: int) -> int:
    """Bytes of the layer III frame that begins at ``place``; 0 where none does."""
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    mpeg1 = version == 3
    kbits = (_MPEG1_KBITS if mpeg1 else _MPEG2_KBITS)[bits]
    hertz = _MPEG_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if mpeg1 else 72) * kbits * 1000 // hertz + (head[2] >> 1 & 1)
