"""Languages as the model knows them: prompts that go in, and tags that come out among the tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping

DEFAULT_LANGUAGE = "auto"
"""The prompt that lets the model find the language itself."""

LANGUAGE_TAG = re.compile(r"<[a-z]{2,3}-[A-Za-z0-9]{2,4}>")
"""A vocabulary piece that names the language instead of being part of the text."""


def prompt_id_for(language: str, prompt_dictionary: Mapping[str, int], default: int) -> int:
    """The prompt row for a language, by the clients' rule.

    An exact key wins; else a two-letter code takes the first ``xx-…`` key in byte order; else the default.

    Args:
        language: what the user asked for.
        prompt_dictionary: language to row.
        default: the row for anything unknown (``default_prompt_id``).
    """
    if language in prompt_dictionary:
        return prompt_dictionary[language]
    if len(language) == 2:
        regional = [key for key in prompt_dictionary if key.startswith(f"{language}-")]
        if regional:
            return prompt_dictionary[min(regional, key=lambda key: key.encode())]
    return default
