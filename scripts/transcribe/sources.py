"""What is to be transcribed: files, the audio files of folders, standard input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from export.errors import UserError
from verify.data.layouts import AUDIO_SUFFIXES

STANDARD_INPUT = "-"

SUFFIXES = AUDIO_SUFFIXES | {
    ".wave", ".oga", ".mp2", ".aifc", ".snd",
    ".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".mov", ".wma", ".amr", ".3gp",
}  # fmt: skip
"""What audio files in folders are called: what libsndfile reads, and FFmpeg where it is installed."""


def find_sources(arguments: Sequence[str]) -> list[str]:
    """The recordings that arguments mean, in their order; a folder's own (at any depth) by name.

    Args:
        arguments: paths of files and folders; ``-`` is standard input. Whether a file is there is found out later, so
            that one that is not does not keep others from being transcribed.

    Returns:
        Paths, and :data:`STANDARD_INPUT`.

    Raises:
        UserError: a folder holds no audio, or standard input is named twice.
    """
    if list(arguments).count(STANDARD_INPUT) > 1:
        raise UserError("-: standard input is named twice; it can be read once")
    found: list[str] = []
    for argument in arguments:
        # Not Path's own, which raises where a name is too long.
        if argument == STANDARD_INPUT or not os.path.isdir(argument):
            found.append(argument)
            continue
        files = [str(file) for file in sorted(Path(argument).rglob("*")) if _is_audio(file, Path(argument))]
        if not files:
            raise UserError(f"{argument}: holds no audio files (.wav, .flac, .mp3, …); name the files themselves")
        found += files
    return found


def _is_audio(file: Path, folder: Path) -> bool:
    """By name: an audio suffix, and nothing hidden on the way."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()
