"""The ``.nemo`` archive: its members, read one by one and never trusted.

NeMo unpacks the whole archive and restores ``model_config.yaml``, ``model_weights.ckpt`` and the files that the
configuration names, by their paths from the archive's root (``nemo.core.connectors.save_restore_connector``). So only
these names count here; whatever would make it doubtful which file is meant is refused.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from export.errors import UserError

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"

_SMALL = 16_000_000
"""Bytes of the largest member that is read into memory; a vocabulary of 13,087 pieces takes half a million."""

_MEMBERS = 10_000
_BLOCK = 1 << 20
"""Bytes of the largest read; tarfile reads extended headers whole, however long they say they are."""

_CHECKED = 16 << 20
"""Bytes of a read while checksums are compared: large ones, because a thread waits for its turn after each."""

_GZIP = b"\x1f\x8b"
"""How a compressed archive begins."""

_GROWTH = 20
"""How often its own size a compressed archive may unpack to; weights shrink by a tenth."""


class _UnusableError(Exception):
    """What the archive holds is no checkpoint's; the text says what, and becomes part of a line."""


@dataclass(frozen=True)
class Archive:
    """What an archive holds.

    Attributes:
        sizes: bytes of every member, by its path from the root.
        small: contents of the members that are small.
    """

    sizes: dict[str, int]
    small: dict[str, bytes]


def read_archive(path: Path) -> Archive:
    """Members of a ``.nemo`` archive (tar, plain or gzipped), without unpacking the weights.

    Raises:
        UserError: no archive, truncated, without configuration or weights, or it holds what no checkpoint does: a
            name twice, paths that lead out, links, devices, more bytes than it should.
    """
    sizes: dict[str, int] = {}
    small: dict[str, bytes] = {}
    with _members(path) as members:
        for name, member, file in members:
            if name in sizes:
                raise _UnusableError(f"holds {name} twice, so it is not clear which one is meant")
            sizes[name] = member.size
            if member.size <= _SMALL and sum(map(len, small.values())) <= 4 * _SMALL:
                content = io.BytesIO()
                shutil.copyfileobj(file, content, _BLOCK)
                small[name] = content.getvalue()
        for wanted, what in ((CONFIG, "no .nemo checkpoint"), (WEIGHTS, "truncated")):
            found = sorted(name for name in sizes if posixpath.basename(name) == wanted)
            if not found:
                raise UserError(
                    f"{path}: holds no {'weights (' + wanted + ')' if wanted == WEIGHTS else wanted}, so it is {what}; "
                    "give a NeMo .nemo file, or download it again"
                )
            if found != [wanted]:
                raise _UnusableError(f"holds {' and '.join(found)}, where NeMo reads {wanted} alone")
    return Archive(sizes, small)


def unpack(path: Path, names: Collection[str], folder: Path) -> None:
    """Write these members of an archive under a folder.

    Raises:
        UserError: see :func:`read_archive`.
        OSError: they cannot be written.
    """
    with _members(path) as members:
        for name, _, file in members:
            if name in names:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as output:
                    shutil.copyfileobj(file, output, _BLOCK)


def weights_place(path: Path) -> tuple[int, int] | None:
    """Offset and bytes of the weights in an archive that is not compressed; None in one that is.

    Raises:
        UserError: see :func:`read_archive`.
    """
    with path.open("rb") as raw:
        if raw.read(2) == _GZIP:
            return None
    with _members(path) as members:
        return next((member.offset_data, member.size) for name, member, _ in members if name == WEIGHTS)


class Part(io.RawIOBase):
    """Bytes ``begin`` to ``begin + size`` of a file, as a file of their own."""

    def __init__(self, file: IO[bytes], begin: int, size: int) -> None:
        super().__init__()
        self._file, self._begin, self._size, self._place = file, begin, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As :meth:`io.RawIOBase.readinto`."""
        self._file.seek(self._begin + self._place)
        left = max(self._size - self._place, 0)
        count: int = self._file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]
        self._place += count
        return count

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """As :meth:`io.IOBase.seek`."""
        self._place = max(position + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence], 0)
        return self._place


def check_weights(path: Path, weights: IO[bytes]) -> None:
    """Compare PyTorch's weights with the checksums that their own zip archive carries; PyTorch does not.

    Args:
        path: the ``.nemo`` file, for errors.
        weights: its ``model_weights.ckpt``.

    Raises:
        UserError: no such archive, more unpacked than packed, or damaged.
    """
    try:
        with zipfile.ZipFile(weights) as archive:
            records = archive.infolist()
            packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            if packed or sum(record.file_size for record in records) > weights.seek(0, io.SEEK_END):
                raise UserError(f"{path}: its {WEIGHTS} is packed as PyTorch does not; do not use this file")
            if not any(record.CRC for record in records):  # torch.serialization.set_crc32_options(False)
                return
            for record in records:
                with archive.open(record) as file:
                    while file.read(_CHECKED):  # compares the checksum at the end
                        pass
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its {WEIGHTS} is damaged ({_reason(error)}); download it again") from error


def is_native(weights: IO[bytes]) -> bool:
    """Whether numbers of PyTorch's weights, whose checksums were compared, are stored in this machine's byte order."""
    with zipfile.ZipFile(weights) as archive:
        # PyTorch finds a record whatever the case of its name.
        orders = [archive.read(each) for each in archive.infolist() if each.filename.lower().endswith("byteorder")]
    return all(order == sys.byteorder.encode() for order in orders)


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]]:
    """Every file of an archive: its path from the root, its header, its content; failures are one line."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            largest = path.stat().st_size * (_GROWTH if packed else 1) + 64_000_000
            source: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            bounded: Any = _Bounded(source, largest)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                yield _files(archive)
    except _UnusableError as error:
        raise UserError(f"{path}: {error}; do not use this file") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable .nemo archive ({_reason(error)}); download it again") from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check who may read it") from error


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    for count, member in enumerate(archive, start=1):
        archive.members = []  # type: ignore[attr-defined]  # keeps memory flat on large archives
        if count > _MEMBERS:
            raise _UnusableError(f"holds more than {_MEMBERS} files")
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "../")) or name == ".." or "\\" in name:
            raise _UnusableError(f"holds {member.name!r}, which leads out of it")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise _UnusableError(f"holds {member.name!r}, which is a link, a device or no plain file")
        if posixpath.basename(name).startswith("._") or name.startswith("__MACOSX/"):
            continue  # a Mac's resource fork
        file = archive.extractfile(member)
        if file is not None:
            yield name, member, file


class _Bounded:
    """What tarfile reads from: no header, and no archive, may be larger than it can honestly be."""

    def __init__(self, file: Any, largest: int) -> None:
        self._file, self._largest = file, largest

    def read(self, size: int) -> bytes:
        """Bytes of the file, as :meth:`io.RawIOBase.read`."""
        if size > 2 * _BLOCK:
            raise _UnusableError(f"has a header of {size:,} bytes")
        data: bytes = self._file.read(size)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """The new position, as :meth:`io.IOBase.seek`."""
        if position > self._largest:
            raise _UnusableError(f"unpacks to more than {self._largest / 1e6:,.0f} MB")
        place: int = self._file.seek(position, whence)
        return place

    def tell(self) -> int:
        """The position."""
        place: int = self._file.tell()
        return place


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
