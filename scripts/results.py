"""Results of stages, which a run that is repeated takes again: JSON files with the hash of what was written."""

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
        stored = json.loads(file.read_text(encoding="utf-8"))
        result = stored["result"]
        same = isinstance(result, dict) and stored == _stored(result, key, writes)
        same = same and (writes is None or writes.is_file())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return result if same else None


def write_result(file: Path, result: dict[str, Any], key: str = "", *, writes: Path | None = None) -> None:
    """Store a result with its hash; the file appears only when complete. Arguments as in :func:`read_result`."""
    plain = json.loads(json.dumps(result))  # as it will be read
    write_atomically(file, json.dumps(_stored(plain, key, writes)) + "\n")


def _stored(result: dict[str, Any], key: str, writes: Path | None) -> dict[str, Any]:
    written = file_facts(writes)["sha256"] if writes is not None and writes.is_file() else None
    text = json.dumps([result, key, written], sort_keys=True)  # ASCII: a name may be no UTF-8
    return {"sha256": digest(text), "key": key, "written_sha256": written, "result": result}
