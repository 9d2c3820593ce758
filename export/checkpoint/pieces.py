"""The pieces of a SentencePiece model."""

from __future__ import annotations

from pathlib import Path

from export.errors import UserError


def read_vocabulary(path: Path, tokenizer: bytes) -> tuple[str, ...]:
    """The pieces, in id order.

    Raises:
        UserError: the model is missing or damaged.
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
