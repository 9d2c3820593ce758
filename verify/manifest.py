"""NeMo manifests: one JSON object a line, naming audio, text and language."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from export.checkpoint import DEFAULT_LANGUAGE
from export.errors import UserError


class Utterance(BaseModel):
    """One line of a manifest; keys beyond these are kept and ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)

    audio_filepath: Path  # absolute once read
    text: str
    duration: float = Field(default=0.0, ge=0.0)  # seconds; 0 where the manifest does not say
    target_lang: str = DEFAULT_LANGUAGE  # a key of the model's prompt dictionary

    @field_validator("audio_filepath")
    @classmethod
    def _names_a_file(cls, value: Path) -> Path:
        if not value.name:
            raise ValueError("empty path")
        return value


def read_manifest(path: Path) -> list[Utterance]:
    """Read a manifest; relative audio paths are relative to its folder.

    The audio files themselves are not opened, but they must exist, so that a run of hours does not end on a typo.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line of it cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such manifest; give a file of JSON lines") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a file of JSON lines") from error
    utterances = [
        _utterance(line, f"{path}, line {number}", path.parent)
        for number, line in enumerate(text.split("\n"), start=1)  # not splitlines(): U+2028 may stand in a text
        if line.strip()
    ]
    if not utterances:
        raise UserError(f"{path}: holds no utterances; give one JSON object a line")
    return utterances


def _utterance(line: str, where: str, folder: Path) -> Utterance:
    """One line as an utterance with an absolute audio path."""
    try:
        utterance = Utterance.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise UserError(
            f'{where}: {reason}; write {{"audio_filepath": "…", "duration": 1.0, "text": "…", "target_lang": "en-US"}}'
        ) from error
    audio = (folder / utterance.audio_filepath.expanduser()).resolve()
    if not audio.is_file():
        raise UserError(f"{where}: audio_filepath {utterance.audio_filepath} does not exist; correct the path")
    return utterance.model_copy(update={"audio_filepath": audio})


def default_manifest() -> Path:
    """The evaluation set that travels with the embedded demo checkpoint."""
    from export import demo

    manifest: Path = demo.MANIFEST
    return manifest
