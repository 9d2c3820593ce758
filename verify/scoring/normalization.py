"""The form in which texts are compared."""

from __future__ import annotations

import unicodedata

_APOSTROPHES = "'\u2019\u02bc"


def normalize(text: str) -> str:
    """The form in which texts are compared.

    Unicode NFKC, case folded; apostrophes vanish, other punctuation becomes a space, white space is collapsed.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (
        "" if character in _APOSTROPHES else " " if unicodedata.category(character).startswith("P") else character
        for character in folded
    )
    return " ".join("".join(kept).split())
