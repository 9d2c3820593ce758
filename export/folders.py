"""Folders and files that appear whole or not at all, and which folders ``--force`` may replace."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.errors import UserError


@dataclass(frozen=True)
class FolderKind:
    """How ``--force`` knows the folders that it may replace: they hold nothing but such files, half of them or all.

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
            if entry.is_dir() or (entry.name != self.index and not self.files.fullmatch(entry.name)):
                return entry.name
        return self.index if [entry.name for entry in entries] == [self.index] else None


@contextmanager
def new_directory(target: Path, *, kind: FolderKind, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the body succeeds.

    Nothing under ``target`` changes before that, and nothing stays behind when the body fails.

    Raises:
        UserError: see :func:`refuse_existing`, which is asked before the body and after it; or it cannot be written.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target, force=force, kind=kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield temporary
        refuse_existing(target, force=force, kind=kind)  # hours later, perhaps
        _take_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(temporary: Path, target: Path) -> None:
    """Rename a finished folder; the one that it replaces goes afterwards, and comes back where that fails."""
    doomed = target.with_name(f".{target.name}.old")
    try:
        temporary.chmod(0o755)
        if not target.exists():
            temporary.rename(target)
            return
        shutil.rmtree(doomed, ignore_errors=True)
        target.rename(doomed)
        try:
            temporary.rename(target)
        except BaseException:
            doomed.rename(target)
            raise
        shutil.rmtree(doomed, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error


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
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another place, or make room") from error
