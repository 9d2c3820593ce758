"""Transcripts of a run as they come, so that a run that was stopped goes on from there.

A line holds one utterance's transcript under the utterance's own identity: another manifest with the same recording,
without one that cannot be used for example, finds it too. A line has its own hash.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from export.errors import UserError
from export.progress import note
from export.removal import remove_files
from export.results import seal, unseal
from verify.runtimes.transcript import Transcript

_TRANSCRIPT = TypeAdapter(Transcript)


class Unfinished:
    """The list of a run that is not through.

    Args:
        file: its list, which need not exist, named by all that a transcript depends on besides the utterance.
        asked: whether the user named its folder; else a list that cannot be written is no more than a warning.
    """

    def __init__(self, file: Path, *, asked: bool = True) -> None:
        self._file = file
        self._asked = asked
        self._warned = False
        self._known = _read(file)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, utterance: str) -> Transcript | None:
        """The transcript of an utterance by its identity, if an earlier run got so far."""
        return self._known.get(utterance)

    def add(self, utterance: str, transcript: Transcript) -> None:
        """Keep a transcript.

        Raises:
            UserError: it cannot be written in the folder that the user named.
        """
        facts = {"utterance": utterance, "transcript": _TRANSCRIPT.dump_python(transcript, mode="json")}
        line = f"\n{seal(facts, self._file.stem)}\n"  # whatever a killed run left half-written ends here
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if self._asked:
                raise UserError(
                    f"{self._file}: cannot be written ({error.strerror}); choose another --cache"
                ) from error
            if not self._warned:
                note(f"warning: {self._file}: cannot be written ({error.strerror}); a run that is stopped begins anew")
            self._warned = True
        self._known[utterance] = transcript

    def done(self) -> None:
        """Remove the list: the run is whole, and is kept as such."""
        remove_files(self._file.parent, {self._file.name})


def _read(file: Path) -> dict[str, Transcript]:
    """Transcripts of a list's whole lines; the number of the others is said, and their transcripts are made again."""
    try:
        lines = [line for line in file.read_bytes().split(b"\n") if line]
    except OSError:
        return {}
    whole = [facts for line in lines if (facts := unseal(line, file.stem)) is not None]
    if len(whole) < len(lines):
        damaged = len(lines) - len(whole)
        note(f"warning: {file}: {damaged} of {len(lines)} lines are half-written or damaged; they are made again")
    return {facts["utterance"]: _TRANSCRIPT.validate_python(facts["transcript"]) for facts in whole}
