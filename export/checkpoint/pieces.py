"""The pieces of a SentencePiece model, and a model of pieces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


def sentencepiece_model(pieces: Sequence[str], tags: Collection[str]) -> bytes:
    """A model of type BPE with exactly these pieces in this order: good for ids to text, not for text to ids.

    Args:
        pieces: the first is the unknown one, unless another is called ``<unk>``.
        tags: those of them that text cannot be cut into.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    unknown = pieces.index("<unk>") if "<unk>" in pieces else 0
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.bos_id = model.trainer_spec.eos_id = model.trainer_spec.pad_id = -1
    model.trainer_spec.user_defined_symbols.extend(tags)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    kind = proto.ModelProto.SentencePiece
    for rank, text in enumerate(pieces):
        piece = model.pieces.add()
        piece.piece = text
        piece.score = -float(rank)
        piece.type = kind.NORMAL
        if rank == unknown:
            piece.type, piece.score = kind.UNKNOWN, 0.0
        elif text in tags:
            piece.type, piece.score = kind.USER_DEFINED, 0.0
    return bytes(model.SerializeToString())
