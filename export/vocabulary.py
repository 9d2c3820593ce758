"""Vocabulary pruning: which pieces stay when a folder has to write some languages or scripts only.

Scripts are taken literally: ``--scripts hangul`` keeps no Latin letter. Languages keep Latin besides their own
scripts, since names and abbreviations are written in it everywhere ("NHKニュース", "USB-кабель"). What else a text
may borrow, a Greek letter in Japanese or a Cyrillic name in English, is gone: text that needs a dropped piece changes
there, and may change from there on.

A piece is dropped only where it holds a character that belongs to scripts by Unicode's properties Script and
Script_Extensions (UAX #24), none of which is kept. Everything else stays: digits, punctuation, symbols and marks
that several scripts share, ``▁``, unassigned characters, and all pieces in angle brackets: ``<unk>``, byte fallback
and every language tag, so that detecting and stripping the language works as before.

Kept pieces are numbered anew in their old order and blank stays one past the last, so ties between logits fall as
they did. Greedy decoding is that of the whole model up to the first dropped piece that the whole model would have
emitted; without one, all of it is the same.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from export.digest import digest
from export.errors import UserError

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint

_SPECIAL = re.compile(r"<[^<>]+>")
_SHARED = frozenset({"Zyyy", "Zinh", "Zzzz"})  # Common, Inherited, Unknown
_PARTS = {
    "Hanb": ("Hani", "Bopo"),
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Hrkt": ("Hira", "Kana"),
    "Jamo": ("Hang",),
    "Jpan": ("Hira", "Kana", "Hani"),
    "Kore": ("Hang", "Hani"),
}
"""ISO 15924's codes for several scripts together, which no character carries."""


def parts_of(script: str) -> tuple[str, ...]:
    """The scripts that characters carry, for an ISO 15924 code that may stand for several together."""
    return _PARTS.get(script, (script,))


_SECOND_SCRIPT = {"bs": "Cyrl", "sr": "Latn", "uz": "Cyrl"}
"""Languages in daily use in two scripts: the one that likely subtags do not name (CLDR's languageData)."""


_EVERYWHERE = frozenset({"Latn"})
"""Scripts that texts of every language borrow from."""


@dataclass(frozen=True)
class Pruning:
    """What an export keeps of a checkpoint's vocabulary.

    Attributes:
        checkpoint: the checkpoint as the folder presents it: its vocabulary holds the kept pieces only.
        rows: for every new id, blank included, the checkpoint's id; None where all pieces stay as they are.
        record: what the folder's metadata says about it, :func:`checkpoint_ids`' input; empty without pruning.
        warnings: what the folder no longer does.
    """

    checkpoint: Checkpoint
    rows: list[int] | None = None
    record: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prune_vocabulary(checkpoint: Checkpoint, *, languages: Sequence[str] = (), scripts: Sequence[str] = ()) -> Pruning:
    """Choose the pieces that text in these languages or these scripts can need; all where neither is given.

    Args:
        checkpoint: its vocabulary and, for languages, its prompts.
        languages: BCP 47 tags (``en``, ``pt-BR``, ``sr-Latn``), each a language of the prompt dictionary where the
            model has one. A language stands for the scripts it is written in, and for Latin: ``ja`` for Hiragana,
            Katakana, Han and Latin, ``ko`` for Hangul, Han and Latin.
        scripts: names (``latin``) or ISO 15924 codes (``Latn``, ``Jpan``); nothing is added to them.

    Raises:
        UserError: both are given, one is unknown, or the vocabulary holds no letter of its scripts.
    """
    if languages and scripts:
        raise UserError("--languages and --scripts: give one of them")
    if not languages and not scripts:
        return Pruning(checkpoint)
    vocabulary = checkpoint.vocabulary
    present = vocabulary_scripts(vocabulary)
    chosen: set[str] = set()
    for name in languages or scripts:
        found = set(_language_scripts(name, checkpoint) if languages else _script_codes(name, present)) & present
        if not found:
            option = "languages" if languages else "scripts"
            raise UserError(
                f"--{option} {name}: {checkpoint.path.name} has no pieces in its script; there are {_names(present)}"
            )
        chosen |= found
    if languages:
        chosen |= _EVERYWHERE & present
    kept = [index for index, piece in enumerate(vocabulary) if is_needed(piece, chosen)]
    if len(kept) == len(vocabulary):
        return Pruning(checkpoint, warnings=[f"the vocabulary holds nothing but {_names(chosen)}: nothing was pruned"])
    pieces = tuple(vocabulary[index] for index in kept)
    record = {
        "languages": list(languages),
        "scripts": sorted(chosen),
        "pieces": len(pieces),
        "checkpoint_pieces": len(vocabulary),
        "checkpoint_sha256": vocabulary_sha256(vocabulary),
        "kept": base64.b64encode(np.packbits(np.isin(np.arange(len(vocabulary)), kept)).tobytes()).decode(),
    }
    warning = (
        f"vocabulary pruned to {len(pieces)} of {len(vocabulary)} pieces ({_names(chosen)}); "
        "all prompts are still there, text in other scripts cannot be written"
    )
    return Pruning(replace(checkpoint, vocabulary=pieces), [*kept, checkpoint.blank_id], record, [warning])


def is_needed(piece: str, scripts: Collection[str]) -> bool:
    """Whether text in these scripts (ISO 15924 codes) can need a piece."""
    if _SPECIAL.fullmatch(piece):
        return True
    wanted = _SHARED.union(scripts)
    return all(not wanted.isdisjoint(_character_scripts(character)) for character in piece)


def vocabulary_scripts(vocabulary: Sequence[str]) -> set[str]:
    """ISO 15924 codes of the scripts that the pieces are written in, special pieces aside."""
    from fontTools import unicodedata

    characters = {character for piece in vocabulary if not _SPECIAL.fullmatch(piece) for character in piece}
    return {unicodedata.script(character) for character in characters} - _SHARED


def checkpoint_ids(record: dict[str, Any]) -> list[int] | None:
    """For every piece of a pruned folder, in order, its id in the checkpoint; None where nothing was pruned.

    Args:
        record: the metadata's ``vocabulary``. Its ``kept`` holds a bit for each of the checkpoint's pieces, eight a
            byte, the first in the highest bit, as base64.

    Raises:
        UserError: the record contradicts itself.
    """
    if not record:
        return None
    try:
        packed, count = np.frombuffer(base64.b64decode(record["kept"]), np.uint8), int(record["checkpoint_pieces"])
        if not 0 <= count <= 8 * len(packed):
            raise ValueError(f"checkpoint_pieces is {count}, and kept has bits for {8 * len(packed)}")
        ids: list[int] = np.flatnonzero(np.unpackbits(packed, count=count)).tolist()
        wanted = int(record["pieces"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"metadata.vocabulary: not usable ({error}); regenerate the folder") from error
    if len(ids) != wanted:
        raise UserError(f"metadata.vocabulary: keeps {len(ids)} pieces and says {wanted}; regenerate the folder")
    return ids


def vocabulary_sha256(vocabulary: Sequence[str]) -> str:
    """Identity of a vocabulary: SHA-256 of its pieces as a JSON list."""
    return digest(list(vocabulary))


@cache
def _character_scripts(character: str) -> frozenset[str]:
    from fontTools import unicodedata

    return frozenset(unicodedata.script_extension(character)) | {unicodedata.script(character)}


def _script_codes(name: str, present: Collection[str]) -> tuple[str, ...]:
    """Codes of a script that the user named."""
    from fontTools import unicodedata

    code = name.strip().capitalize()
    if code in _PARTS:
        return _PARTS[code]
    if unicodedata.script_name(code, default=None) is None:
        code = unicodedata.script_code(name.strip(), default=None)
    if code is None or code in _SHARED:
        raise UserError(f"--scripts {name}: no such script; there are {_names(present)}")
    return (code,)


def _language_scripts(name: str, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Codes of the scripts that a language is written in."""
    from langcodes import Language, tag_is_valid

    known = sorted({Language.get(key).language or "" for key in checkpoint.prompts or {} if tag_is_valid(key)})
    language = Language.get(name) if tag_is_valid(name) else None
    if language is None or (known and language.language not in known):
        there = f"there are {', '.join(known)}" if known else "give language codes such as en or pt-BR"
        raise UserError(f"--languages {name}: {checkpoint.path.name} knows no such language; {there}")
    script = language.maximize().script or ""
    second = _SECOND_SCRIPT.get(language.language or "") if language.script is None else None
    return _PARTS.get(script, (script,)) + ((second,) if second else ())


def _script_name(code: str) -> str:
    from fontTools import unicodedata

    return str(unicodedata.script_name(code)).lower().replace(" ", "_")


def _names(scripts: Collection[str]) -> str:
    return ", ".join(sorted(map(_script_name, scripts)))
