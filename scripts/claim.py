"""One run at a time in a folder: made where it is missing, locked, and gone again where nothing came of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import UserError
from export.locks import try_lock
from export.progress import note
from export.removal import remove_files


@contextmanager
def claimed_folder(folder: Path, verb: str, option: str, own: Collection[str] = ()) -> Iterator[int]:
    """Hold a folder for one run; gives the lock's file descriptor.

    Args:
        folder: made if it is missing, and removed again if nothing but the lock and ``own`` files was left in it.
        verb: whose run it is; names the lock file.
        option: by which the user can choose another folder.
        own: names of bookkeeping files.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    name = f".{verb}.lock"
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another {option}") from error
    try:
        locked = try_lock(lock)
        if locked is False:
            raise UserError(f"{folder}: another {verb} is at work here; wait for it or stop it")
        if locked is None:
            note(f"warning: {folder}: its file system knows no locks; start no second {verb} here")
        yield lock
    finally:
        os.close(lock)
        if created and {file.name for file in folder.iterdir()} <= {name, *own}:
            remove_files(folder, {name, *own})
