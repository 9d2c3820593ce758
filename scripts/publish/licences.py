"""The licence of the weights: which one is known, and its text."""

from __future__ import annotations

from pathlib import Path

from export.errors import UserError

_TEXTS = Path(__file__).with_name("licenses")

_BY_MODEL = {"nvidia/nemotron-3.5-asr-streaming-0.6b": "openmdw-1.1"}
"""Identifiers as the Hub spells them, of models whose licence their publisher names."""

DEMO = "apache-2.0"
"""That of this toolkit, which the embedded checkpoint belongs to."""


def licence_of(base_model: str | None, kind: str) -> str | None:
    """The Hub's identifier of a checkpoint's licence, or None where it is not known."""
    return DEMO if kind != "model" else _BY_MODEL.get(base_model or "")


def licence_text(identifier: str | None, file: Path | None) -> str | None:
    """The text that lies beside the weights: the user's file, or ours for the identifiers that we have.

    Raises:
        UserError: the file cannot be read.
    """
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--license-file {file}: cannot be read ({error}); give a text file") from error
    ours = _TEXTS / f"{identifier}.txt"
    return ours.read_text(encoding="utf-8") if identifier and ours.is_file() else None
