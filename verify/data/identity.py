"""Identity of what is transcribed: by the contents of its audio, not by its name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.digest import digest, file_facts
from export.errors import UserError
from verify.data.manifest import Utterance


def manifest_sha256(utterances: Sequence[Utterance]) -> str:
    """Identity of what is transcribed: every audio file's contents, the part meant, and language, in order.

    Texts do not count, and an utterance that is all of its file is the same with and without a duration.
    """
    return digest([_identity(each) for each in utterances])


def utterance_sha256(utterance: Utterance) -> str:
    """Identity of one utterance, as :func:`manifest_sha256` of many."""
    return digest(_identity(utterance))


def _identity(utterance: Utterance) -> list[Any]:
    content = audio_sha256(utterance.audio_filepath)
    try:
        cut = utterance.cut
    except UserError:  # no audio: it will be left out, and is the same file until it is mended
        cut = utterance.offset, utterance.duration
    return [content, utterance.target_lang, *(cut or ())]


def audio_sha256(path: Path) -> str:
    """SHA-256 of a recording, which is read once in a process as long as it stays as it is."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=100_000)
def _sha256(path: Path, *_state: int) -> str:
    """Of a file in this state: a manifest may name a long recording a thousand times, for its parts."""
    return str(file_facts(path)["sha256"])


def require_unchanged(utterances: Sequence[Utterance], identities: Sequence[str]) -> None:
    """Refuse to keep transcripts under the identities of audio that is no longer there.

    Raises:
        UserError: naming the first recording that changed.
    """
    for utterance, identity in zip(utterances, identities, strict=True):
        if not utterance.audio_filepath.is_file() or utterance_sha256(utterance) != identity:
            raise UserError(f"{utterance.audio_filepath}: changed while it was transcribed; run again when it is whole")
