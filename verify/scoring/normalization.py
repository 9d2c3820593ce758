"""The forms in which texts are compared, by name; every result says which one it was made with."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from export.errors import UserError

RateKind = Literal["corpus", "mean"]
"""A language's number: all errors over all words, or the mean of the utterances' rates."""

_APOSTROPHES = "'\u2019\u02bc"
_OTHER_ASCII = re.compile(r"[\x00-/:-@\[-`{-\x7f]+")
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class _Kept(dict[int, str]):
    """What :meth:`str.translate` makes of each character: nothing, a space or itself; found when first asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = (
            "" if character in _APOSTROPHES else " " if unicodedata.category(character).startswith("P") else character
        )
        return self[code]


_KEPT = _Kept()


@dataclass(frozen=True)
class Normalizer:
    """A way to compare texts.

    Attributes:
        name: as on the command line.
        apply: a text and its language to the form that is compared.
        kind: which rate is a language's number.
        separator: what stands between words; None for any white space.
    """

    name: str
    apply: Callable[[str, str], str]
    kind: RateKind = "corpus"
    separator: str | None = None

    def words(self, text: str, language: str = "") -> list[str]:
        """The words that are compared."""
        return [word for word in self.apply(text, language).split(self.separator) if word]


def normalize(text: str) -> str:
    """Unicode NFKC, case folded; apostrophes vanish, other punctuation becomes a space, white space is collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_KEPT).split())


def _published(text: str, _language: str) -> str:
    """As the published benchmark: ASCII letters lowered, any run of other ASCII a space, all else as it is.

    Only ASCII is lowered, so that ``É`` is not ``é``, and ``。``, ``¿`` and the ideographic space count.
    """
    return _OTHER_ASCII.sub(" ", text.translate(_ASCII_LOWER)).strip(" ")


def _whisper(text: str, language: str) -> str:
    """OpenAI's: the English one for English, the basic one for all others.

    The basic one makes spaces of combining marks, which tears words of Indic scripts.
    """
    return str(_whisper_normalizer(language.split("-", maxsplit=1)[0].lower() == "en")(text))


@functools.cache
def _whisper_normalizer(english: bool) -> Callable[[str], Any]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ModuleNotFoundError as error:
        raise UserError(
            "--normalizer whisper: whisper-normalizer is not installed; pip install 'nemotron-ov[whisper]'"
        ) from error
    made: Callable[[str], Any] = EnglishTextNormalizer() if english else BasicTextNormalizer()
    return made


NORMALIZERS = {
    each.name: each
    for each in (
        Normalizer("nfkc", lambda text, _: normalize(text)),
        Normalizer("published", _published, "mean", " "),
        Normalizer("whisper", _whisper),
        Normalizer("none", lambda text, _: text),
    )
}

DEFAULT_NORMALIZER = "nfkc"
"""Ours; the recipes' limits were set with it."""


def get_normalizer(name: str) -> Normalizer:
    """A normalizer by its name.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return NORMALIZERS[name]
    except KeyError as error:
        raise UserError(f"--normalizer {name}: no such normalizer; choose {', '.join(NORMALIZERS)}") from error
