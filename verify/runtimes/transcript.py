"""What a recognizer returns, and how tokens become text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.languages import DEFAULT_LANGUAGE

WORD_START = "▁"
"""U+2581, SentencePiece's mark for the start of a word."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_SPECIAL = {"<unk>": f"{WORD_START}\u2047{WORD_START}", "<s>": "", "</s>": "", "<pad>": ""}
"""What SentencePiece writes for its own pieces; its names and surfaces are the defaults of its trainer."""

MAX_SYMBOLS = 10
"""Most tokens a frame may emit: NeMo's configuration of these models, and a constant of the clients."""


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each graph, and how often it ran; ``wall`` is the whole call.

    ``steps`` are the seconds of each chunk, its audio in to its tokens out; of a batch, each stream has all of them.
    """

    wall: float = 0.0
    mel: float = 0.0
    encoder: float = 0.0
    decoder: float = 0.0
    joint: float = 0.0
    mel_calls: int = 0
    encoder_calls: int = 0
    decoder_calls: int = 0
    joint_calls: int = 0
    steps: tuple[float, ...] = ()

    def __add__(self, other: Timings) -> Timings:
        """Sum of both, field by field; the steps of both in a row."""
        return Timings(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Transcript:
    """One recognized utterance."""

    tokens: list[int]  # every emitted token that is not blank, language tags included
    frames: list[int]  # encoder frame of each token, counted from the start of the stream
    text: str
    language: str | None  # first language tag met, without its brackets: "en-US"
    audio_seconds: float
    timings: Timings = field(default_factory=Timings)
    together: bool = False  # in steps or at a time with others: timings are shares that add up, and no chunk was timed
    worker: str | None = None  # machine of a cluster that transcribed it, where nobody knows what else it computed


class Recognizer(Protocol):
    """A runtime that turns audio into a transcript: a folder's graphs, or NeMo itself."""

    def transcribe(self, audio: NDArray[np.float32], language: str = DEFAULT_LANGUAGE) -> Transcript:
        """Recognize one utterance.

        Args:
            audio: signal of shape [samples] at the model's sample rate, ±1.
            language: key of the prompt dictionary, two-letter code, or ``auto``.
        """
        ...


def detokenize(
    tokens: Sequence[int], vocabulary: Sequence[str], tag_ids: Collection[int] = ()
) -> tuple[str, str | None]:
    """Text and detected language of a token sequence, as the clients make them.

    Ids past the vocabulary (blank among them) and language tags are dropped, the first tag met is the language,
    the other pieces are concatenated as they are, ``<unk>`` and byte pieces included, ``▁`` becomes a space, and the
    ends are trimmed. :func:`decode` is SentencePiece's way.

    Args:
        tokens: ids.
        vocabulary: pieces in id order.
        tag_ids: ids of the language tags (``lang_tag_token_ids``).
    """
    tags = frozenset(tag_ids)
    known = [token for token in tokens if 0 <= token < len(vocabulary)]
    language = next((vocabulary[token].strip("<>") for token in known if token in tags), None)
    text = "".join(vocabulary[token] for token in known if token not in tags)
    return text.replace(WORD_START, " ").strip(), language


def decode(tokens: Sequence[int], vocabulary: Sequence[str], tag_ids: Collection[int] = ()) -> tuple[str, str | None]:
    """Text and detected language as SentencePiece decodes: :func:`detokenize`, with the special pieces understood."""
    _, language = detokenize(tokens, vocabulary, tag_ids)
    return "".join(written(tokens, vocabulary, tag_ids)).replace(WORD_START, " ").strip(), language


def written(tokens: Sequence[int], vocabulary: Sequence[str], tag_ids: Collection[int] = ()) -> list[str]:
    """What each token writes, as SentencePiece decodes, spaces as ``▁``.

    Byte pieces (``<0xE3>``) in a row are UTF-8: a character stands at its first byte and the others write nothing; a
    byte that belongs to no character writes U+FFFD. ``<unk>`` writes ``▁⁇▁``; tags and control pieces write nothing.
    """
    tags = frozenset(tag_ids)
    pieces = [vocabulary[each] if 0 <= each < len(vocabulary) and each not in tags else "" for each in tokens]
    texts = [_SPECIAL.get(piece, piece) for piece in pieces]
    found = [_BYTE.fullmatch(piece) for piece in pieces]
    start = 0
    for _, group in groupby(found, key=bool):
        run = list(group)
        end = start + len(run)
        values = bytes(int(match[1], 16) for match in run if match)
        if values:
            texts[start:end] = [""] * len(run)
        for character in values.decode("utf-8", "surrogateescape"):  # a byte of no character becomes a lone surrogate
            lone = "\udc80" <= character <= "\udcff"
            texts[start] = "\ufffd" if lone else character
            start += 1 if lone else len(character.encode("utf-8"))
        start = end
    return texts
