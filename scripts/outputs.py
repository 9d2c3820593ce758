"""Files that a command writes at its end, checked before its work begins."""

from __future__ import annotations

import json
import os
from pathlib import Path

from export.errors import UserError
from scripts.disk import existing_parent

VERIFY_REPORT = frozenset({"rows", "target", "reference", "limits"})
BENCH_REPORT = frozenset({"builds", "repeats", "baseline"})
REGENERATE_REPORT = frozenset({"folders", "notes", "checkpoint"})
SWEEP_REPORT = frozenset({"rows", "failed", "text_scored"})
"""Keys by which we know what a command of ours wrote."""

PICTURE_MARK = "nemotron-ov bench"
"""Who made a picture of ours."""

PAGE_MARK = '<meta name="generator" content="nemotron-ov">'
"""What a page of ours has in its head."""


def check_output(
    option: str, path: Path | None, *, folder: bool = False, picture: bool = False, ours: frozenset[str] = VERIFY_REPORT
) -> None:
    """Refuse a path that could not be written after minutes of work.

    Args:
        option: its name on the command line.
        path: the file, in whose place only what the command writes may be: a report of ours. None is no file.
        folder: it is to be a folder, which may exist.
        picture: it is to be a picture, not a report.
        ours: keys of the report that the command writes.

    Raises:
        UserError: it names something else, or cannot be made there.
    """
    if path is None:
        return
    if path.is_dir() and not folder:
        raise UserError(f"{option} {path}: is a folder; give a file")
    if path.exists() and not folder and not path.is_file():
        raise UserError(f"{option} {path}: is no regular file; give a file, or leave the option out")
    if path.exists() and not folder and not picture and not _is_report(path, ours):
        raise UserError(f"{option} {path}: exists and is no such report of ours; choose another file, or move it away")
    if path.exists() and folder and not path.is_dir():
        raise UserError(f"{option} {path}: is a file; give a folder")
    place = existing_parent(path if folder else path.absolute().parent)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written there; choose another place")


def check_picture(option: str, path: Path | None) -> None:
    """As :func:`check_output`, of a picture: only a picture of ours may be replaced.

    Raises:
        UserError: see there.
    """
    check_output(option, path, picture=True)
    if path is not None and path.exists() and path.stat().st_size and PICTURE_MARK.encode() not in path.read_bytes():
        raise UserError(f"{option} {path}: exists and is no picture of ours; choose another file, or move it away")


def picture_metadata(path: Path) -> dict[str, str]:
    """What Matplotlib writes into a picture, by which :func:`check_picture` knows it."""
    return {"Software" if path.suffix.lower() == ".png" else "Creator": PICTURE_MARK}


def check_page(option: str, path: Path | None) -> None:
    """As :func:`check_output`, of a page: only a page of ours may be replaced.

    Raises:
        UserError: see there.
    """
    check_output(option, path, picture=True)
    if path is not None and path.exists() and not is_page(path):
        raise UserError(f"{option} {path}: exists and is no page of ours; choose another file, or move it away")


def is_page(path: Path) -> bool:
    """Whether a file is empty or a page that we wrote."""
    try:
        with path.open("rb") as file:
            head = file.read(2000)
    except OSError:
        return False
    return not head or PAGE_MARK.encode() in head


def _is_report(path: Path, keys: frozenset[str]) -> bool:
    """Whether a file is empty or a report with these keys."""
    try:
        with path.open("rb") as file:
            head = file.read(1)
            content = json.loads(head + file.read()) if head == b"{" else None
    except (OSError, ValueError, RecursionError):
        return False
    return not head or (isinstance(content, dict) and keys <= content.keys())
