"""Audio files as blocks of raw samples: what libsndfile reads, or FFmpeg where it is installed.

What is found out about a file is kept while the file stays as it is, so that a manifest of many parts of one recording
reads that recording once.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from export.digest import FileState, file_state
from export.errors import UserError
from export.progress import note
from export.removal import scratch_folder
from verify.data.containers import Part, open_part, parts

BLOCK_SECONDS = 1

UNKNOWN = 1 << 62
"""libsndfile's frames where a header does not say how many."""

COPIES = 1 << 30
"""Bytes of decoded copies in TMPDIR, at most, where one alone is not larger; the oldest go."""

_NOT_SOUGHT = {"MP3", "MPEG"}
"""Formats in which a place is found by decoding up to it: sought, an MP3's samples were off by up to 0.06."""

_MISSING = 0.1  # seconds by which a decoder may stay below a header


@dataclass(frozen=True)
class Source:
    """A recording that libsndfile reads; channels, frames and rate are its first part's, by the header.

    Attributes:
        name: the user's file, for errors and warnings.
        path: what is read, the file or a copy of it.
        identity: of the user's file; another after a change.
        is_sought: whether a place in it can be sought.
    """

    name: Path
    path: Path
    identity: FileState
    parts: tuple[Part, ...]
    channels: int
    frames: int
    rate: int
    is_sought: bool

    @property
    def seconds(self) -> float | None:
        """How long it is by its header; None where the header does not say, or it has several parts."""
        return self.frames / self.rate if len(self.parts) == 1 and self.frames < UNKNOWN else None

    def require_form(self, block: NDArray[np.float32], rate: int) -> None:
        """Refuse a block [samples, channels] whose channels or rate in Hz are not the first part's.

        Raises:
            UserError: naming the file.
        """
        if block.shape[1] != self.channels or rate != self.rate:
            raise UserError(f"{self.name}: its parts differ in rate or channels; convert them to one form")


def open_source(path: Path) -> Source:
    """The file, or what FFmpeg makes of it where libsndfile cannot read it.

    Raises:
        UserError: the file is missing or no audio.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; check the path")
    identity = file_state(path)
    try:
        return _header(path, path, identity)
    except (soundfile.LibsndfileError, TypeError, OSError) as error:  # TypeError: what is called .raw
        reason = str(error).strip().rstrip(".").rsplit(": ", 1)[-1]
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None or isinstance(error, OSError):
            remedy = "give a WAV, FLAC, OGG or MP3 file" + ("" if ffmpeg else ", or install FFmpeg for others")
            raise UserError(f"{path}: cannot be read as audio ({reason}); {remedy}") from error
    return _header(path, _COPIES.of((path, *identity), partial(_convert, ffmpeg, path)), identity)


def decoded(
    source: Source, offset: float = 0.0, seconds: float | None = None, *, warn: bool = True
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Blocks of [samples, channels] and their rate.

    Args:
        source: see :func:`open_source`.
        offset: seconds to leave out at the beginning.
        seconds: how many to read at most; None for all.
        warn: say on stderr what is missing.

    Raises:
        UserError: the file is damaged.
    """
    if offset and not source.is_sought and _asked_again(source):
        source = _header(source.name, _COPIES.of((source.path, *source.identity), partial(_copy, source)), (0,))
    # Samples, counted as NeMo's AudioSegment.from_file does.
    skip, left = int(offset * source.rate), UNKNOWN if seconds is None else int(seconds * source.rate)
    for part in source.parts:
        begun = 0
        try:
            with _open(source.path, part) as file:
                rate, promised = file.samplerate, file.frames
                if source.is_sought:
                    begun = min(skip, promised)
                    file.seek(begun)
                    skip -= begun
                while left:
                    block = file.read(min(BLOCK_SECONDS * rate, skip + left), dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    begun += len(block)
                    dropped = min(skip, len(block))
                    kept = block[dropped : dropped + left]
                    skip, left = skip - dropped, left - len(kept)
                    if len(kept):
                        yield kept, rate
        except soundfile.LibsndfileError as error:
            where = f"after {begun / rate:.2f} s " if begun else ""
            raise UserError(f"{source.name}: is damaged {where}({error}); record or convert it again") from error
        if not left:
            return
        lacks = part.lacks
        if not lacks and promised < UNKNOWN and begun < promised - _MISSING * rate:
            lacks = 1 - begun / promised
        if lacks and warn:
            much = "its end" if math.isnan(lacks) else f"{100 * lacks:.0f} % of what its header promises"
            note(f"warning: {source.name}: {much} is missing; {begun / rate:.2f} s are there")


def header_seconds(path: Path) -> float | None:
    """How long a recording says it is, for a progress bar; None where it does not say, or is none."""
    if not os.path.isfile(path):  # a pipe would wait for who writes it
        return None
    try:
        with _SoundFile(_name(path)) as file:
            return file.frames / file.samplerate if file.frames < UNKNOWN else None
    except (soundfile.LibsndfileError, TypeError, OSError):
        return None


@lru_cache(maxsize=256)
def _header(name: Path, path: Path, identity: FileState) -> Source:
    with _COPIES.there(path):
        found = tuple(parts(path))
        file = _open(path, found[0])
    with file:
        is_sought = len(found) == 1 and file.seekable() and file.format not in _NOT_SOUGHT
        return Source(name, path, identity, found, file.channels, file.frames, file.samplerate, is_sought)


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """Reads forward only where the length is unknown: libsndfile fails to seek there, which every read would do."""

    def seekable(self) -> bool:
        return self.frames < UNKNOWN and bool(super().seekable())


def _name(path: Path) -> Path | bytes:
    """A path as soundfile opens it: on POSIX, where names need not be text, as bytes."""
    return os.fsencode(path) if os.name == "posix" else path


def _open(path: Path, part: Part) -> _SoundFile:
    """A part of a file, or of a copy, which is made again where it has gone; once open, a copy may go."""
    with _COPIES.there(path):
        return _opened(path, part)


def _opened(path: Path, part: Part) -> _SoundFile:
    if part.is_all_of(path):
        return _SoundFile(_name(path))
    file = open_part(path, part)
    try:
        return _SoundFile(file)
    except BaseException:
        file.close()
        raise


_ASKED: Counter[Source] = Counter()


def _asked_again(source: Source) -> bool:
    """Whether a part of it was wanted before: the first is decoded up to, which needs no room in TMPDIR."""
    _ASKED[source] += 1
    return _ASKED[source] > 1


class _Copies:
    """Recordings decoded once, as files of float samples in which any place can be sought."""

    def __init__(self) -> None:
        self._lock, self._stack = threading.RLock(), ExitStack()
        self._files: OrderedDict[Path, None] = OrderedDict()  # that are there, the last one used at the end
        self._paths: dict[object, Path] = {}
        self._makers: dict[Path, Callable[[Path], None]] = {}
        self._folder: Path | None = None
        self._numbers = itertools.count()

    def of(self, key: object, make: Callable[[Path], None]) -> Path:
        """The path of a copy, which ``make`` writes when it is opened; gone when the process ends."""
        with self._lock:
            if key not in self._paths:
                path = self._paths[key] = self._new_folder() / f"{next(self._numbers)}.w64"
                self._makers[path] = make
            return self._paths[key]

    @contextmanager
    def there(self, path: Path) -> Iterator[None]:
        """While this lasts, a path that is a copy's is written; another path is none of ours."""
        make = self._makers.get(path)
        if make is None:
            yield
            return
        with self._lock:
            if path not in self._files:
                make(path)
                self._files[path] = None
            self._files.move_to_end(path)
            while len(self._files) > 1 and sum(file.stat().st_size for file in self._files) > COPIES:
                self._files.popitem(last=False)[0].unlink()
            yield

    def _new_folder(self) -> Path:
        if self._folder is None:
            self._folder = self._stack.enter_context(scratch_folder(Path(tempfile.gettempdir()) / "nemotron-ov-audio"))
            atexit.register(self._close, os.getpid())
        return self._folder

    def _close(self, process: int) -> None:
        if os.getpid() == process:  # a fork reads its parent's
            self._stack.close()


_COPIES = _Copies()


def _copy(source: Source, target: Path) -> None:
    """All of a recording, its channels as they are."""
    try:
        with soundfile.SoundFile(target, "w", source.rate, source.channels, "FLOAT", format="W64") as file:
            for block, rate in decoded(source):
                source.require_form(block, rate)
                file.write(block)
    except (soundfile.LibsndfileError, AssertionError, OSError) as error:  # AssertionError: of soundfile, disk full
        target.unlink(missing_ok=True)
        needs = source.frames * source.channels * 4 / 1e6 if source.seconds else 0.0
        much = f"{needs:,.0f} MB" if needs else "a decoded copy"
        raise UserError(
            f"{target.parent.parent}: has no room for {much} of {source.name}, of which several parts are read; "
            "make room, or set TMPDIR to another folder"
        ) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _convert(ffmpeg: str, path: Path, target: Path) -> None:
    """All of a recording by FFmpeg."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", f"file:{path}", "-vn", "-c:a", "pcm_f32le", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode or done.stderr.strip():
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1].rsplit(": ", 1)[-1]
        made = target.is_file()
        target.unlink(missing_ok=True)
        if not made:
            raise UserError(f"{path}: cannot be read as audio (FFmpeg: {last}); give another file")
        raise UserError(f"{path}: FFmpeg cannot read it whole ({last}); convert it again")
