"""Finished folders of the Hugging Face Hub, by addresses such as ``hf://OWNER/NAME/int8@REVISION``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.bundle import FILES, METADATA, Bundle
from export.errors import UserError
from export.hub import (
    UnexpectedAnswerError,
    client_errors,
    commit_of,
    fetch_snapshot,
    hub_api,
    is_hubs,
    reason,
    remote_files,
    status,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf://"


@dataclass(frozen=True)
class RemoteFolder:
    """A finished folder of a repository: ``hf://OWNER/NAME/int8@revision``, without a folder for the root."""

    repo_id: str
    folder: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> RemoteFolder:
        """Read the address; huggingface_hub's own ``hf://OWNER/NAME@revision/int8`` is read too.

        Raises:
            UserError: it is no such address.
        """
        found = re.fullmatch(
            r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?P<early>@(?:refs/(?:pr|convert)/\w+|[^@/\s]+))?"
            r"(?P<folder>(/[\w.-]+)*)/?(?P<late>@[^@\s]+)?",
            text,
        )
        if not found or (found["early"] and found["late"]) or {".", ".."} & set(found["folder"].split("/")):
            raise UserError(f"{text}: no address of a folder; give hf://OWNER/NAME/FOLDER@REVISION")
        revision = (found["early"] or found["late"] or "").removeprefix("@") or None
        return cls(found["repo"], found["folder"].strip("/"), revision)

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        return f"{SCHEME}{self.repo_id}{folder}" + (f"@{self.revision}" if self.revision else "")


def local_folder(folder: str | Path) -> Path:
    """A folder of this machine: a path as it is, ``hf://…`` from huggingface_hub's cache, fetched where it is not.

    Args:
        folder: a path, or an address as in :class:`RemoteFolder`; ``Path("hf://a/b")``, which has lost a slash, too.

    Raises:
        UserError: the Hub cannot give it, or it is not what its own metadata say.
    """
    if not str(folder).startswith("hf:/"):
        return Path(folder)
    remote = RemoteFolder.parse(str(folder))
    wanted = ["config.json", *((f"{remote.folder}/" if remote.folder else "") + name for name in FILES)]
    snapshot = fetch_snapshot(remote.repo_id, remote.revision, wanted, "a local folder")  # config.json counts downloads
    path = snapshot / remote.folder
    if not (path / METADATA).is_file():
        raise UserError(f"{remote}: holds no {METADATA}; give one of the repository's folders, as in {SCHEME}…/int8")
    entries = _entries(remote, snapshot.name)
    small = [name for name, entry in entries.items() if not entry.lfs and not is_hubs(path / name, entry)]
    _refuse_damaged(remote, snapshot, small)  # its metadata among them, before they are read
    bundle = Bundle.open(path)
    large = [name for name, entry in entries.items() if entry.lfs and entry.lfs.sha256 != bundle.hashes[name]]
    _refuse_damaged(remote, snapshot, large or bundle.damaged_files())
    return path


def _entries(remote: RemoteFolder, commit: str) -> dict[str, RepoFile]:
    """What the Hub says of the folder's files, by name; nothing where it cannot be asked."""
    try:
        api = hub_api()
        commit_of(api, remote.repo_id, commit)  # fails at once without a network, where the next tries for long
        there = remote_files(api, remote.repo_id, commit)
    except client_errors() as error:
        if isinstance(error, UnexpectedAnswerError) or 400 <= (status(error) or 0) < 500:
            raise UserError(f"{remote}: cannot be compared with the Hub ({reason(error)}); run again") from error
        return {}
    prefix = f"{remote.folder}/" if remote.folder else ""
    return {name: there[prefix + name] for name in FILES if prefix + name in there}


def _refuse_damaged(remote: RemoteFolder, snapshot: Path, names: list[str]) -> None:
    if names:
        raise UserError(
            f"{remote}: {', '.join(names)} differ from what the Hub or {METADATA} says; delete "
            f"{snapshot.parents[1]} and run again, or report it to the repository's owner"
        )
