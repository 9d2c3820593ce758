"""NeMo manifests: one JSON object a line, naming audio, text and language.

A line may mean a part of its file: ``duration`` seconds from ``offset`` on, cut as NeMo's data loader does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE
from verify.data.audio import load_audio

SLACK = 0.1
"""Seconds by which a file may outlast its ``duration`` and be meant whole all the same: manifests round."""


class Utterance(BaseModel):
    """One line of a manifest; keys beyond these are kept and ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)

    audio_filepath: Path  # absolute once read
    text: str = ""  # see read_manifest
    offset: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)  # where it begins in the file, seconds
    duration: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)  # seconds; 0 where the manifest does not say
    target_lang: str = DEFAULT_LANGUAGE  # a key of the model's prompt dictionary

    @field_validator("audio_filepath")
    @classmethod
    def _names_a_file(cls, value: Path) -> Path:
        if not value.name:
            raise ValueError("empty path")
        return value

    @field_validator("offset", "duration", mode="before")
    @classmethod
    def _null_says_nothing(cls, value: object) -> object:
        return 0.0 if value is None else value

    def is_part(self, seconds: float) -> bool:
        """Whether it is a part of its file, which lasts so many seconds, and not all of it."""
        return self.offset > 0.0 or 0.0 < self.duration < seconds - SLACK

    @property
    def cut(self) -> tuple[float, float] | None:
        """Offset and duration in seconds if it is a part of its file, by that file's header; None if it is all of it.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.offset and not self.duration:
            return None
        try:
            seconds = soundfile.info(self.audio_filepath).duration
        except RuntimeError as error:  # libsndfile's
            reason = "cannot be read as audio; give a WAV, FLAC, OGG or MP3 file"
            raise UserError(f"{self.audio_filepath}: {reason}") from error
        return (self.offset, self.duration) if self.is_part(seconds) else None


def load_utterance(utterance: Utterance, sample_rate: int) -> NDArray[np.float32]:
    """The audio of an utterance, [samples], ±1, at ``sample_rate`` Hz: its whole file or the part that it means.

    Raises:
        UserError: the file cannot be used, or ends before the utterance begins.
    """
    return cut_utterance(utterance, load_audio(utterance.audio_filepath, sample_rate), sample_rate)


def cut_utterance(utterance: Utterance, audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """What the utterance means of its file's audio: from ``offset`` to the end of ``duration`` or of the file.

    Samples are counted as NeMo's ``AudioSegment.from_file`` does. Where ``offset`` is 0 and the file lasts no longer
    than ``duration`` and :data:`SLACK`, it is all of it.

    Raises:
        UserError: nothing of the file is left.
    """
    seconds = len(audio) / sample_rate
    if not utterance.is_part(seconds):
        return audio
    first, length = int(utterance.offset * sample_rate), int(utterance.duration * sample_rate)
    part = audio[first : first + length] if utterance.duration else audio[first:]
    if not part.size:
        raise UserError(
            f"{utterance.audio_filepath}: lasts {seconds:.2f} s and holds nothing for offset {utterance.offset:g} and "
            f"duration {utterance.duration:g}; correct its line in the manifest"
        )
    return part.copy()  # not a view that keeps a long file in memory


def read_manifest(path: Path, *, text: bool = True) -> list[Utterance]:
    """Read a manifest; relative audio paths are relative to its folder.

    The audio files themselves are not opened, but they must exist, so that a run of hours does not end on a typo.

    Args:
        path: the file.
        text: refuse lines without ``text``, against which something would be scored; else it is empty there.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line of it cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): U+2028 may stand in a text
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such manifest; give a file of JSON lines") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a file of JSON lines") from error
    utterances = [
        _utterance(line, f"{path}, line {number}", path.parent, text=text)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not utterances:
        raise UserError(f"{path}: holds no utterances; give one JSON object a line")
    return utterances


def _utterance(line: str, where: str, folder: Path, *, text: bool) -> Utterance:
    """One line as an utterance with an absolute audio path."""
    write = 'write {"audio_filepath": "…", "duration": 1.0, "text": "…", "target_lang": "en-US"}'
    try:
        utterance = Utterance.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise UserError(f"{where}: {reason}; {write}") from error
    if text and "text" not in utterance.model_fields_set:
        raise UserError(f"{where}: text: Field required, transcripts are scored against it; {write}")
    audio = (folder / utterance.audio_filepath.expanduser()).resolve()
    if not audio.is_file():
        raise UserError(f"{where}: audio_filepath {utterance.audio_filepath} does not exist; correct the path")
    return utterance.model_copy(update={"audio_filepath": audio})


def default_manifest() -> Path:
    """The evaluation set that travels with the embedded demo checkpoint."""
    from export import demo

    manifest: Path = demo.MANIFEST
    return manifest
