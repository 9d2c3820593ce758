"""Hashes: of files, of values, and of the code that results depend on."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""


_BLOCK = 1 << 22
"""Bytes of a read: large, because a thread that hashes waits for its turn after each."""


def file_facts(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": files_sha256([path])}


FileState = tuple[int, ...]
"""What the system says of a file that changes when somebody writes or replaces it."""


def file_state(path: str | os.PathLike[str]) -> FileState:
    """State of a file: which one it is, its size, and when it was last written."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def files_sha256(paths: Iterable[Path]) -> str:
    """SHA-256 of files one after another; of one file, its own."""
    hashed, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                hashed.update(block[:count])
    return hashed.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@functools.cache
def code_sha256(*patterns: str, but: str = "", root: Path = ROOT) -> str:
    """Identity of source files: of their paths and contents.

    Args:
        patterns: globs below ``root``; each file counts once.
        but: name of files that do not count.
        root: the folder that holds the packages.
    """
    files = sorted({file for pattern in patterns for file in root.glob(pattern) if file.name != but})
    return digest([[file.relative_to(root).as_posix(), file_facts(file)["sha256"]] for file in files])
