"""Checkpoints of either layout, before any weight is loaded.

:func:`open_checkpoint` reads configuration and vocabulary of a ``.nemo`` archive or of a folder as Transformers lays it
out, which takes milliseconds and needs neither torch nor NeMo. :func:`export.checkpoint.weights.read_weights` maps the
tensors, and :func:`export.checkpoint.nemo.load_model` makes NeMo's model of them.
Nothing in a checkpoint is run: the configuration is plain values, and names no class outside of NeMo's recognizers.
"""

from __future__ import annotations

from pathlib import Path

from export.checkpoint.archive import CONFIG, WEIGHTS, read_archive
from export.checkpoint.config import Checkpoint, check_supported
from export.checkpoint.hub import Format, checkpoint_name, resolve_checkpoint
from export.checkpoint.pieces import read_vocabulary
from export.checkpoint.schema import check_config, check_size, tokenizer_members
from export.checkpoint.transformers_folder import open_folder
from export.checkpoint.yaml_config import ConfigError, read_config
from export.digest import file_state
from export.errors import UserError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(
    source: str | Path | None = None, revision: str | None = None, layout: Format | None = None
) -> Checkpoint:
    """Read and check a checkpoint's configuration and vocabulary.

    Args:
        source: a ``.nemo`` file, a folder as Transformers lays it out, a Hub id, or ``demo`` (as None).
        revision: of the Hub id.
        layout: which one to take where a repository holds both; None for the ``.nemo`` file, if there is one.

    Raises:
        UserError: no such checkpoint, damaged, or a model this toolkit cannot export.
    """
    path = resolve_checkpoint(None if source is None else str(source), revision, layout)
    if path.is_dir():
        return open_folder(path, str(source), checkpoint_name(path))
    if not path.exists():
        raise UserError(f"{path}: the embedded checkpoint is missing; restore it from the repository")
    opened = (file_state(path),)
    archive = read_archive(path)
    try:
        config = read_config(archive.small.get(CONFIG, b""))
    except ConfigError as error:
        raise UserError(f"{path}: its {CONFIG} cannot be used: {error}; give a checkpoint as NeMo wrote it") from error
    check_supported(path, config)
    checked = check_config(path, config)
    tokenizer = tokenizer_members(path, checked.tokenizer, archive.sizes)
    vocabulary = read_vocabulary(path, archive.small.get(tokenizer["model_path"], b""))
    check_size(path, checked, len(vocabulary), archive.sizes[WEIGHTS])
    return Checkpoint(path, str(source or "demo"), config, vocabulary, path.stem, opened, tokenizer, archive.sizes)
