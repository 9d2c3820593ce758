"""Results of stages, which a run that is repeated takes again: JSON files with the hash of what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from export.digest import file_facts
from export.folders import write_atomically


def read_result(file: Path) -> dict[str, Any] | None:
    """A stored result; None where there is none, or it is no longer what was written."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        result = stored["result"]
        return result if isinstance(result, dict) and stored["sha256"] == _sha256(result) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Store a result with its hash; the file appears only when complete."""
    plain = json.loads(json.dumps(result))  # as it will be read
    write_atomically(file, json.dumps({"sha256": _sha256(plain), "result": plain}) + "\n")


def written_sha256(file: Path | None) -> str | None:
    """Of a file that a stage writes besides its result; None where there is none."""
    return str(file_facts(file)["sha256"]) if file is not None and file.is_file() else None


def _sha256(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
