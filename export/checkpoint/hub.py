"""Where a checkpoint comes from: a file, a Hugging Face repository, or this package."""

from __future__ import annotations

import re
from pathlib import Path

from export.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_checkpoint(source: str | None, revision: str | None = None) -> Path:
    """The local ``.nemo`` file for a path, a Hub id, the word ``demo``, or nothing (the embedded one).

    Raises:
        UserError: no such file, or the Hub cannot give it.
    """
    if source is None or source == "demo":
        from export import demo

        return demo.CHECKPOINT
    path = Path(source).expanduser()
    if path.exists():
        return path
    if _HUB_ID.fullmatch(source) and not source.endswith(".nemo"):
        return _download(source, revision)
    raise UserError(f"{source}: no such checkpoint; give a .nemo file, a Hugging Face id, or 'demo'")


def _download(repo_id: str, revision: str | None) -> Path:
    """Fetch the one ``.nemo`` file of a Hub repository through huggingface_hub's cache and token.

    Without a network, what an earlier download left in the cache is used.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=["*.nemo"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repo_id}: cannot be fetched from the Hugging Face Hub ({reason}); check the id, --revision, "
            "the network and HF_TOKEN, or give a local .nemo file"
        ) from error
    files = sorted(snapshot.glob("*.nemo"))
    if len(files) != 1:
        cached = "" if files else f", or its download to {snapshot} was never finished and there is no network now"
        raise UserError(
            f"{repo_id}: holds {len(files)} .nemo files, expected one{cached}; download it and give its path"
        )
    if not files[0].is_file():
        raise UserError(f"{files[0]}: its download was never finished; run again with a network, or give a local file")
    return files[0]
