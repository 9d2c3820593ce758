"""Local copies of data: FLEURS' own layout, the published benchmark's, and recordings with transcripts beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.digest import file_facts
from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE
from verify.data.fleurs import FILE_NAMES, MANIFEST, SPLITS, Split, cache_folder, read_tsv, store, unpacked
from verify.data.manifest import Utterance, read_manifest

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"))
"""What is taken from a folder; all of it formats that libsndfile reads."""

_LOCALE = re.compile(r"[a-z]{2,3}-[A-Z]{2}")

_TSVS = tuple(f"{name}.tsv" for names in FILE_NAMES.values() for name in names)
_ROW = re.compile(rb"^[^\t\n]*\t[^\t\n]+\.wav\t", re.MULTILINE)
"""A row of FLEURS' own tables; Common Voice's tables are called the same."""

_PUBLISHED = re.compile(r"[a-z]{2,3}(_[a-z]{4})?_([a-z]{2}|\d{3})\.trans\.txt")
"""The published benchmark's tables; LibriSpeech's are called ``84-121123.trans.txt``."""


@dataclass(frozen=True)
class Copy:
    """Languages of FLEURS on this machine.

    Attributes:
        tables: by code, the file that lists a language's recordings.
        split: which they are.
        own: FLEURS' own layout; False for the published benchmark's.
        left_out: what else lies there and is not read: recordings, and languages of another split or layout.
    """

    tables: dict[str, Path]
    split: Split
    own: bool
    left_out: list[str]

    def utterances(self, code: str, cache: Path) -> list[Utterance]:
        """One language's recordings, sorted by file name; archives are unpacked to the cache.

        Raises:
            UserError: a table or a recording cannot be used.
        """
        table = self.tables[code]
        return _own_utterances(table, self.split, cache) if self.own else _published_utterances(table)


def find_copy(directory: Path, split: Split) -> Copy | None:
    """The copy of FLEURS that a folder is, or is one language of; None where it is none.

    Raises:
        UserError: it is, but not of this split.
    """
    places = [directory / "data", directory] if (directory / "data").is_dir() else [directory]
    for place in places:
        folders = sorted(folder for folder in (place, *place.iterdir()) if folder.is_dir())
        splits = {each: _tables(folders, [f"{name}.tsv" for name in FILE_NAMES[each]]) for each in SPLITS}
        if splits[split]:
            return Copy(splits[split], split, own=True, left_out=_left_out(directory, place, splits[split]))
        others = [each for each in SPLITS if splits[each]]
        if others:
            raise UserError(f"{directory}: holds {', '.join(others)} of FLEURS and not {split}; choose another --split")
        published = {
            folder.resolve().name: table for folder in folders if (table := _published_table(folder)).is_file()
        }
        if published:
            if split != "test":
                raise UserError(
                    f"{directory}: is FLEURS' test split as the published benchmark keeps it, which results are "
                    f"measured on; for {split} give FLEURS itself: --data fleurs:{','.join(published)}"
                )
            return Copy(published, split, own=False, left_out=_left_out(directory, place, published))
    return None


def _left_out(directory: Path, place: Path, tables: dict[str, Path]) -> list[str]:
    """Names of what lies beside the languages of a copy, holds recordings or a table, and is none of them."""
    read = {place, *(table.parent for table in tables.values())}
    if place in {table.parent for table in tables.values()}:  # one language: all else there is its own
        return []
    beside = sorted({entry for folder in {directory, place} for entry in folder.iterdir()} - read)
    return [str(entry.relative_to(directory)) for entry in beside if any(_is_data(file) for file in _files(entry))]


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in AUDIO_SUFFIXES or file.name in _TSVS or bool(_PUBLISHED.fullmatch(file.name))


def _files(place: Path) -> Iterator[Path]:
    """A file, or all files below a folder; linked folders too, each folder once."""
    if place.is_file():
        yield place
    seen = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        facts = Path(folder).stat()
        if (facts.st_dev, facts.st_ino) in seen:  # a link to a folder above it, or to one that was here
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders.sort(key=lambda name: (Path(folder, name).is_symlink(), name))  # used at once
        yield from (file for name in sorted(names) if (file := Path(folder, name)).is_file())


def refuse_data_set(folder: Path, files: Sequence[Path]) -> None:
    """Recordings of FLEURS are no recordings of one's own: nothing would say of which split they are.

    Raises:
        UserError: one of the files below the folder belongs to FLEURS, wherever a link to it lies.
    """
    cache = cache_folder().resolve()
    for place, file in {file.resolve().parent: file for file in files}.items():
        if {cache / "fleurs", cache / "unpacked"} & {place, *place.parents}:
            raise UserError(
                f"{folder}: {file.name} is of FLEURS as it was fetched or unpacked; name it: --data fleurs:en_us"
            )
        for above in (place, *list(place.parents)[:2]):  # en_us of en_us/audio/test
            for table in _tables_in(above):
                code = above.name if table.name in _TSVS else table.name.removesuffix(".trans.txt")
                remedy = f"--data {above.parent}" if code == above.name else f"its name would be {code}"
                raise UserError(
                    f"{folder}: {file.name} belongs to a copy of FLEURS, see {table}; give the folder of its "
                    f"languages, so that its split is known: {remedy}"
                )


def _tables_in(folder: Path) -> Iterator[Path]:
    yield from (file for name in _TSVS if (file := folder / name).is_file() and _is_own_table(file))
    yield from (file for file in sorted(folder.glob("*.trans.txt")) if _PUBLISHED.fullmatch(file.name))


def _is_own_table(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return bool(_ROW.search(opened.read(1 << 16)))
    except OSError:
        return False


def _tables(folders: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """Folders' first table of one of these names."""
    found = {
        folder.resolve().name: [folder / name for name in names if (folder / name).is_file()] for folder in folders
    }
    return {code: tables[0] for code, tables in found.items() if tables}


def _published_table(folder: Path) -> Path:
    return folder / f"{folder.resolve().name}.trans.txt"


def _own_utterances(table: Path, split: Split, cache: Path) -> list[Utterance]:
    names = FILE_NAMES[split]
    archives = [table.parent / "audio" / f"{name}.tar.gz" for name in names]
    places = [table.parent / part for name in names for part in (f"audio/{name}", name)] + [table.parent / "audio"]
    rows = read_tsv(table)
    place = next((place for place in places if (place / rows[0][0]).is_file()), None)
    if place is None:
        archive = next((archive for archive in archives if archive.is_file()), None)
        if archive is None:
            raise UserError(
                f"{table}: its recording {rows[0][0]} is not there; put the recordings into {places[0]}, "
                f"or {archives[0].name} into {archives[0].parent}"
            )
        name = file_facts(archive)["sha256"][:16] + file_facts(table)["sha256"][:16]
        directory = cache / "unpacked" / name
        if not (directory / MANIFEST).is_file():
            store(unpacked(table, archive), directory, f"unpacking {archive}")
        return read_manifest(directory / MANIFEST)
    return sorted((_utterance(place / name, table, line) for name, line in rows), key=lambda each: each.audio_filepath)


def _published_utterances(table: Path) -> list[Utterance]:
    found: dict[str, Utterance] = {}
    for number, line in enumerate(_lines(table), start=1):
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        if not text.strip():
            raise UserError(f"{table}, line {number}: has no text; write an id, a space and the text")
        if name in found:
            raise UserError(f"{table}, line {number}: lists {name} a second time; copy it again")
        found[name] = _utterance(table.parent / f"{name}.wav", table, {"text": text.strip()})
    if not found:
        raise UserError(f"{table}: lists no recordings; write an id, a space and the text on each line")
    return sorted(found.values(), key=lambda each: each.audio_filepath)


def _utterance(audio: Path, table: Path, line: dict[str, Any]) -> Utterance:
    if not audio.is_file():
        raise UserError(f"{table}: lists {audio.name}, which is not in {audio.parent}; copy it again")
    return Utterance(audio_filepath=audio.resolve(), **line)


def _lines(file: Path) -> list[str]:
    """Lines of a text file; U+2028 ends none."""
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error}); write it as UTF-8") from error


def recordings_in(folder: Path) -> list[Path]:
    """All audio files below a folder and folders linked there, in the order of their paths.

    Raises:
        UserError: there is no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds audio, or a manifest with --manifest")
    files = sorted(file for file in _files(folder) if file.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise UserError(f"{folder}: holds no audio; give a folder of WAV, FLAC, OGG or MP3 files")
    return files


def folder_utterances(folder: Path, *, language: str | None = None, text: bool = True) -> list[Utterance]:
    """All recordings below a folder, each with the transcript in the ``.txt`` file beside it.

    Args:
        folder: where they are.
        language: spoken in all of them; None takes the name of the first folder below where it is one (``de-DE``),
            else ``auto``.
        text: refuse recordings without a transcript; else transcripts are left out.

    Raises:
        UserError: there is no audio, a recording belongs to FLEURS, or a transcript is missing, empty, of two
            recordings, or cannot be read.
    """
    files = recordings_in(folder)
    refuse_data_set(folder, files)
    found, transcripts = [], dict[Path, Path]()
    for file in files:
        first = file.relative_to(folder).parts[0]
        spoken = language or (first if _LOCALE.fullmatch(first) else DEFAULT_LANGUAGE)
        transcript = file.with_suffix(".txt")
        if text and not transcript.is_file():
            raise UserError(f"{file}: has no transcript beside it; write its text into {transcript.name}")
        if text and (other := transcripts.setdefault(transcript, file)) != file:
            raise UserError(f"{transcript}: is the transcript of {other.name} and of {file.name}; keep one of them")
        line: dict[str, Any] = {"text": " ".join(" ".join(_lines(transcript)).split())} if text else {}
        if text and not line["text"]:
            raise UserError(f"{transcript}: is empty; write the text of {file.name}, or take both out")
        found.append(Utterance(audio_filepath=file.resolve(), target_lang=spoken, **line))
    return found
