"""Stored results, which a run that is repeated takes again: JSON with the hash of what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.digest import digest, file_facts
from export.folders import write_atomically


def read_result(file: Path, key: str = "", *, writes: Path | None = None) -> dict[str, Any] | None:
    """A stored result; None where there is none for these inputs, or something is no longer as it was written.

    Args:
        file: where it is stored.
        key: identity of the inputs, where the file's name does not say it.
        writes: a file that the stage wrote besides.
    """
    try:
        return unseal(file.read_bytes(), key, writes=writes)
    except OSError:
        return None


def write_result(file: Path, result: dict[str, Any], key: str = "", *, writes: Path | None = None) -> None:
    """Store a result with its hash; the file appears only when complete. Arguments as in :func:`read_result`."""
    write_atomically(file, seal(result, key, writes=writes) + "\n")


def seal(result: dict[str, Any], key: str = "", *, writes: Path | None = None) -> str:
    """A result with its hash, one line of JSON. Arguments as in :func:`read_result`."""
    plain = json.loads(json.dumps(result))  # as it will be read
    return json.dumps(_sealed(plain, key, writes))


def unseal(text: bytes, key: str = "", *, writes: Path | None = None) -> dict[str, Any] | None:
    """The result that :func:`seal` made a text of; None where something is no longer as it was written.

    Raises:
        OSError: what the stage wrote besides cannot be read.
    """
    try:
        stored = json.loads(text)
        result = stored["result"]
        same = isinstance(result, dict) and stored == _sealed(result, key, writes)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return result if same and (writes is None or writes.is_file()) else None


def _sealed(result: dict[str, Any], key: str, writes: Path | None) -> dict[str, Any]:
    written = file_facts(writes)["sha256"] if writes is not None and writes.is_file() else None
    text = json.dumps([result, key, written], sort_keys=True)  # ASCII: a name may be no UTF-8
    return {"sha256": digest(text), "key": key, "written_sha256": written, "result": result}
