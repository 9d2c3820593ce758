"""The one place where files and folders are removed: what this toolkit wrote, inside the folder that the user named.

What is half-written has a name of its own and is locked while its writer lives, so that a later run knows what a killed
one left. What is replaced keeps a name of its own until the new folder stands, and comes back after a kill between.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.errors import UserError
from export.locks import try_lock
from export.progress import note

TEMPORARY, REPLACED = ".nemotron-ov.tmp", ".nemotron-ov.old"
"""How the names of what is half-written, and of what is being replaced, end; both begin with a dot."""


@dataclass(frozen=True)
class FolderKind:
    """How we know the folders that we may replace: they hold nothing but such files, half of them or all.

    Attributes:
        title: one such folder, in errors.
        index: the file that describes the rest. Others have files of that name too, so alone it proves nothing.
        files: what the other files are called.
    """

    title: str
    index: str
    files: re.Pattern[str]

    def foreign(self, folder: Path) -> str | None:
        """The first file or folder in ``folder`` by which it is of another kind, or None."""
        entries = sorted(folder.iterdir())
        for entry in entries:
            ours = entry.name == self.index or self.files.fullmatch(entry.name)
            if entry.is_dir() or not ours:
                return entry.name
        return self.index if [entry.name for entry in entries] == [self.index] else None


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A locked temporary folder beside a path, for what will take its name; gone afterwards unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """
    with _scratch(beside, lambda **place: (-1, tempfile.mkdtemp(**place))) as (_, folder):
        yield folder


@contextmanager
def scratch_file(beside: Path) -> Iterator[tuple[int, Path]]:
    """A locked temporary file's descriptor and path, as :func:`scratch_folder`."""
    with _scratch(beside, tempfile.mkstemp) as made:
        yield made


@contextmanager
def _scratch(beside: Path, make: Callable[..., tuple[int, str]]) -> Iterator[tuple[int, Path]]:
    """What ``make`` makes under a temporary name, locked: its open descriptor, −1 for none, and its path.

    What a killed run left of ``beside`` is cleared first.
    """
    clear_leftovers(beside.parent, beside.name)
    while True:
        descriptor, name = make(prefix=f".{beside.name}.", suffix=TEMPORARY, dir=beside.parent)
        path = Path(name)
        with _lock(path) as ours:
            if ours is False:  # another run took it for a leftover before it was locked
                if descriptor >= 0:
                    os.close(descriptor)
                continue
            try:
                yield descriptor, path
            finally:
                _remove(path)
            return


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed runs left half-written in a folder; what a living run holds, and all else, stays.

    Args:
        folder: where to look, not below it; it need not exist.
        name: only what would have become this; None for everything.
    """
    what = ".+" if name is None else re.escape(name)
    pattern = re.compile(rf"\.{what}\.[a-z0-9_]{{8}}{re.escape(TEMPORARY)}")
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not pattern.fullmatch(entry.name) or entry.is_symlink():
            continue
        with _lock(entry) as ours:
            if ours:
                _remove(entry)


@contextmanager
def alone_beside(target: Path) -> Iterator[None]:
    """While one process looks at a name and gives it to another folder, no other does so beside it.

    Raises:
        UserError: another process was at it for two minutes.
        OSError: the folder that holds the name cannot be opened.
    """
    if os.name != "posix" or target.parent.name.endswith(TEMPORARY):  # that one is nobody else's
        yield
        return
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        deadline = time.monotonic() + 120
        while try_lock(descriptor) is False:
            if time.monotonic() > deadline:
                raise UserError(f"{target}: another process is replacing a folder beside it; try again when it is done")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def set_aside(target: Path) -> Path:
    """Where a folder lies while another takes its place."""
    return target.with_name(f".{target.name}{REPLACED}")


def settle(target: Path, kind: FolderKind) -> None:
    """Finish or undo a replacement that was killed: the old folder comes back where no new one took its place.

    Raises:
        UserError: what was set aside holds a file that is not ours.
        OSError: it cannot be read or moved.
    """
    old = set_aside(target)
    if not old.is_dir() or old.is_symlink():
        return
    if not target.exists():
        old.rename(target)
        note(f"{target}: is back; a run that was to replace it was stopped")
        return
    foreign = kind.foreign(old)
    if foreign is not None:
        raise UserError(f"{old}: was replaced by {target} and holds {foreign}, which is not ours; move it away")
    shutil.rmtree(old)


def check_removable(folder: Path, kind: FolderKind, inside: Path) -> None:
    """Refuse to remove what we did not write, or what lies elsewhere; a folder that is not there is no offence.

    Raises:
        UserError: naming what is in the way.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or folder.resolve().parent != inside.resolve():
        raise UserError(f"{folder}: is a link or lies outside {inside}; remove it yourself")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, where {kind.title} is expected; move it away")
    foreign = kind.foreign(folder)
    if foreign is not None:
        raise UserError(f"{folder}: holds {foreign}, which is no part of {kind.title}; move that away")


def remove_folder(folder: Path, kind: FolderKind, inside: Path) -> None:
    """Remove a folder of this kind.

    Raises:
        UserError: see :func:`check_removable`; nothing was removed.
    """
    check_removable(folder, kind, inside)
    shutil.rmtree(folder, ignore_errors=True)


def remove_files(folder: Path, names: Iterable[str] | re.Pattern[str]) -> None:
    """Remove these files of a folder, then the folder where nothing else is in it; links and folders stay."""
    if folder.is_symlink() or not folder.is_dir():
        return
    wanted = names if isinstance(names, re.Pattern) else re.compile("|".join(map(re.escape, names)))
    for entry in sorted(folder.iterdir()):
        if wanted.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
            entry.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _lock(path: Path) -> Iterator[bool | None]:
    """Hold a file or folder, so that no other run takes it for a leftover.

    Yields:
        True while it is ours; False where another process holds it or it is gone; None where nothing can be held, where
        nothing is cleared either.
    """
    if os.name != "posix":
        yield None
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    _HELD.add(descriptor)
    try:
        ours = try_lock(descriptor)
        if ours is None:
            note(f"{path.parent}: its file system knows no locks; what killed runs left half-written there stays")
        yield ours if ours is None else ours and path.exists()
    finally:
        if descriptor in _HELD:  # not in a fork
            _HELD.discard(descriptor)
            os.close(descriptor)


_HELD: set[int] = set()
"""Open descriptors of what is locked."""


def _let_go() -> None:
    """In a forked child, which a library may start and which may outlive us: it holds nothing of ours."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
