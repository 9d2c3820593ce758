"""Get one folder of a repository: whole and with the Hub's checksums, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from export.bundle import BUNDLE, FILES, METADATA, Bundle
from export.contract import contract_problems
from export.errors import ParityError, UserError
from export.folders import new_directory, refuse_existing
from export.hub import commit_of, hub_api, hub_errors, is_hubs, patiently, remote_files
from export.progress import note
from export.remote_folder import RemoteFolder
from export.removal import scratch_folder
from scripts.disk import SLACK, require_room

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile


def fetch_folder(remote: RemoteFolder, directory: Path, *, force: bool = False) -> Bundle:
    """Download a folder, compare every file with the Hub's checksum, and check it as `inspect` does.

    Args:
        remote: which one; its files lie in the root of the repository where it names no folder.
        directory: what to write.
        force: replace a folder of ours.

    Raises:
        UserError: the Hub has no such folder or cannot give it, or the folder cannot be written.
        ParityError: what came is not what the Hub or its own metadata say.
    """
    refuse_existing(directory, kind=BUNDLE, force=force)
    api = hub_api()
    remedy = "check the id, --precision, --revision, the network and HF_TOKEN, then run again"
    with hub_errors(f"{remote}: cannot be fetched from the Hugging Face Hub", remedy):
        commit = commit_of(api, remote.repo_id, remote.revision)
        files = _wanted(remote, remote_files(api, remote.repo_id, commit))
        require_room([(directory, SLACK + sum(file.size for file in files.values()))], "or choose another folder")
        with (
            new_directory(directory, kind=BUNDLE, force=force) as temporary,
            scratch_folder(directory.absolute()) as incoming,
        ):
            _download(api, remote, commit, files, incoming, temporary)
            bundle = Bundle.open(temporary)
            problems = [f"{name}: differs from {METADATA}" for name in bundle.damaged_files()]
            problems = problems or contract_problems(bundle)
            if problems:
                raise ParityError(f"{remote}: {'; '.join(problems)}; nothing was kept, tell the repository's owner")
    return Bundle.open(directory)


def _wanted(remote: RemoteFolder, there: dict[str, RepoFile]) -> dict[str, RepoFile]:
    """The folder's files by their names in it."""
    prefix = f"{remote.folder}/" if remote.folder else ""
    files = {name: there[prefix + name] for name in FILES if prefix + name in there}
    if METADATA not in files:
        folders = sorted(path.rpartition("/")[0] for path in there if path.rpartition("/")[2] == METADATA)
        named = ", ".join(folder or "its root (leave --precision out)" for folder in folders)
        raise UserError(f"{remote}: holds no {METADATA}; finished folders there: {named or 'none'}")
    missing = [name for name in FILES if name not in files]
    if missing:
        raise UserError(f"{remote}: lacks {', '.join(missing)}; tell the repository's owner")
    return files


def _download(
    api: HfApi, remote: RemoteFolder, commit: str, files: dict[str, RepoFile], incoming: Path, folder: Path
) -> None:
    """Get every file into ``incoming``, and move it to ``folder`` when its checksum is the Hub's.

    Nothing is taken from the client's own cache, where a file that came corrupted would stay.
    """
    total, done = sum(file.size for file in files.values()), 0
    for name, file in files.items():
        note(f"fetching {file.path}, {file.size / 1e6:.1f} MB; {done / 1e6:.1f} of {total / 1e6:.1f} MB are here")
        came = Path(
            patiently(
                lambda file=file: api.hf_hub_download(  # type: ignore[misc]
                    remote.repo_id, file.path, revision=commit, local_dir=incoming, cache_dir=incoming / "cache"
                )
            )
        )
        if not is_hubs(came, file):
            raise ParityError(f"{remote}: {file.path} came with another checksum than the Hub's; run again")
        came.rename(folder / name)
        done += file.size
    _count(api, remote, commit)


def _count(api: HfApi, remote: RemoteFolder, commit: str) -> None:
    """Ask for config.json, which the Hub counts downloads by."""
    patiently(lambda: api.file_exists(remote.repo_id, "config.json", revision=commit))
