"""NeMo manifests: one JSON object a line, naming audio, text and language.

A line may mean a part of its file: ``duration`` seconds from ``offset`` on, cut as NeMo's data loader does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE, language_key
from verify.data.audio import audio_seconds, load_audio

SLACK = 0.1
"""Seconds by which a file may outlast its ``duration`` and be meant whole all the same: manifests round."""

_LONGEST = 1e9
"""Seconds of the longest file: samples can be counted to there at any rate."""

_SPELLINGS = {
    "audio_filepath": ("audio_filename",),
    "text": ("text_filepath", "normalized_text"),
    "target_lang": ("lang",),
}
"""Other keys that NeMo reads, by what they stand for and in its order; the first one wins, as there."""


class Utterance(BaseModel):
    """One line of a manifest; keys beyond these are kept and ignored. ``null`` is as good as a key that is missing.

    ``audio_filename`` stands for ``audio_filepath``, ``text_filepath`` (of a file with it) and ``normalized_text`` for
    ``text``, ``lang`` for ``target_lang``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    audio_filepath: Path  # absolute once read
    text: str = ""  # see read_manifest
    offset: float = Field(default=0.0, ge=0.0, le=_LONGEST)  # where it begins in the file, seconds
    duration: float = Field(default=0.0, ge=0.0, le=_LONGEST)  # seconds; 0 where the manifest does not say
    target_lang: str = DEFAULT_LANGUAGE  # a key of the model's prompt dictionary
    sentence_id: str | int | None = None  # recordings that share one are resampled together

    @field_validator("audio_filepath")
    @classmethod
    def _names_a_file(cls, value: Path) -> Path:
        if not value.name or "\0" in str(value):
            raise ValueError("no name of a file")
        return value

    @model_validator(mode="before")
    @classmethod
    def _read_other_spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {key: value for key, value in data.items() if value is not None}
        for name, others in _SPELLINGS.items():
            given = [other for other in others if other in known]
            if name == "target_lang" and name in known and given and known[name] != known[given[0]]:
                raise ValueError(f"{name} {known[name]!r} and {given[0]} {known[given[0]]!r} differ")
            if name not in known and given and given[0] != "text_filepath":
                known[name] = known[given[0]]
        return known

    @property
    def place(self) -> str:
        """The file, and where the utterance begins in it: other parts of the file have places of their own."""
        return f"{self.audio_filepath} from {self.offset} s" if self.offset else str(self.audio_filepath)

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
        return (self.offset, self.duration) if self.is_part(audio_seconds(self.audio_filepath)) else None


def load_utterance(utterance: Utterance, sample_rate: int) -> NDArray[np.float32]:
    """The audio of an utterance, [samples], ±1, at ``sample_rate`` Hz: its whole file or the part that it means.

    Of a long file only the part is decoded, its samples counted in the file as NeMo's ``AudioSegment.from_file`` does.

    Raises:
        UserError: the file cannot be used, or ends before the utterance begins.
    """
    if not utterance.offset and not utterance.duration:
        return load_audio(utterance.audio_filepath, sample_rate)
    seconds = audio_seconds(utterance.audio_filepath)
    if not utterance.is_part(seconds):
        return load_audio(utterance.audio_filepath, sample_rate)
    if utterance.offset >= seconds or (utterance.duration and int(utterance.duration * sample_rate) == 0):
        raise _nothing_left(utterance, seconds)
    length = utterance.duration or None
    return load_audio(utterance.audio_filepath, sample_rate, offset=utterance.offset, seconds=length)


def _nothing_left(utterance: Utterance, seconds: float) -> UserError:
    return UserError(
        f"{utterance.audio_filepath}: lasts {seconds:.2f} s and holds nothing for offset {utterance.offset:g} and "
        f"duration {utterance.duration:g}; correct its line in the manifest"
    )


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
        raise _nothing_left(utterance, seconds)
    return part.copy()  # not a view that keeps a long file in memory


def read_manifest(path: Path, *, text: bool = True, prompts: Mapping[str, int] | None = None) -> list[Utterance]:
    """Read a manifest; relative paths are relative to its folder.

    The audio files themselves are not opened, but they must exist, so that a run of hours does not end on a typo.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        text: refuse lines without ``text``, against which something would be scored; else it is empty there.
        prompts: of the model that will transcribe it: languages become its keys
            (:func:`export.languages.language_key`). None leaves them as they are.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line of it cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines(): U+2028 may stand in a text
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such manifest; give a file of JSON lines") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a file of JSON lines") from error
    utterances = [
        _utterance(line, f"{path}, line {number}", path.parent, text, prompts)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not utterances:
        raise UserError(f"{path}: holds no utterances; give one JSON object a line")
    return utterances


def _utterance(line: str, where: str, folder: Path, text: bool, prompts: Mapping[str, int] | None) -> Utterance:
    """One line as an utterance with an absolute audio path."""
    write = 'write {"audio_filepath": "…", "duration": 1.0, "text": "…", "target_lang": "en-US"}'
    try:
        utterance = Utterance.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise UserError(f"{where}: {reason}; {write}") from error
    audio = (folder / os.path.expanduser(utterance.audio_filepath)).resolve()
    if not audio.is_file():
        raise UserError(f"{where}: audio_filepath {utterance.audio_filepath} does not exist; correct the path")
    changes: dict[str, Any] = {"audio_filepath": audio}
    if text and "text" not in utterance.model_fields_set:
        changes["text"] = _text_of_file(utterance, where, folder, write)
    if prompts is not None:
        try:
            changes["target_lang"] = language_key(utterance.target_lang, prompts)
        except ValueError as error:
            raise UserError(
                f"{where}: target_lang: {error}; correct it, or leave it out for {DEFAULT_LANGUAGE}"
            ) from error
    return utterance.model_copy(update=changes)


def _text_of_file(utterance: Utterance, where: str, folder: Path, write: str) -> str:
    """What ``text_filepath`` holds, its line breaks left out as NeMo leaves them out."""
    name = (utterance.model_extra or {}).get("text_filepath")
    if not isinstance(name, str):
        raise UserError(f"{where}: text: Field required, transcripts are scored against it; {write}")
    try:
        return (folder / os.path.expanduser(name)).read_text(encoding="utf-8-sig").replace("\n", "")
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: text_filepath {name} cannot be read ({error}); correct the path") from error


def default_manifest() -> Path:
    """The evaluation set that travels with the embedded demo checkpoint."""
    from export import demo

    manifest: Path = demo.MANIFEST
    return manifest
