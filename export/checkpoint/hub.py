"""Checkpoints by what a user calls them: a path, a Hub id, ``demo``; and what folders record of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from export.checkpoint.config import RANDOM_WEIGHTS, Checkpoint
from export.checkpoint.transformers_folder import CONFIG
from export.checkpoint.transformers_folder import FILES as TRANSFORMERS_FILES
from export.errors import UserError
from export.hub import fetch_snapshot

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CACHED = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]{40})(/|$)")
"""Where huggingface_hub's cache keeps a file of a repository."""

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

        return _of_layout(demo.CHECKPOINT, revision, layout)
    path = Path(os.path.expanduser(source))
    if path.exists():
        return _of_layout(path, revision, layout)
    if _HUB_ID.fullmatch(source) and not source.endswith(".nemo"):
        return _one_checkpoint(source, revision, layout)
    raise UserError(
        f"{source}: no such checkpoint; give a .nemo file, a folder as Transformers lays it out, a Hugging Face id, or "
        "'demo'"
    )


def _of_layout(path: Path, revision: str | None, layout: Format | None) -> Path:
    """A local checkpoint, which is of the layout that was asked for and has no revisions."""
    if revision is not None:
        raise UserError(f"--revision {revision}: {path} lies on this machine; leave the option out, or give a Hub id")
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
        snapshot = fetch_snapshot(repo_id, revision, ["*.nemo"], "a local .nemo file")
        files = sorted(snapshot.glob("*.nemo"))
    if layout == "transformers" or (layout is None and not files):
        folder = fetch_snapshot(repo_id, revision, list(TRANSFORMERS_FILES), "a local folder")
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
    elif Path(os.path.expanduser(source)).exists():
        source = Path(source).name
    facts: dict[str, Any] = {"source": source, "file": checkpoint.path.name, "sha256": checkpoint.sha256}
    if checkpoint.shards:
        facts |= {"file": checkpoint.shards[0].name, "format": "transformers"}
        facts |= {"config_sha256": checkpoint.config_sha256}
        facts |= {"files": len(checkpoint.shards)} if len(checkpoint.shards) > 1 else {}
        facts |= {"transformers_version": checkpoint.writer} if checkpoint.writer else {}
    facts |= {"revision": found["revision"]} if found else {}
    return facts | ({RANDOM_WEIGHTS: True} if checkpoint.is_random else {})
