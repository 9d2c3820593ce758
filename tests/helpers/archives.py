"""Crafted ``.nemo`` archives: the smallest that opens, and everything that may be wrong with one."""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from export.checkpoint.archive import CONFIG, WEIGHTS, read_archive
from scripts.checkpoints.random.checkpoint import Dimensions, model_config

Member = tuple[str, bytes] | tuple[tarfile.TarInfo, bytes]


@cache
def demo_tokenizer() -> bytes:
    """The demo checkpoint's SentencePiece model."""
    from export import demo

    return next(data for name, data in read_archive(demo.CHECKPOINT).small.items() if name.endswith("tokenizer.model"))


def sentencepiece(pieces: Sequence[str]) -> bytes:
    """A SentencePiece model of these pieces; special ones have their types."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    for piece in pieces:
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3}.get(piece, 6 if piece.startswith("<0x") else 1)
        model.pieces.add(piece=piece, score=0.0, type=kind)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = any(piece.startswith("<0x") for piece in pieces)
    data: bytes = model.SerializeToString()
    return data


def tiny_config() -> dict[str, Any]:
    """A configuration that fits a few kilobytes of weights."""
    config = copy.deepcopy(model_config(Dimensions(1, 8, 2, 2, 2, 10), "multilingual"))
    files = {"model_path": "nemo:a_tokenizer.model", "vocab_path": "nemo:a_vocab.txt"}
    config["tokenizer"] = {"dir": "/somewhere/else", "type": "bpe", **files}
    return config


def members(config: dict[str, Any] | bytes | None = None) -> list[Member]:
    """The members of a tiny checkpoint."""
    text = config if isinstance(config, bytes) else yaml.safe_dump(config or tiny_config(), sort_keys=False).encode()
    return [
        (f"./{CONFIG}", text),
        (f"./{WEIGHTS}", bytes(20_000)),
        ("./a_tokenizer.model", demo_tokenizer()),
        ("./a_vocab.txt", b"pieces\n"),
    ]


def write(path: Path, contents: Sequence[Member], mode: str = "w") -> Path:
    """Write an archive of these members, in this order."""
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in contents:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A tiny checkpoint whose configuration ``change`` has been at."""
    config = tiny_config()
    change(config)
    return write(path, members(config))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """The header of a link or device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info
