"""The Hugging Face Hub's client: how it is asked, and how its errors read.

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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from export.digest import file_facts
from export.errors import NemotronOVError, UserError
from export.progress import console, note

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_TRIES, _LONGEST_WAIT = 4, 300.0

_SHORTEST_TOKEN = 6

Answer = TypeVar("Answer")


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


def fetch_snapshot(repo_id: str, revision: str | None, patterns: list[str], instead: str) -> Path:
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
    code, message = status(error), getattr(error, "server_message", None)
    if code is not None and message:
        return without_secrets(f"{code}: {' '.join(str(message).split())}")
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
