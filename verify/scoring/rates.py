"""Word and character error rates: how far a transcript is from a text.

Languages written without spaces between words are scored by characters (CER), all others by words (WER). Before
scoring, both sides are normalized (:mod:`verify.scoring.normalization`). All rates are percentages of the reference's
units, so that differences between them are points. Error counts are rapidfuzz's, as jiwer's are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein

from verify.scoring.normalization import DEFAULT_NORMALIZER, NORMALIZERS

Metric = Literal["wer", "cer"]
ErrorKind = Literal["substitutions", "deletions", "insertions"]

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

    def share(self, kind: ErrorKind) -> float:
        """Its part in :attr:`rate`."""
        return self.rate * getattr(self, kind) / self.edits if self.edits else 0.0

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


def score_text(
    reference: str, hypothesis: str, metric: Metric, *, normalizer: str = DEFAULT_NORMALIZER, language: str = ""
) -> Score:
    """Errors of one transcript.

    Args:
        reference: the transcript.
        hypothesis: what was recognized.
        metric: count words or characters; what separates words does not count as a character.
        normalizer: a name of :data:`verify.scoring.normalization.NORMALIZERS`.
        language: of the text; some normalizers ask.
    """
    chosen = NORMALIZERS[normalizer]
    return score_words(chosen.words(reference, language), chosen.words(hypothesis, language), metric)


def score_words(reference: Sequence[str], hypothesis: Sequence[str], metric: Metric) -> Score:
    """As :func:`score_text`, of words that are normalized already."""
    wanted, given = ("".join(words) if metric == "cer" else words for words in (reference, hypothesis))
    kinds = Counter(edit.tag for edit in Levenshtein.editops(wanted, given))
    return Score(kinds["replace"], kinds["delete"], kinds["insert"], len(wanted))


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


def mean_rate(scores: Sequence[Score]) -> float:
    """The mean of the utterances' rates; 0 where there are none."""
    return sum(score.rate for score in scores) / len(scores) if scores else 0.0
