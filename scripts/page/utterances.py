"""The utterances on which builds and their references disagree, the most severe first; and every row as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from export.languages import DEFAULT_LANGUAGE, is_same
from scripts.page.alignment import Part, align
from scripts.page.sources import Comparison
from verify.compare import first_divergence
from verify.report import agreement_words
from verify.scoring.models import Divergence, Output, Row
from verify.scoring.normalization import NORMALIZERS, Normalizer
from verify.scoring.rates import Metric, Score, metric_for, score_words
from verify.scoring.rows import divergence_at, scored_language

KINDS = {
    "substitution": "substitutions",
    "deletion": "deletions",
    "insertion": "insertions",
    "nothing": "no text recognized",
    "worse": "more errors than its reference",
    "better": "fewer errors than its reference",
    "language": "wrong language tag",
    "same text": "other tokens, same text",
    "tie": "near tie (FP32 undecided)",
}
"""Kinds of errors by which utterances are filtered, and how they read."""


@dataclass(frozen=True)
class TokenDivergence:
    """Where a build's tokens first differ from its reference's."""

    build: str
    reference: str
    at: Divergence
    expected: str  # token and piece
    actual: str
    agree: str | None = None  # which two of three sides have the same tokens, where a second reference ran


@dataclass
class Hypothesis:
    """What one or more sides made of an utterance, aligned with the manifest's text (or with the reference's)."""

    names: list[str]
    text: str
    language: str | None
    parts: list[Part]
    score: Score


@dataclass
class Difference:
    """How a build differs from its reference on an utterance."""

    worse: int  # errors more than the reference makes; against its text where nothing else is known
    apart: int  # edits between the two texts
    rate: float  # of the build, percent
    kinds: list[str]


@dataclass
class Utterance:
    """An utterance with all hypotheses of it."""

    audio: str
    audio_filepath: str | None
    offset: float
    seconds: float
    language: str
    metric: Metric
    text: str
    has_text: bool
    hypotheses: list[Hypothesis] = field(default_factory=list)
    divergences: list[TokenDivergence] = field(default_factory=list)
    differences: dict[str, Difference] = field(default_factory=dict)  # by build; empty where all agree

    @property
    def severity(self) -> tuple[int, int, float]:
        """What is sorted by: errors added, edits between the texts, error rate."""
        found = self.differences.values()
        return max(each.worse for each in found), max(each.apart for each in found), max(each.rate for each in found)


def count_utterances(comparisons: Sequence[Comparison]) -> int:
    """How many utterances were compared; an utterance of several builds counts once."""
    return len({key for comparison in comparisons for key, _ in _keyed(comparison.report.rows)})


def disagreements(comparisons: Sequence[Comparison]) -> list[Utterance]:
    """Every utterance on which some build has other tokens than its reference, the most severe first."""
    found: dict[tuple[object, ...], Utterance] = {}
    outputs: dict[tuple[object, ...], dict[str, Output]] = {}
    normalizer = NORMALIZERS[comparisons[0].report.normalizer] if comparisons else NORMALIZERS["none"]
    for comparison in comparisons:
        report = comparison.report
        for key, row in _keyed(report.rows):
            utterance = found.get(key)
            if utterance is None:
                language = scored_language(row)
                utterance = found[key] = Utterance(
                    row.audio, row.audio_filepath, row.offset, row.audio_seconds, language, metric_for(language),
                    row.text, bool(row.text),
                )  # fmt: skip
            sides = outputs.setdefault(key, {})
            sides.setdefault(comparison.reference, row.reference)
            sides.setdefault(comparison.build, row.target)
            position = first_divergence(row.reference.tokens, row.target.tokens)
            if position is None:
                continue
            words = row.agree and agreement_words(report)[row.agree]
            at = divergence_at(row, position)
            tokens = report.token_words(at.expected), report.token_words(at.actual)
            utterance.divergences.append(TokenDivergence(comparison.build, comparison.reference, at, *tokens, words))
            chosen = NORMALIZERS[report.normalizer]
            utterance.differences[comparison.build] = _difference(row, chosen)
    disagreeing = [key for key, utterance in found.items() if utterance.differences]
    for key in disagreeing:
        found[key].hypotheses = _hypotheses(found[key], outputs[key], normalizer)
    return sorted((found[key] for key in disagreeing), key=lambda each: [-value for value in each.severity])


def _keyed(rows: Sequence[Row]) -> Iterator[tuple[tuple[object, ...], Row]]:
    """Rows with what tells an utterance from the others, also one that a manifest lists twice."""
    seen: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        key = (row.audio_filepath or row.audio, row.offset, round(row.audio_seconds, 3), row.language, row.text)
        seen[key] += 1
        yield (*key, seen[key]), row


def _difference(row: Row, normalizer: Normalizer) -> Difference:
    ours, theirs, between = scores_of(row, normalizer)
    baseline = ours if row.text else between
    worse = ours.edits - theirs.edits if row.text else between.edits
    kinds = [
        kind
        for kind, holds in (
            ("substitution", baseline.substitutions),
            ("deletion", baseline.deletions),
            ("insertion", baseline.insertions),
            ("nothing", not row.target.text.strip()),
            ("worse", row.text and worse > 0),
            ("better", row.text and worse < 0),
            ("language", has_wrong_tag(row, row.target)),
            ("same text", row.target.text == row.reference.text),
            ("tie", row.is_tie),
        )
        if holds
    ]
    return Difference(worse, between.edits, baseline.rate, kinds)


def has_wrong_tag(row: Row, output: Output) -> bool:
    """Whether a language was found, and it is another than the manifest's."""
    return (
        row.language != DEFAULT_LANGUAGE and output.language is not None and not is_same(row.language, output.language)
    )


def scores_of(row: Row, normalizer: Normalizer) -> tuple[Score, Score, Score]:
    """Errors of the build and of the reference against the text, and of the build against the reference's text.

    As :func:`verify.scoring.rows.score_rows` counts them; without a text, the first two are empty.
    """
    language = scored_language(row)
    metric = metric_for(language)
    text, ours, theirs = (normalizer.words(each, language) for each in (row.text, row.target.text, row.reference.text))
    none = Score()
    return (
        score_words(text, ours, metric) if row.text else none,
        score_words(text, theirs, metric) if row.text else none,
        score_words(theirs, ours, metric),
    )


def _hypotheses(utterance: Utterance, outputs: dict[str, Output], normalizer: Normalizer) -> list[Hypothesis]:
    """Each text once, with all sides that recognized it; without a text, the first side's stands for it."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for name, output in outputs.items():
        found.setdefault((output.text, output.language), []).append(name)
    reference = utterance.text if utterance.has_text else next(iter(found))[0]
    words = normalizer.words(reference, utterance.language)
    return [
        Hypothesis(names, text, language, *align(words, normalizer.words(text, utterance.language), utterance.metric))
        for (text, language), names in found.items()
    ]


def table_rows(comparisons: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """Every utterance of every comparison as one flat row, those on which both sides agree too."""
    for comparison in comparisons:
        report = comparison.report
        normalizer = NORMALIZERS[report.normalizer]
        for row in report.rows:
            ours, theirs, between = scores_of(row, normalizer)
            position = first_divergence(row.reference.tokens, row.target.tokens)
            divergence = None if position is None else divergence_at(row, position)
            yield {
                "build": comparison.build,
                "reference": comparison.reference,
                "audio_filepath": row.audio_filepath or row.audio,
                "offset": row.offset,
                "duration": row.audio_seconds,
                "language": row.language,
                "sentence": row.sentence,
                "normalizer": report.normalizer,
                "metric": metric_for(scored_language(row)),
                "text": row.text,
                "build_text": row.target.text,
                "reference_text": row.reference.text,
                **_counts("", ours if row.text else None),
                **_counts("reference_", theirs if row.text else None),
                **_counts("between_", between),
                "same_tokens": position is None,
                "position": position,
                "expected": divergence and divergence.expected,
                "actual": divergence and divergence.actual,
                "frame": divergence and divergence.frame,
                "margin": row.margin,
                "near_tie": position is not None and row.is_tie,
                "build_language": row.target.language,
                "reference_language": row.reference.language,
                "build_seconds": row.target.seconds,
                "reference_seconds": row.reference.seconds,
                "witness_text": row.witness and row.witness.text,
                "witness_language": row.witness and row.witness.language,
                "agree": row.agree,
            }


def _counts(prefix: str, score: Score | None) -> dict[str, int | float | None]:
    names = ("units", "substitutions", "deletions", "insertions")
    counts: dict[str, int | float | None] = {
        f"{prefix}{name}": None if score is None else getattr(score, name) for name in names
    }
    return counts | {f"{prefix}rate": None if score is None else score.rate}
