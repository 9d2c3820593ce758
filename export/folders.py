"""Folders and files that appear whole or not at all, and which folders ``--force`` may replace."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from export.errors import UserError
from export.removal import FolderKind, alone_beside, scratch_file, scratch_folder, set_aside, settle


@contextmanager
def new_directory(target: Path, *, kind: FolderKind, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the body succeeds.

    Nothing under ``target`` changes before that, and nothing stays behind when the body fails.

    Raises:
        UserError: see :func:`refuse_existing`, which is asked before the body and after it; or it cannot be written.
    """
    target = Path(os.path.realpath(target))  # where a link leads: a rename would replace the link
    with ExitStack() as stack:
        with _unwritable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with alone_beside(target):
                settle(target, kind)
                refuse_existing(target, force=force, kind=kind)
            temporary = stack.enter_context(scratch_folder(target))
        yield temporary
        with _unwritable(target):
            temporary.chmod(_mode(target, 0o777))
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            with alone_beside(target):
                refuse_existing(target, force=force, kind=kind)  # hours later, perhaps
                _take_place(temporary, target, kind)


@contextmanager
def _unwritable(target: Path) -> Iterator[None]:
    """Say what the system says of a folder as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error


def _take_place(temporary: Path, target: Path, kind: FolderKind) -> None:
    """Rename a finished folder; the one that it replaces goes afterwards, and comes back where that fails."""
    old = set_aside(target)
    if target.exists():
        target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _sync(target.parent)
    settle(target, kind)


def _mode(target: Path, usual: int) -> int:
    """The permissions that an existing target has, and those that the umask leaves to a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0o077)  # there is no way to only read it
    os.umask(umask)
    return usual & ~umask


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk, so that a rename does not come before its content."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(target: Path, *, kind: FolderKind, force: bool) -> None:
    """Raise where ``target`` holds something and ``force`` is not given, or it is not a folder of ours.

    Args:
        target: the folder that is going to be written.
        force: whether a folder of ours may be replaced.
        kind: what ours are; one that holds a single file or folder more is somebody's, and no force replaces it.

    Raises:
        UserError: see above.
    """
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise UserError(f"{target}: exists and is a file; choose another folder")
        if not any(target.iterdir()):
            return
        foreign = kind.foreign(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be read ({error.strerror or error}); choose another folder") from error
    if foreign == kind.index:
        raise UserError(
            f"{target}: already exists and holds nothing but {foreign}, which may be anybody's; "
            "choose another folder, or delete it yourself (--force does not)"
        )
    if foreign is not None:
        raise UserError(
            f"{target}: already exists and holds {foreign}, which is no part of {kind.title}; "
            "choose another folder, or move that away (--force replaces nothing else)"
        )
    if not force:
        raise UserError(f"{target}: already exists; add --force to replace it, or choose another folder")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        target = Path(os.path.realpath(path))  # where a link leads: a rename would replace the link
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_file(target) as (descriptor, temporary):
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(_mode(target, 0o666))
            temporary.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another place, or make room") from error
