"""Languages as the model knows them: prompts that go in, and tags that come out among the tokens."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

DEFAULT_LANGUAGE = "auto"
"""The prompt that lets the model find the language itself."""

LANGUAGE_TAG = re.compile(r"<[a-z]{2,3}-[A-Za-z0-9]{2,4}>")
"""A vocabulary piece that names the language instead of being part of the text."""


MATCH = 9
"""Largest distance (CLDR's, as langcodes counts) at which a tag means a prompt: another region, the same script."""

NEAR = 40
"""Largest distance of the prompts that an error names."""


def language_key(language: str, prompt_dictionary: Mapping[str, int]) -> str:
    """The prompt for what people and data sets call a language: ``en_us``, ``EN``, ``cmn_hans_cn``, ``es-419``.

    An exact key wins; then one that differs in case and separators; then, for a two-letter code, the clients' choice
    (:func:`prompt_id_for`); then the nearest tag of the same language and script by CLDR.

    Args:
        language: see above.
        prompt_dictionary: language to row.

    Raises:
        ValueError: nothing fits; the message says what would.
    """
    if language in prompt_dictionary:
        return language
    wanted = language.strip().lower().replace("_", "-")
    for key in prompt_dictionary:
        if key.lower().replace("_", "-") == wanted:
            return key
    regional = _regional(wanted, prompt_dictionary)
    if regional:
        return regional
    from langcodes import tag_distance
    from langcodes.tag_parser import LanguageTagError

    with _ONE_AT_A_TIME:
        try:
            distances = {key: tag_distance(wanted, key) for key in prompt_dictionary if key != DEFAULT_LANGUAGE}
        except LanguageTagError:  # no tag at all, or a key that is none
            distances = {}
        near = sorted((key for key in distances if distances[key] <= NEAR), key=distances.__getitem__)
        same = [key for key in near if distances[key] <= MATCH and _is_one_language(wanted, key)]
    if same:
        return same[0]
    known = f"nearest: {', '.join(near[:4])}" if near else f"it has {', '.join(sorted(prompt_dictionary)[:12])}"
    raise ValueError(f"{language!r} is no language of this model; {known}")


_ONE_AT_A_TIME = threading.Lock()
"""langcodes changes tags that it keeps, so that two threads disturb each other; streams are opened from any thread."""

_NAMES = {"nb": "no"}
"""Two codes of one language, which CLDR keeps apart."""


def _is_one_language(one: str, other: str) -> bool:
    """Whether two tags name one language, in whatever region; CLDR calls Luxembourgish near to German too."""
    from langcodes import Language

    codes = [Language.get(tag).prefer_macrolanguage().language for tag in (one, other)]
    return len({_NAMES.get(code or "", code) for code in codes}) == 1


def is_same(spoken: str, tagged: str) -> bool:
    """Whether a tag is right of what is spoken; a language without a region, ``es``, accepts all: ``es-US``."""
    return tagged == spoken or ("-" not in spoken and tagged.split("-", maxsplit=1)[0] == spoken)


def prompt_language(language: str, prompt_dictionary: Mapping[str, int] | None) -> str:
    """What prompts a recording in this language: the language, or nothing where the model takes none."""
    return DEFAULT_LANGUAGE if prompt_dictionary is None else language


def _regional(language: str, prompt_dictionary: Mapping[str, int]) -> str | None:
    """The clients' key for a two-letter code, if it is one and there is any."""
    if len(language) != 2:
        return None
    regional = [key for key in prompt_dictionary if key.startswith(f"{language}-")]
    return min(regional, key=lambda key: key.encode()) if regional else None


def prompt_id_for(language: str, prompt_dictionary: Mapping[str, int], default: int) -> int:
    """The prompt row for a language, by the clients' rule.

    An exact key wins; else a two-letter code, in whatever case, takes the first ``xx-…`` key in byte order; else the
    default.

    Args:
        language: what the user asked for.
        prompt_dictionary: language to row.
        default: the row for anything unknown (``default_prompt_id``).
    """
    if language in prompt_dictionary:
        return prompt_dictionary[language]
    regional = _regional(language.lower(), prompt_dictionary)
    return default if regional is None else prompt_dictionary[regional]
