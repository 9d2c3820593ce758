"""Words and their times from tokens and the encoder frames that emitted them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from verify.runtimes.transcript import WORD_START

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # kana, Han
)
"""Characters of scripts that are written without spaces."""

LONGEST_WORD = 32
"""Pieces; more begin another word, so that one that never ends can be taken and forgotten."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, from the beginning of the encoder frame of its first piece to the end of that of its last, in seconds.

    It ends no later than the next word begins. Where no spaces are written, in Japanese, Chinese, Thai, Lao, Burmese
    and Khmer, it is what one piece holds. ``spaced`` says whether a space comes before it in the text.
    """

    text: str
    start: float
    end: float
    spaced: bool = True


def group_words(
    emitted: Sequence[tuple[int, int]], piece: Callable[[int], str], seconds: float
) -> tuple[list[Word], int]:
    """The words that tokens make.

    Args:
        emitted: tokens and the encoder frames that emitted them.
        piece: a token's piece; empty for what is no text.
        seconds: of an encoder frame.

    Returns:
        The words, some without text (a space that was emitted alone), and how many tokens come before the last one.
    """
    words: list[Word] = []
    begin = pieces = 0  # the last word's first token, and how many pieces it has
    for index, (token, frame) in enumerate(emitted):
        written = piece(token)
        if not written:
            continue
        start, end = round(frame * seconds, 3), round((frame + 1) * seconds, 3)
        spaced, text = written.startswith(WORD_START), written.replace(WORD_START, " ").strip()
        last = words[-1].text if words else ""
        if not words or (spaced and last) or pieces == LONGEST_WORD or _begins_unspaced(last, text):
            words.append(Word(text, start, end, spaced))
            begin, pieces = index, 1
        else:
            words[-1] = replace(words[-1], text=last + text, end=end)
            pieces += 1
    ended = [replace(word, end=min(word.end, following.start)) for word, following in pairwise(words)]
    return [*ended, *words[-1:]], begin


def _begins_unspaced(before: str, text: str) -> bool:
    """Whether a piece that no space parts from what is before is a word of its own all the same."""
    return bool(
        before and text and _UNSPACED.match(text[0]) and not unicodedata.category(text[0]).startswith("M")
    )  # a mark belongs to the letter before it
