"""Audio that the page plays: inside the page up to a limit, else from its file by a relative path."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import soundfile

from export.errors import UserError
from scripts.page.utterances import Utterance
from verify.data.audio import load_audio

RATE = 16_000
"""Hz of embedded audio."""

_TOLERANCE = 0.2  # seconds by which a recording may differ from what its report says, and be the same


@dataclass(frozen=True)
class Player:
    """What stands in an audio element, or why there is none."""

    source: str | None
    note: str = ""


@dataclass
class Sound:
    """Takes utterances one by one, the most severe first.

    What is embedded was decoded, so that nothing but audio gets into the page, whatever file a report names; it is
    one channel of 16 bits at 16 kHz (FLAC), cut to the utterance.

    Attributes:
        page: the file to be written, to which paths are relative; None embeds or names only.
        limit: bytes of the page that embedded audio may take.
        used: bytes taken.
        full: whether a recording did not fit; all after it are played from their files.
    """

    page: Path
    limit: int
    used: int = 0
    full: bool = False
    embedded: int = 0
    linked: int = 0
    missing: int = 0

    def player(self, utterance: Utterance) -> Player:
        """The audio of an utterance."""
        path = Path(utterance.audio_filepath or "")
        if not path.is_absolute() or not os.path.isfile(path):  # pathlib's raises where a folder cannot be entered
            self.missing += 1
            return Player(None, f"recording not found: {utterance.audio_filepath or utterance.audio}")
        if not self.full:
            try:
                data = _flac(utterance, path)
            except UserError as error:
                self.missing += 1
                return Player(None, str(error))
            if self.used + len(data) <= self.limit:
                self.used += len(data)
                self.embedded += 1
                return Player(data)
            self.full = True  # what is less severe need not be decoded to see whether it fits
        self.linked += 1
        part = f"#t={utterance.offset:g},{utterance.offset + utterance.seconds:g}"
        return Player(f"{self._relative(path)}{part}", "from its file")

    def _relative(self, path: Path) -> str:
        """Never with a scheme or a host: a name with a colon begins with a dot."""
        relative = os.path.relpath(path, self.page.absolute().parent)
        return f"./{quote(os.fsencode(relative.replace(os.sep, '/')))}"


def _flac(utterance: Utterance, path: Path) -> str:
    """The utterance as a data URL.

    Raises:
        UserError: it cannot be decoded, or is another recording now.
    """
    signal = load_audio(path, RATE, offset=utterance.offset, seconds=utterance.seconds or None)
    seconds = len(signal) / RATE
    if abs(seconds - utterance.seconds) > _TOLERANCE:
        raise UserError(f"{path}: holds {seconds:.1f} s where {utterance.seconds:.1f} s were compared; it has changed")
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode()}"
