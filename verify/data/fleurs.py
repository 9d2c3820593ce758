"""FLEURS: its languages, its splits, and its own layout of files.

Conneau et al., *FLEURS: Few-shot Learning Evaluation of Universal Representations of Speech* (arXiv 2205.12446). The
``id`` of a row is its sentence's, which several recordings share. ``transcription`` is lowered and without punctuation;
``raw_transcription`` goes along.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from export.errors import UserError, listed
from export.folders import new_directory, write_atomically
from export.languages import language_key
from export.progress import note, task
from export.removal import FolderKind
from verify.data.audio import audio_seconds
from verify.data.manifest import SLACK, Utterance

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

FILE_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",), "validation": ("dev", "validation"), "test": ("test",),
}  # fmt: skip
"""What files of a split are called; FLEURS' own call validation ``dev``."""

RATE = 16000
"""FLEURS' ``num_samples`` are counted at this rate, Hz."""

CACHE_VARIABLE = "NEMOTRON_OV_CACHE"
MANIFEST = "manifest.jsonl"
CACHED = FolderKind("a cached data set", MANIFEST, re.compile(r"[^.].*\.(wav|flac|mp3|ogg|opus)"))

_PROMPTS = {"es_419": "es-US", "cmn_hans_cn": "zh-CN"}
"""Languages that the published benchmark prompts with another name than their own."""

Recording = tuple[str, bytes, dict[str, Any]]
"""A file's name, its bytes, and its line in the manifest."""


def cache_folder() -> Path:
    """Where fetched data lies: ``NEMOTRON_OV_CACHE``, else ``nemotron-ov`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.path.expanduser(named)).resolve() if named else base / "nemotron-ov"


def language_tag(code: str) -> str:
    """What a code of FLEURS names: ``en_us`` is ``en-US``."""
    language, *_, region = code.split("_") if "_" in code else (code, code)
    return _PROMPTS.get(code, f"{language}-{region.upper()}")


def prompts_of(codes: Sequence[str], prompts: Mapping[str, int] | None, given: str) -> dict[str, str]:
    """Each code's prompt. One that is not the language's own name is noted; nothing falls back in silence.

    Args:
        codes: of FLEURS.
        prompts: the model's; None for a model without prompts.
        given: what the user wrote, for errors.

    Raises:
        UserError: the model has no such language.
    """
    found = {}
    for code in codes:
        tag = language_tag(code)
        try:
            found[code] = tag if prompts is None else language_key(tag, prompts)
        except ValueError as error:
            raise UserError(f"--data {given}: {code}: {error}; leave it out") from error
    others = [f"{code} with {key}" for code, key in found.items() if key != language_tag(code)]
    if others:
        note(f"--data {given}: prompted by another name: {', '.join(others)}")
    return found


def known_prompts(codes: Sequence[str], prompts: Mapping[str, int] | None, given: str) -> list[str]:
    """Those of all codes for which the model has a prompt; the others are noted."""
    if prompts is None:
        return list(codes)
    known, others = [], []
    for code in codes:
        try:
            language_key(language_tag(code), prompts)
            known.append(code)
        except ValueError:
            others.append(code)
    if others:
        note(f"--data {given}: {len(known)} of {len(codes)} languages; no prompt for {', '.join(others)}")
    return known


def read_tsv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of FLEURS' own table: an audio file's name, and its line in a manifest.

    Raises:
        UserError: the table cannot be used, or lists a file twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); copy FLEURS again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("\t")  # no quoting: texts hold single quotes
        if len(fields) < 4:
            raise UserError(
                f"{path}, line {number}: has {len(fields)} fields; FLEURS' tables have id, file, raw transcription and "
                "transcription, apart by tabs"
            )
        name = Path(fields[1]).name
        if name in rows:
            raise UserError(f"{path}, line {number}: lists {name} a second time; copy FLEURS again")
        samples = fields[5] if len(fields) > 5 else None
        rows[name] = manifest_line(fields[0], raw=fields[2], text=fields[3], samples=samples)
    if not rows:
        raise UserError(f"{path}: holds no recordings; copy FLEURS again")
    return list(rows.items())


def manifest_line(sentence: object, *, raw: str, text: str, samples: object = None) -> dict[str, Any]:
    """What a manifest says of a recording, but for its file; ``num_samples``, at 16 kHz, where FLEURS says it."""
    line = {"text": text, "raw_transcription": raw, "sentence_id": str(sentence)}
    return line | ({"num_samples": int(str(samples))} if str(samples).isdecimal() else {})


def note_other_lengths(given: str, utterances: Sequence[Utterance]) -> None:
    """Say which recordings do not last as long as FLEURS says: they may be cut.

    Raises:
        UserError: a recording is no audio.
    """
    others = []
    for each in utterances:
        samples = (each.model_extra or {}).get("num_samples")
        if isinstance(samples, int):
            seconds = each.duration or audio_seconds(each.audio_filepath)
            if abs(seconds - samples / RATE) > SLACK:
                others.append(f"{each.audio_filepath} ({seconds:.2f} s, not {samples / RATE:.2f} s)")
    if others:
        note(f"--data {given}: not as long as FLEURS says: {listed(others, 3, ', ')}; they may be cut")


def unpacked(tsv: Path, archive: Path, limit: int | None = None) -> Iterator[Recording]:
    """Recordings of FLEURS' own archive, in its order; what the table does not list is left out.

    The archive is read to its end, where its checksum is, even where fewer recordings are wanted. A caller keeps
    nothing before the end.

    Args:
        tsv: FLEURS' own table.
        archive: of the recordings that it lists.
        limit: give only so many recordings; None for all.

    Raises:
        UserError: the archive is damaged, or lacks a recording.
    """
    rows = dict(read_tsv(tsv))
    enough = max(len(rows) - limit, 0) if limit is not None else 0
    try:
        with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as files:
            for member in files:
                name = Path(member.name).name  # wherever the archive would have it
                wanted = member.isfile() and name in rows and len(rows) > enough
                file = files.extractfile(member) if wanted else None
                if file is not None:
                    yield name, file.read(), rows.pop(name)
            while stream.read(1 << 20):  # tarfile stops at the end of the tar, before the checksum
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive}: is damaged ({error}); copy or fetch it again") from error
    if len(rows) > enough:
        raise UserError(f"{archive}: lacks {next(iter(rows))}, which {tsv.name} lists; copy or fetch it again")


def _decompressed(archive: Path) -> IO[bytes]:
    """The tar in an archive. Of gzip, tarfile's own streams never check the checksum."""
    with archive.open("rb") as file:
        magic = file.read(6)
    for start, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\x00", lzma)):
        if magic.startswith(start):
            stream: IO[bytes] = module.open(archive)
            return stream
    return archive.open("rb")


def store(recordings: Iterator[Recording], directory: Path, title: str) -> Path:
    """Keep recordings in a folder of the cache, whole or not at all; its manifest, sorted by file name.

    Raises:
        UserError: a recording is no audio, there are none, or they cannot be written.
    """
    lines: dict[str, dict[str, Any]] = {}
    with new_directory(directory, kind=CACHED) as temporary, task(title) as progress:
        for name, data, line in recordings:
            if name in lines:
                raise UserError(f"{title}: {name} comes twice; copy or fetch it again")
            try:
                (temporary / name).write_bytes(data)
            except OSError as error:
                raise UserError(f"{directory}: cannot be written ({error.strerror or error}); make room") from error
            try:
                seconds = round(audio_seconds(temporary / name), 3)
            except UserError as error:
                raise UserError(f"{title}: {name} cannot be read as audio; copy or fetch it again") from error
            lines[name] = {"audio_filepath": name, "duration": seconds} | line
            progress.advance()
        if not lines:
            raise UserError(f"{title}: there are no recordings; choose another split")
        text = "\n".join(json.dumps(lines[name], ensure_ascii=False) for name in sorted(lines))
        write_atomically(temporary / MANIFEST, text + "\n")
    return directory / MANIFEST
