"""Finished transcripts, kept as JSON lines as they come, so that a run that was stopped goes on from there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from export.bundle import Bundle
from export.digest import FileState, digest, file_facts, file_state
from export.errors import UserError
from export.folders import write_atomically
from export.locks import try_lock
from export.progress import note
from scripts.disk import existing_parent
from scripts.transcribe.formats import row
from scripts.transcribe.sentences import RecordingTranscript, words_of
from verify.runtimes.transcript import Transcript

_BEGINNING = b'{"audio_filepath": "'
"""Of each of our lines; by it we know the half one that a killed run left."""


class _Line(BaseModel):
    """A finished transcript: what ``--format jsonl`` prints, and what makes it the same again."""

    model_config = ConfigDict(strict=True)

    audio_filepath: str
    duration: float
    time: float
    pred_text: str
    language: str | None
    tokens: list[int]
    frames: list[int]
    run: str
    sha256: str


class Finished:
    """The list of a run's finished transcripts; a context that holds the file.

    Args:
        path: the file; it need not exist.
        bundle: the folder that transcribes.
        options: everything else that a transcript depends on.

    Raises:
        UserError: the file is no such list, is another run's, or cannot be written.
    """

    def __init__(self, path: Path, bundle: Bundle, **options: Any) -> None:
        self._path = path
        self._bundle = bundle
        self._run = digest([bundle.metadata.model_dump(mode="json"), options])
        self._lines: dict[str, _Line] = {}
        self._begun: dict[str, tuple[int, ...] | None] = {}  # recordings as they were when they were opened
        self._descriptor = -1
        place = existing_parent(path.absolute().parent)
        if path.exists() and not path.is_file():
            raise UserError(f"--output {path}: is no regular file; give a file")
        if not place.is_dir() or not os.access(place, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise UserError(f"--output {path}: cannot be written there; choose another place")

    def __enter__(self) -> Self:
        """Read what is there, and mend the line that a killed run left half-written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        try:
            lines, half = _read(self._path)
            for number, line in enumerate(lines, 1):
                if line.run != self._run:
                    raise UserError(
                        f"--output {self._path}, line {number}: was made with another folder, language or options; "
                        "choose another file"
                    )
            self._lines = {line.audio_filepath: line for line in lines}
            if half:
                note(f"{self._path}: its last line was half-written and is made again")
                self._write_again()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self._close()

    def find(self, audio: str) -> RecordingTranscript | None:
        """A recording's transcript, if it is there and the recording has not changed since.

        Raises:
            OSError: the recording cannot be read.
        """
        line = self._lines.get(audio)
        if line is None or line.sha256 != file_facts(Path(audio))["sha256"]:
            return None
        transcript = Transcript(line.tokens, line.frames, line.pred_text, line.language, line.duration)
        return RecordingTranscript(audio, transcript, words_of(self._bundle, line.tokens, line.frames), line.time)

    def begin(self, audio: str) -> None:
        """Remember how a recording is, before it is opened."""
        self._begun[audio] = _state(audio)

    def add(self, recording: RecordingTranscript) -> None:
        """Keep a transcript; it is on its way to the disk when this returns.

        The transcript of a recording that has changed since :meth:`begin` is not kept, because nobody knows of which
        audio it is.

        Raises:
            OSError: it cannot be written.
        """
        transcript = recording.transcript
        facts = row(recording) | {"tokens": transcript.tokens, "frames": transcript.frames, "run": self._run}
        begun = self._begun.get(recording.audio)
        if begun is not None and begun == _state(recording.audio):
            facts["sha256"] = file_facts(Path(recording.audio))["sha256"]
        if begun is None or begun != _state(recording.audio):
            note(f"warning: {recording.audio}: changed while it was read; its transcript is not kept in {self._path}")
            return
        if recording.audio in self._lines:  # of the recording as it was
            del self._lines[recording.audio]
            self._write_again(without=recording.audio)
        line = json.dumps(facts, ensure_ascii=False) + "\n"
        text = line.encode(errors="backslashreplace")  # as JSON escapes a name that is no text
        try:
            while text:
                text = text[os.write(self._descriptor, text) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._lines[recording.audio] = _Line.model_validate(facts)

    def _open(self) -> None:
        while True:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if try_lock(self._descriptor) is False:
                self._close()
                raise UserError(f"--output {self._path}: another run is writing it; wait for it to end")
            if self._path.exists() and os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return
            self._close()  # another run has replaced the file between the two

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write_again(self, without: str | None = None) -> None:
        """Replace the file by its whole lines, but for one recording's."""
        kept = []
        for line in self._path.read_bytes().split(b"\n"):
            try:
                facts = json.loads(line)
            except ValueError:
                continue
            if facts["audio_filepath"] != without:
                kept.append(line.decode() + "\n")
        write_atomically(self._path, "".join(kept))
        self._close()
        self._open()


def _read(path: Path) -> tuple[list[_Line], bool]:
    """The lines of a file, and whether its last one is half-written.

    Raises:
        UserError: a line is not ours.
    """
    *whole, last = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(whole, 1):
        try:
            lines.append(_Line.model_validate(json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"--output {path}, line {number}: is no finished transcript; choose another file, or move it away"
            ) from error
    if not last:
        return lines, False
    try:
        content = json.loads(last)
    except (ValueError, RecursionError):
        if last.startswith(_BEGINNING) or _BEGINNING.startswith(last):
            return lines, True
    else:
        with suppress(ValueError):  # it lacks nothing but the end of its line
            return [*lines, _Line.model_validate(content)], True
    raise UserError(f"--output {path}: is no list of transcripts; choose another file, or move it away")


def _state(audio: str) -> FileState | None:
    """What changes with a file; None where there is none."""
    try:
        return file_state(audio)
    except OSError:
        return None
