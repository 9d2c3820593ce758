"""``--data``: a data set by name or folder becomes a NeMo manifest, which is what everything else reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.digest import digest
from export.errors import UserError, require_utf8
from export.folders import write_atomically
from export.languages import DEFAULT_LANGUAGE, language_key
from export.progress import note
from verify.data import hub
from verify.data.fleurs import MANIFEST, Split, cache_folder, known_prompts, note_other_lengths, prompts_of
from verify.data.layouts import find_copy, folder_utterances, recordings_in, refuse_data_set
from verify.data.manifest import Utterance, read_manifest

HUB_PREFIX = "fleurs:"
ALL = "all"


@dataclass(frozen=True)
class DataSet:
    """What the user named.

    Attributes:
        given: ``fleurs:en_us,es_419``, ``fleurs:all``, ``DIR``, or ``DIR:en_us,es_419``; of a folder of recordings
            ``DIR:de-DE``.
        split: of FLEURS; None for the default.
        default_split: what None means.
        enough: recordings that are enough, all languages together; from the Hub no more are fetched. None for all.
    """

    given: str
    split: Split | None = None
    default_split: Split = "test"
    enough: int | None = None


def choose_manifest(
    manifest: Path | None, data: DataSet | None, *, prompts: Mapping[str, int] | None, text: bool = True
) -> Path | None:
    """The manifest that is given, or one made of a data set; None where neither is.

    Made manifests lie in the cache, named by their content, so that whatever depends on a manifest's audio and text
    depends on a data set's alike.

    Args:
        manifest: ``--manifest``.
        data: ``--data``.
        prompts: of the model that will transcribe it; None for a model without prompts.
        text: whether transcripts are needed.

    Raises:
        UserError: both are given, or the data set cannot be used.
    """
    if data is None:
        return manifest
    if manifest is not None:
        raise UserError(f"--manifest {manifest} and --data {data.given}: both given; choose one")
    utterances, name = _utterances(data, prompts, text)
    lines = []
    for utterance in utterances:
        require_utf8(utterance.audio_filepath)
        facts = utterance.model_dump(mode="json", exclude_unset=True) | {"target_lang": utterance.target_lang}
        lines.append(json.dumps(facts, ensure_ascii=False))
    written = "\n".join(lines) + "\n"
    path = cache_folder() / "manifests" / f"{name}-{digest(written)[:12]}.jsonl"
    if not path.is_file() or path.read_text(encoding="utf-8") != written:
        write_atomically(path, written)
    note(f"--data {data.given}: {len(lines)} recordings, {path}")
    return path


def refuse_test_manifest(manifest: Path) -> None:
    """Calibration audio is no evaluation audio, nor is a manifest that an earlier ``--data`` made of it.

    Raises:
        UserError: the cache says that the manifest lists FLEURS' test split, or does not say which split it lists.
    """
    path = manifest.resolve()
    made = path.parent == (cache_folder() / "manifests").resolve() and path.name.startswith("fleurs-test-")
    kept = path.name == MANIFEST and cache_folder().resolve() in path.parents
    if made or (kept and not path.parent.name.startswith(("train", "validation"))):
        raise UserError(
            f"--manifest {manifest}: lists FLEURS' test split, or an archive's of a split not known; results are "
            "measured on test: calibrate on --data fleurs:en_us --split train or validation"
        )


def _utterances(data: DataSet, prompts: Mapping[str, int] | None, text: bool) -> tuple[list[Utterance], str]:
    """A data set's recordings with their prompts as languages, and a name for it."""
    split, cache = data.split or data.default_split, cache_folder()
    if data.given.startswith(HUB_PREFIX):
        wanted = _names(data.given.removeprefix(HUB_PREFIX), data)
        if wanted == [ALL]:
            codes = known_prompts(hub.languages(), prompts, data.given)
        else:
            codes = [name.lower().replace("-", "_") for name in wanted]
        languages = prompts_of(codes, prompts, data.given)
        enough = -(-data.enough // max(len(codes), 1)) if data.enough else None
        found = {code: read_manifest(hub.fetch(code, split, cache, enough)) for code in codes}
    else:
        directory, names = _folder(data)
        copy = find_copy(directory, split)
        if copy is None:
            return _recordings(data, directory, names, prompts, text), directory.resolve().name
        codes = _chosen(names, list(copy.tables), directory) or known_prompts(list(copy.tables), prompts, data.given)
        languages = prompts_of(codes, prompts, data.given)
        found = {code: copy.utterances(code, cache) for code in codes}
        if copy.left_out and names in ([], [ALL]):
            note(f"--data {data.given}: left out, not FLEURS' {split} split in one layout: {', '.join(copy.left_out)}")
    utterances = [
        each.model_copy(update={"target_lang": languages[code]}) for code, listed in found.items() for each in listed
    ]
    if not utterances:
        raise UserError(f"--data {data.given}: no language of it has a prompt; name others")
    empty = next((each for each in utterances if not each.text.strip()), None) if text else None
    if empty:
        raise UserError(
            f"--data {data.given}: {empty.audio_filepath} has an empty transcription; "
            "take its line out of the table of a local copy: --data DIR"
        )
    note_other_lengths(data.given, utterances)
    return utterances, f"fleurs-{split}-{codes[0] if len(codes) == 1 else f'{len(codes)}-languages'}"


def _names(text: str, data: DataSet) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(name.replace("_", "").replace("-", "").isalnum() for name in names):
        raise UserError(f"--data {data.given}: write languages as in fleurs:en_us,es_419, or fleurs:{ALL}")
    return names


def _folder(data: DataSet) -> tuple[Path, list[str]]:
    """The folder, and what is named after a colon."""
    whole = Path(os.path.expanduser(data.given))
    if data.given and whole.is_dir():
        return whole, []
    folder, colon, names = data.given.rpartition(":")
    if colon and folder and Path(os.path.expanduser(folder)).is_dir():
        return Path(os.path.expanduser(folder)), _names(names, data)
    raise UserError(f"--data {data.given}: no such folder; give one, or fleurs:en_us,es_419 for the Hugging Face Hub")


def _chosen(names: list[str], known: list[str], directory: Path) -> list[str]:
    """The languages that are named, all of them there."""
    codes = [] if names == [ALL] else [name.lower().replace("-", "_") for name in names]
    for code in codes:
        if code not in known:
            raise UserError(f"{directory}: has no {code}; it has {', '.join(known[:12])}")
    return codes


def _recordings(
    data: DataSet, directory: Path, names: list[str], prompts: Mapping[str, int] | None, text: bool
) -> list[Utterance]:
    """A folder of recordings, in one language where one is named."""
    if data.split is not None:
        refuse_data_set(directory, recordings_in(directory))
        raise UserError(f"--split {data.split}: {directory} is a folder of recordings; leave the option out")
    if len(names) > 1:
        raise UserError(f"--data {data.given}: recordings in one folder have one language; name one")
    utterances = folder_utterances(directory, language=names[0] if names else None, text=text)
    unknown = sum(each.target_lang == DEFAULT_LANGUAGE for each in utterances)
    if unknown:
        note(f"--data {data.given}: the language of {unknown} recordings is not known; name it: {directory}:de-DE")
    try:
        keys = {each.target_lang: each.target_lang for each in utterances}
        keys = keys if prompts is None else {name: language_key(name, prompts) for name in keys}
    except ValueError as error:
        raise UserError(f"--data {data.given}: {error}; name another") from error
    return [each.model_copy(update={"target_lang": keys[each.target_lang]}) for each in utterances]
