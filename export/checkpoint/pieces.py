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
        return tuple(pieces.id_to_piece(index) for index in range(pieces.get_piece_size()))
    except (RuntimeError, ValueError) as error:  # a piece that is no UTF-8 among them
        raise UserError(message) from error
