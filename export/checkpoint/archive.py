"""The ``.nemo`` archive: its configuration and its SentencePiece model, read without unpacking the weights."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import yaml

from export.errors import UserError


def read_archive(path: Path) -> tuple[dict[str, Any], bytes]:
    """Configuration and SentencePiece model of a ``.nemo`` archive (tar, plain or compressed).

    Raises:
        UserError: no archive, truncated, or without a configuration.
    """
    members: dict[str, bytes] = {}
    weights = False
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                weights = weights or name.endswith(".ckpt")
                if name == "model_config.yaml" or name.endswith("tokenizer.model"):
                    file = archive.extractfile(member)
                    members[name] = file.read() if file else b""
                archive.members = []  # type: ignore[attr-defined]  # keeps memory flat on large archives
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a readable .nemo archive ({error}); download it again") from error
    if "model_config.yaml" not in members:
        raise UserError(f"{path}: holds no model_config.yaml, so it is no .nemo checkpoint; give a NeMo .nemo file")
    if not weights:
        raise UserError(f"{path}: holds no weights (model_weights.ckpt), so it is truncated; download it again")
    tokenizers = [data for name, data in members.items() if name.endswith("tokenizer.model")]
    config = yaml.safe_load(members["model_config.yaml"])
    if not isinstance(config, dict):
        raise UserError(f"{path}: its model_config.yaml is no mapping; the file is damaged, download it again")
    return config, tokenizers[0] if tokenizers else b""


def read_vocabulary(path: Path, tokenizer: bytes) -> tuple[str, ...]:
    """The pieces of the SentencePiece model, in id order.

    Raises:
        UserError: it is missing or damaged.
    """
    from sentencepiece import SentencePieceProcessor

    message = f"{path}: its SentencePiece tokenizer is missing or damaged; download it again"
    if not tokenizer:
        raise UserError(message)
    try:
        pieces = SentencePieceProcessor(model_proto=tokenizer)
    except (RuntimeError, ValueError) as error:
        raise UserError(message) from error
    return tuple(pieces.id_to_piece(index) for index in range(pieces.get_piece_size()))
