"""Files that a command writes at its end, checked before its work begins."""

from __future__ import annotations

import os
from pathlib import Path

from export.errors import UserError
from scripts.disk import existing_parent


def check_output(option: str, path: Path | None, *, folder: bool = False) -> None:
    """Refuse a path that could not be written after minutes of work.

    Args:
        option: its name on the command line.
        path: the file, which may exist; None is no file.
        folder: it is to be a folder, which may exist.

    Raises:
        UserError: it names something else, or cannot be made there.
    """
    if path is None:
        return
    if path.is_dir() and not folder:
        raise UserError(f"{option} {path}: is a folder; give a file")
    if path.exists() and folder and not path.is_dir():
        raise UserError(f"{option} {path}: is a file; give a folder")
    place = existing_parent(path if folder else path.absolute().parent)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written there; choose another place")
