"""Sentences from small context-free grammars, split so that no sentence is in two parts.

A grammar is a text file in ``grammars/``: one rule a line, ``name = alternative | alternative``, where
``{name}`` stands for another rule. Every sentence belongs to exactly one :class:`Split`, decided by a
hash of its text, so training can never meet an evaluation sentence whatever the seeds are.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

GRAMMAR_DIRECTORY = Path(__file__).parent / "grammars"
MIN_WORDS, MAX_WORDS = 3, 25
_SPLIT_BUCKETS = 16
_REFERENCE = re.compile(r"\{(\w+)\}")
_PUNCTUATION = re.compile(r"[.,?¿、。]")
_JAPANESE_ATTACHED = frozenset(
    ("は", "が", "を", "に", "で", "と", "も", "の", "か", "から", "ので", "まで", "たい", "ます", "です")
)


class Split(StrEnum):
    """Which part of the corpus a sentence or a voice belongs to."""

    TRAIN = "train"
    DEVELOPMENT = "development"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Language:
    """One language of the demo model."""

    tag: str  # BCP-47, as in the prompt dictionary and the `<xx-XX>` piece
    espeak: str  # voice name of espeak-ng
    prompt_id: int  # row of the prompt one-hot, the ids of the real model
    by_characters: bool = False  # transcripts without spaces, scored as CER

    @property
    def piece(self) -> str:
        """The tokenizer piece the model emits after a sentence of this language."""
        return f"<{self.tag}>"


LANGUAGES = (
    Language("en-US", "en-us", 0),
    Language("es-US", "es-419", 3),
    Language("fr-FR", "fr-fr", 8),
    Language("de-DE", "de", 9),
    Language("ja-JP", "ja", 10, by_characters=True),
)


@dataclass(frozen=True)
class Sentence:
    """A sentence as written in the transcript and as given to the synthesizer."""

    text: str
    spoken: str
    words: int


def generator(seed: str) -> random.Random:
    """A reproducible source of choices; the name of what it is for belongs into `seed`."""
    return random.Random(seed)  # noqa: S311 - sentences are no secrets


@cache
def load_rules(tag: str) -> dict[str, tuple[str, ...]]:
    """Read the grammar of language `tag`: rule name -> alternatives."""
    rules: dict[str, tuple[str, ...]] = {}
    for line in (GRAMMAR_DIRECTORY / f"{tag}.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, alternatives = line.partition(" = ")
            rules[name.strip()] = tuple(part.strip() for part in alternatives.split(" | "))
    return rules


def expand(rules: dict[str, tuple[str, ...]], name: str, rng: random.Random) -> str:
    """Expand rule `name` to words separated by spaces."""
    chosen = rng.choice(rules[name])
    return _REFERENCE.sub(lambda match: expand(rules, match.group(1), rng), chosen)


def vocabulary(tag: str) -> set[str]:
    """The distinct words (lower case, without punctuation) that the grammar of `tag` can produce."""
    alternatives = (text for choices in load_rules(tag).values() for text in choices)
    words = (word for text in alternatives for word in _PUNCTUATION.sub(" ", _REFERENCE.sub(" ", text)).split())
    return {word.lower() for word in words}


def split_of(text: str) -> Split:
    """The part of the corpus that `text` belongs to, from a hash of its letters alone."""
    letters = "".join(character for character in text.lower() if character.isalnum())
    bucket = hashlib.sha256(letters.encode()).digest()[0] % _SPLIT_BUCKETS
    return {0: Split.EVALUATION, 1: Split.DEVELOPMENT}.get(bucket, Split.TRAIN)


def draw_sentence(
    language: Language, split: Split, rng: random.Random, max_words: int = MAX_WORDS, min_words: int = MIN_WORDS
) -> Sentence:
    """Draw one sentence of `split` with `min_words` to `max_words` words."""
    rules = load_rules(language.tag)
    while True:
        sentence = _finish(language, expand(rules, "sentence", rng))
        if min_words <= sentence.words <= max_words and split_of(sentence.text) is split:
            return sentence


def _finish(language: Language, expansion: str) -> Sentence:
    """Case, spacing and the synthesizer's spelling for the raw expansion of a grammar."""
    words = len(_PUNCTUATION.sub(" ", expansion).split())
    if language.by_characters:
        return Sentence(expansion.replace(" ", ""), _attach_particles(expansion), words)
    text = re.sub(r"[^\W\d_]", lambda match: match.group().upper(), expansion, count=1)
    return Sentence(text, text, words)


def _attach_particles(expansion: str) -> str:
    """Write Japanese particles onto the word before them, as they are pronounced."""
    spoken = ""
    for word in expansion.split():
        attached = word.strip("、。") in _JAPANESE_ATTACHED or word in "、。"
        spoken += word if attached or not spoken else f" {word}"
    return spoken


def joined_text(language: Language, sentences: list[Sentence], *, tags: bool) -> str:
    """The transcript of sentences spoken one after another, with a language tag behind each if `tags`."""
    tail = language.piece if tags else ""
    return ("" if language.by_characters else " ").join(sentence.text + tail for sentence in sentences)
