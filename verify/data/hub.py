"""FLEURS from the Hugging Face Hub, each language once: what was fetched stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from export.errors import UserError
from export.hub import hub_api, reason
from export.progress import note
from verify.data.fleurs import FILE_NAMES, MANIFEST, Recording, Split, manifest_line, store, unpacked

REPOSITORY = "google/fleurs"
PARQUET = "refs/convert/parquet"
"""The Hub's conversion; `datasets` from 4 on runs no loading scripts, which the repository itself has."""

_THEIRS = ("httpx", "httpcore", "huggingface_hub", "datasets", "pyarrow", "fsspec", "aiohttp", "requests")
"""Packages whose exceptions mean that the Hub could not be read."""


def languages() -> list[str]:
    """Codes of all languages.

    Raises:
        UserError: the Hub cannot be asked.
    """
    try:
        return _languages()
    except Exception as error:
        if refusal := _refusal("fleurs:all", error):
            raise refusal from error
        raise


def fetch(code: str, split: Split, cache: Path, limit: int | None = None) -> Path:
    """The manifest of one language's split, from the cache or from the Hub.

    Args:
        code: FLEURS' of the language.
        split: of FLEURS.
        cache: what was fetched stays there.
        limit: fetch only so many recordings, the first; None for all. Where all are there, they are what is returned.

    Raises:
        UserError: the Hub cannot give it.
    """
    whole = cache / "fleurs" / code / split
    directory = whole if limit is None else whole.with_name(f"{split}-{limit}")
    for known in (whole, directory):
        if (known / MANIFEST).is_file():
            return known / MANIFEST
    name = f"fleurs:{code}"
    try:
        files = _parquet_files(code, split)
        source = f"{REPOSITORY}@{PARQUET}" if files else f"{REPOSITORY}, data/{code}"
        recordings = islice(_streamed(files, split), limit) if files else _original(code, split, limit)
        manifest = store(recordings, directory, f"fetching {name}, {split} split, from {source}")
    except Exception as error:
        if refusal := _refusal(name, error):
            raise refusal from error
        raise
    note(f"{name}: kept in {directory}")
    return manifest


def _refusal(name: str, error: Exception) -> UserError | None:
    """One line for an error while the Hub was read; None where it is such a line, or a bug of ours."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):  # that one: no answer
        return UserError(f"--data {name}: {REPOSITORY} has no such language; codes are like en_us, es_419, cmn_hans_cn")
    package = type(error).__module__.split(".")[0].rstrip("0123456789")
    if package not in _THEIRS and not isinstance(error, (OSError, EOFError)):
        return None
    return UserError(
        f"--data {name}: cannot be fetched from the Hugging Face Hub ({reason(error)}); check the code, the network "
        "and HF_TOKEN, then run again, or give a local copy: --data DIR"
    )


def _languages() -> list[str]:
    """Folders of the parquet conversion, or else of the repository itself."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFolder

    for folder, revision in ((None, PARQUET), ("data", None)):
        try:
            tree = list(hub_api().list_repo_tree(REPOSITORY, folder, revision=revision, repo_type="dataset"))
        except (EntryNotFoundError, RevisionNotFoundError):
            continue
        names = sorted(Path(entry.path).name for entry in tree if isinstance(entry, RepoFolder))
        return [name for name in names if name != "all"]  # every language once more
    raise UserError(f"--data fleurs:all: {REPOSITORY} lists no languages; name them: fleurs:en_us,es_419")


def _parquet_files(code: str, split: Split) -> list[str]:
    """Addresses of a split's converted files; none where there is no conversion."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    try:
        tree = hub_api().list_repo_tree(REPOSITORY, f"{code}/{split}", revision=PARQUET, repo_type="dataset")
        names = sorted(entry.path for entry in tree if entry.path.endswith(".parquet"))
    except (EntryNotFoundError, RevisionNotFoundError):
        return []
    return [f"hf://datasets/{REPOSITORY}@{PARQUET}/{name}" for name in names]


def _streamed(files: list[str], split: Split) -> Iterator[Recording]:
    """Rows of parquet files, some at a time; `datasets` reads on after a cut connection."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=True)
    for row in rows.cast_column("audio", datasets.Audio(decode=False)):
        yield recording_of(row, files[0])


def recording_of(row: dict[str, Any], source: str) -> Recording:
    """A row of the conversion.

    Raises:
        UserError: it lacks something.
    """
    try:
        audio = row["audio"]
        name, data = Path(audio["path"]).name, audio["bytes"]
        line = manifest_line(
            row["id"], raw=row["raw_transcription"], text=row["transcription"], samples=row.get("num_samples")
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: has no {error} in a row; give a local copy: --data DIR") from error
    if not data:
        raise UserError(f"{source}: holds no audio for {name}; give a local copy: --data DIR")
    if not isinstance(line["text"], str):
        raise UserError(f"{source}: holds no transcription for {name}; give a local copy: --data DIR")
    return name, data, line


def _original(code: str, split: Split, limit: int | None) -> Iterator[Recording]:
    """FLEURS' own table and archive, which the client downloads in whole and keeps too."""
    from huggingface_hub import hf_hub_download

    name = FILE_NAMES[split][0]
    tsv, archive = (
        Path(hf_hub_download(REPOSITORY, f"data/{code}/{file}", repo_type="dataset"))
        for file in (f"{name}.tsv", f"audio/{name}.tar.gz")
    )
    try:
        yield from unpacked(tsv, archive, limit)
    except UserError as error:
        kept = (tsv if str(error).startswith(str(tsv)) else archive).resolve()  # what else there is links to it
        raise UserError(f"{error}: delete {kept}, which the Hub's client keeps, and run again") from error
