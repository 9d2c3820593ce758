"""Word and character error rates: how far a transcript is from a text.

Languages written without spaces between words are scored by characters (CER), all others by words (WER). Before
scoring, both sides are normalized (:func:`normalize`); the raw rate keeps case and punctuation. All rates are
percentages of the reference's units, so that differences between them are points. Error counts are jiwer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import jiwer

from verify.scoring.normalization import normalize

Metric = Literal["wer", "cer"]

CHARACTER_LANGUAGES = frozenset({"bo", "cmn", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"})
"""Written without spaces between words."""


@dataclass(frozen=True)
class Score:
    """Errors of some transcripts, counted over the reference's words or characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0  # words or characters of the reference

    @property
    def edits(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per 100 reference units; 100 where the reference is empty and something was recognized."""
        if not self.units:
            return 100.0 if self.edits else 0.0
        return 100.0 * self.edits / self.units

    def __add__(self, other: Score) -> Score:
        """Both together, weighted by their units."""
        return Score(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.units + other.units,
        )


def metric_for(language: str) -> Metric:
    """How a language is scored: ``zh-CN`` by characters, ``en-US`` by words."""
    return "cer" if language.replace("_", "-").split("-")[0].lower() in CHARACTER_LANGUAGES else "wer"


def score_text(reference: str, hypothesis: str, metric: Metric, *, raw: bool = False) -> Score:
    """Errors of one transcript.

    Args:
        reference: the transcript.
        hypothesis: what was recognized.
        metric: count words or characters; white space does not count as a character.
        raw: compare case and punctuation too.
    """
    if not raw:
        reference, hypothesis = normalize(reference), normalize(hypothesis)
    if metric == "cer":
        wanted, given = "".join(reference.split()), "".join(hypothesis.split())
        units, others = len(wanted), len(given)
    else:
        wanted, given = " ".join(reference.split()), " ".join(hypothesis.split())
        units, others = len(wanted.split()), len(given.split())
    if not units or not others:
        return Score(deletions=units, insertions=others, units=units)
    result = jiwer.process_characters(wanted, given) if metric == "cer" else jiwer.process_words(wanted, given)
    return Score(result.substitutions, result.deletions, result.insertions, units)


def macro_average(scores: Iterable[tuple[str, Score]]) -> float:
    """The mean of the languages' rates, each language's errors over its own words or characters; 0 where none is given.

    Args:
        scores: the language and the errors of each transcript.
    """
    languages: dict[str, Score] = {}
    for language, score in scores:
        languages[language] = languages.get(language, Score()) + score
    return sum(each.rate for each in languages.values()) / len(languages) if languages else 0.0


def total(scores: Iterable[Score]) -> Score:
    """All scores together: total errors over total units."""
    return sum(scores, start=Score())
