"""Figures that were measured and stay in a file for the documents' tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from export.json_files import read_json_as

_Kind = TypeVar("_Kind", bound=BaseModel)


def read_figures(file: Path, kind: type[dict[str, _Kind]]) -> dict[str, Any]:
    """Stored figures by the name of what was measured; none where there is no file.

    Args:
        file: what :func:`export.folders.write_atomically` wrote.
        kind: what is known of each by its name; keys that are not known stay as they are.

    Raises:
        UserError: the file holds something else.
    """
    if not file.exists():
        return {}
    remedy = "correct it there, or move the file away and measure again"
    return {name: each.model_dump(exclude_unset=True) for name, each in read_json_as(kind, file, remedy).items()}
