"""NeMo checkpoints, before any weight is loaded.

:func:`open_checkpoint` reads configuration and tokenizer straight from the ``.nemo`` archive, which takes
milliseconds and needs neither torch nor NeMo; :func:`export.checkpoint.nemo.load_model` restores the PyTorch module.
"""

from __future__ import annotations

from pathlib import Path

from export.checkpoint.archive import read_archive, read_vocabulary
from export.checkpoint.config import Checkpoint, validate
from export.checkpoint.hub import resolve_checkpoint
from export.errors import UserError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(source: str | Path | None = None, revision: str | None = None) -> Checkpoint:
    """Read and check a checkpoint's configuration and vocabulary.

    Raises:
        UserError: not a ``.nemo`` file, truncated, or a model this toolkit cannot export.
    """
    path = resolve_checkpoint(None if source is None else str(source), revision)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a .nemo file; give the file inside it")
    if not path.exists():
        raise UserError(f"{path}: the embedded checkpoint is missing; restore it from the repository")
    config, tokenizer = read_archive(path)
    validate(path, config)
    return Checkpoint(path, str(source or "demo"), config, read_vocabulary(path, tokenizer))
