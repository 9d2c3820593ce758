"""The Hugging Face Hub: checkpoints and finished folders that come from there, and how its errors read.

Every request goes to ``HF_ENDPOINT`` as it is set at that moment, with the token that the client finds itself
(``HF_TOKEN``, or ``hf auth login``). Tokens and signed addresses never reach a message.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from export.bundle import FILES, METADATA, Bundle
from export.checkpoint.config import RANDOM_WEIGHTS, Checkpoint
from export.checkpoint.transformers_folder import CONFIG
from export.checkpoint.transformers_folder import FILES as TRANSFORMERS_FILES
from export.digest import file_facts
from export.errors import NemotronOVError, UserError
from export.progress import console, note

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CACHED = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]{40})(/|$)")
"""Where huggingface_hub's cache keeps a file of a repository."""

SCHEME = "hf://"

_TRIES, _LONGEST_WAIT = 4, 300.0

_SHORTEST_TOKEN = 6

Answer = TypeVar("Answer")


Format = Literal["nemo", "transformers"]
"""How a checkpoint is laid out."""


def resolve_checkpoint(source: str | None, revision: str | None = None, layout: Format | None = None) -> Path:
    """The local ``.nemo`` file, or folder in Transformers' layout, for what a user asks for.

    Args:
        source: a path, a Hub id, the word ``demo``, or None (the embedded one).
        revision: of the Hub id.
        layout: the one to take of a repository that holds both; None for the ``.nemo`` file, if there is one.

    Raises:
        UserError: no such checkpoint, or of another layout, or the Hub cannot give it.
    """
    if source is None or source == "demo":
        from export import demo

        return _of_layout(demo.CHECKPOINT, layout)
    path = Path(source).expanduser()
    if path.exists():
        return _of_layout(path, layout)
    if _HUB_ID.fullmatch(source) and not source.endswith(".nemo"):
        return _one_checkpoint(source, revision, layout)
    raise UserError(
        f"{source}: no such checkpoint; give a .nemo file, a folder as Transformers lays it out, a Hugging Face id, or "
        "'demo'"
    )


def _of_layout(path: Path, layout: Format | None) -> Path:
    """A local checkpoint, which is of the layout that was asked for."""
    if path.is_dir() and not (path / CONFIG).exists():
        nemo = sorted(path.glob("*.nemo"))
        remedy = f"give the file inside it, {nemo[0].name}" if nemo else "give a .nemo file, or a folder that has both"
        raise UserError(f"{path}: is a folder without {CONFIG} and model.safetensors; {remedy}")
    found: Format = "transformers" if path.is_dir() else "nemo"
    if layout not in (None, found):
        raise UserError(f"--checkpoint-format {layout}: {path} is in the layout of {found}; leave the option out")
    return path


def _one_checkpoint(repo_id: str, revision: str | None, layout: Format | None) -> Path:
    """The one ``.nemo`` file of a Hub repository; where it holds none, or that is asked, its Transformers folder."""
    files: list[Path] = []
    if layout != "transformers":
        snapshot = _snapshot(repo_id, revision, ["*.nemo"], "a local .nemo file")
        files = sorted(snapshot.glob("*.nemo"))
    if layout == "transformers" or (layout is None and not files):
        folder = _snapshot(repo_id, revision, list(TRANSFORMERS_FILES), "a local folder")
        if (folder / CONFIG).exists():
            return folder
        if layout == "transformers":
            raise UserError(f"{repo_id}: holds no {CONFIG}, so it is not in Transformers' layout; give another id")
    if len(files) != 1:
        cached = "" if files else f", or its download to {snapshot} was never finished and there is no network now"
        raise UserError(
            f"{repo_id}: holds {len(files)} .nemo files, expected one{cached}; download it and give its path"
        )
    if not files[0].is_file():
        raise UserError(f"{files[0]}: its download was never finished; run again with a network, or give a local file")
    return files[0]


def checkpoint_name(path: Path) -> str:
    """What a folder in Transformers' layout is called: the Hub's name of the repository, or its own."""
    found = _cached(path)
    return found["name"] if found else path.absolute().name


def _cached(path: Path) -> re.Match[str] | None:
    return _CACHED.search(path.absolute().as_posix())


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What folders and reports record of their checkpoint: names and hash, but no path of this machine.

    ``source`` is the Hub id where the file lies in huggingface_hub's cache, with ``revision``, the commit.
    """
    source, found = checkpoint.source, _cached(checkpoint.path)
    if found:
        source = f"{found['owner']}/{found['name']}"
    elif Path(source).expanduser().exists():
        source = Path(source).name
    facts: dict[str, Any] = {"source": source, "file": checkpoint.path.name, "sha256": checkpoint.sha256}
    if checkpoint.shards:
        facts |= {"file": checkpoint.shards[0].name, "format": "transformers"}
        facts |= {"config_sha256": checkpoint.config_sha256}
        facts |= {"files": len(checkpoint.shards)} if len(checkpoint.shards) > 1 else {}
        facts |= {"transformers_version": checkpoint.writer} if checkpoint.writer else {}
    facts |= {"revision": found["revision"]} if found else {}
    return facts | ({RANDOM_WEIGHTS: True} if checkpoint.is_random else {})


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
    snapshot = _snapshot(remote.repo_id, remote.revision, wanted, "a local folder")  # config.json counts downloads
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


def remote_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    """Every file of a revision, by path, with its size and checksum."""
    from huggingface_hub.hf_api import RepoFile

    entries = patiently(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision)))
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def commit_of(api: HfApi, repo_id: str, revision: str | None) -> str:
    """The commit that a revision is now."""
    sha = patiently(lambda: api.repo_info(repo_id, revision=revision)).sha
    if not sha:
        raise UnexpectedAnswerError(f"the Hub names no commit of {repo_id}")
    return sha


def is_hubs(file: Path, entry: RepoFile) -> bool:
    """Whether a file has the Hub's size and checksum."""
    if not file.is_file() or file.stat().st_size != entry.size:
        return False
    if entry.lfs:
        return bool(file_facts(file)["sha256"] == entry.lfs.sha256)
    return git_sha1(file.read_bytes()) == entry.blob_id


def _snapshot(repo_id: str, revision: str | None, patterns: list[str], instead: str) -> Path:
    """Files of a repository in huggingface_hub's cache; without a network, what an earlier download left there."""
    from huggingface_hub import snapshot_download

    remedy = f"check the id, the revision, the network and HF_TOKEN, or give {instead}"
    with hub_errors(f"{repo_id}: cannot be fetched from the Hugging Face Hub", remedy):
        return Path(
            patiently(
                lambda: snapshot_download(repo_id, revision=revision, allow_patterns=patterns, endpoint=endpoint())
            )
        )


def endpoint() -> str | None:
    """``HF_ENDPOINT`` as it is now; huggingface_hub reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def hub_api() -> HfApi:
    """The client."""
    from importlib.metadata import version

    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="nemotron-ov", library_version=version("nemotron-ov"))


@contextmanager
def hub_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn what the client raises into one line: ``what (reason); remedy``.

    The client's own warnings pass on without tokens and signatures.

    Raises:
        UserError: the client failed.
    """
    with _quiet_client():
        try:
            yield
        except NemotronOVError:
            raise
        except client_errors() as error:
            raise UserError(f"{what} ({reason(error)}); {remedy}") from error
        except RuntimeError as error:  # the upload of one file
            if not isinstance(error.__cause__, client_errors()):
                raise
            raise UserError(f"{what} ({reason(error)}); {remedy}") from error


def client_errors() -> tuple[type[Exception], ...]:
    """What the client raises: errors of its HTTP library, httpx or httpx2, of the system, and of what it was told."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = HfHubHTTPError.__bases__
    library = import_module(bases[0].__module__.partition(".")[0])
    return cast("tuple[type[Exception], ...]", (*bases, ValueError, library.InvalidURL))


class UnexpectedAnswerError(ValueError):
    """The Hub, or what stands for it, answered something that the client cannot read."""


@contextmanager
def _quiet_client() -> Iterator[None]:
    """The client's messages without secrets, and its progress bars on terminals only."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hush, handlers = _Hush(), logging.getLogger("huggingface_hub").handlers
    no_bars = not console.is_terminal and not are_progress_bars_disabled()
    for handler in handlers:
        handler.addFilter(hush)
    if no_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        if no_bars:
            enable_progress_bars()
        for handler in handlers:
            handler.removeFilter(hush)


def patiently(call: Callable[[], Answer]) -> Answer:
    """Ask the Hub, and ask again where it says to wait (429, 503 with ``Retry-After``), a few times.

    Raises:
        Exception: as the client.
    """
    for _ in range(_TRIES):
        try:
            return _asked(call)
        except client_errors() as error:
            wait = _seconds_to_wait(error)
            if wait is None:
                raise
            note(f"the Hub asks to wait {wait:g} s ({status(error)})")
            time.sleep(wait)
    return _asked(call)


def _asked(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UnexpectedAnswerError(f"its answer is not what was asked for ({found}); is it a Hub?") from error


def _seconds_to_wait(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    if status(error) not in (429, 503) or response is None:
        return None
    try:
        wait = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return wait if 0 <= wait <= _LONGEST_WAIT else None


def status(error: BaseException) -> int | None:
    """The HTTP status behind an error, None where there was no answer."""
    response = getattr(error, "response", None)
    if response is None and error.__cause__ is not None:
        return status(error.__cause__)
    return None if response is None else int(response.status_code)


def reason(error: BaseException) -> str:
    """Why the client failed, in one line without tokens or signed addresses."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return f"{_first_line(error).removesuffix('.')}: {reason(error.__cause__)}"
    code, said = status(error), getattr(error, "server_message", None)
    if code is not None and said:
        return without_secrets(f"{code}: {' '.join(str(said).split())}")
    text = without_secrets(_first_line(error))
    return f"{text}; HF_HUB_DISABLE_XET=1 sends by Git LFS instead" if "/xet-" in text else text


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def without_secrets(text: str) -> str:
    """A text without the token, what looks like another, and what an address may hold: passwords and signatures."""
    from huggingface_hub import get_token

    token = get_token()
    if token and len(token) >= _SHORTEST_TOKEN:
        text = text.replace(token, "…")
    text = re.sub(r"\b(hf|api)_[\w.-]{6,}", r"\1_…", text)
    text = re.sub(r"(https?://)[^\s/]*@", r"\1…@", text)
    return re.sub(r"(https?://[^\s?]+)\?[^\s']+", r"\1", text)


class _Hush(logging.Filter):
    """Takes secrets out of the client's messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


def git_sha1(content: bytes) -> str:
    """Git's identity of a file, which the Hub gives for what is not stored as a large file."""
    from huggingface_hub.utils.sha import git_hash

    return git_hash(content)
