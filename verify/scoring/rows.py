"""Everything that follows from the rows of a comparison: rates, their intervals, the verdict, the worst examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, Literal
from zlib import crc32

import numpy as np

from export.languages import DEFAULT_LANGUAGE, is_same
from quantize.recipe import Tolerance
from verify.compare import exact_match, first_divergence, text_diff
from verify.scoring.bootstrap import MISSED, Array, Sample, interval
from verify.scoring.intervals import Interval
from verify.scoring.models import (
    METRICS,
    SIDES,
    Difference,
    Divergence,
    ErrorParts,
    Example,
    LanguageScore,
    Paired,
    Rate,
    Row,
    Scores,
)
from verify.scoring.normalization import DEFAULT_NORMALIZER, NORMALIZERS, Normalizer, RateKind
from verify.scoring.rates import ErrorKind, Metric, Score, metric_for, score_words
from verify.verdict import ALL, ENOUGH_SENTENCES, ENOUGH_UNITS, MACRO, UNRECOGNIZED, Check, Measured, judge, passed

_Limited = Literal["wer_delta", "wer_between"]

WORST_EXAMPLES = 10
FIRST_DIVERGENCES = 50


def score_rows(
    rows: Sequence[Row], limits: Tolerance, tag_ids: Sequence[int] = (), *, normalizer: str = DEFAULT_NORMALIZER
) -> Scores:
    """All numbers that follow from the rows.

    Args:
        rows: utterances with both sides' output.
        limits: what passes.
        tag_ids: the model's language tags; without any, no language accuracy is given.
        normalizer: a name of :data:`verify.scoring.normalization.NORMALIZERS`.
    """
    chosen = NORMALIZERS[normalizer]
    divergences = [first_divergence(row.reference.tokens, row.target.tokens) for row in rows]
    tags = [scored_language(row) for row in rows]
    scored, parts = _in_parts(rows, tags, divergences, chosen)
    alike, averaged = _averaged(parts)
    ties = sum(position is not None and row.is_tie for position, row in zip(divergences, rows, strict=True))
    same = exact_match(divergences)
    average = _average([parts[name] for name in averaged])
    kept = (divergences.count(None) + ties) / max(len(rows), 1)
    judged = [parts[name] for name in averaged if parts[name].is_recognized] or [parts[name] for name in averaged]
    measured = [
        Measured(
            limit_name="exact_match",
            scope=ALL,
            value=kept,
            sentences=sum(part.with_tokens for part in parts.values()),
        ),
        _measured(judged, MACRO),
    ]
    if len(parts) > 1:
        measured += [_measured([part], name) for name, part in parts.items()]
    checks = judge(measured, limits)
    reasons = [check.reason for check in checks if check.counts and check.answer != "within"]
    return Scores(
        **average | {"utterances": len(rows), "exact_match": same},
        normalizer=chosen.name,
        rate=chosen.kind,
        passed=passed(checks) if rows else False,
        reasons=reasons if rows else ["no utterances were compared"],
        notes=_notes(parts, judged, checks),
        checks=checks,
        languages=averaged,
        wer_weighted=_weighted([parts[name] for name in alike], "target"),
        reference_wer_weighted=_weighted([parts[name] for name in alike], "reference"),
        ties=ties,
        language_accuracy=_language_accuracy(rows, "target") if tag_ids else None,
        reference_language_accuracy=_language_accuracy(rows, "reference") if tag_ids else None,
        language_confusion=_language_confusion(rows, "target") if tag_ids else {},
        reference_language_confusion=_language_confusion(rows, "reference") if tag_ids else {},
        per_language={name: part.score() for name, part in parts.items()},
        first_divergences=_first_divergences(rows, divergences),
        worst_examples=_worst_examples(rows, [metric_for(tag) for tag in tags], [each["between"] for each in scored]),
    )


def compare_distances(ours: Sequence[Row], theirs: Sequence[Row], *, normalizer: str = DEFAULT_NORMALIZER) -> Paired:
    """How much farther one target's text is from the reference's than another's, on the same recordings.

    Args:
        ours: utterances with the first target's output.
        theirs: the same utterances and reference with the other's.
        normalizer: a name of :data:`verify.scoring.normalization.NORMALIZERS`.

    Raises:
        ValueError: the rows are of different recordings or references.
    """
    if [(row.audio, row.offset, row.reference.tokens) for row in ours] != [
        (row.audio, row.offset, row.reference.tokens) for row in theirs
    ]:
        raise ValueError("the two sets of rows have not the same recordings and reference")
    sides: list[list[_Part]] = []
    for rows in (ours, theirs):
        nowhere = [None] * len(rows)
        _, parts = _in_parts(rows, [scored_language(row) for row in rows], nowhere, NORMALIZERS[normalizer])
        sides.append([parts[name] for name in _averaged(parts)[1]])

    def points(name: str) -> tuple[float, Interval]:
        (value, resampled), (other, other_resampled) = (_resampled(parts, name) for parts in sides)
        found = None if resampled is None or other_resampled is None else resampled - other_resampled
        return value - other, _interval(found, _error(sides[0], name), signed=True)

    errors, deletions = points("between"), points("between deletions")
    return Paired(points=errors[0], interval=errors[1], deletions=deletions[0], deletions_interval=deletions[1])


def weighted_interval(rows: Sequence[Row], normalizer: str) -> Interval:
    """Of the points that the target is worse, averaged over languages as weighted by utterances.

    None where nothing tells, or a language has no text.
    """
    tags = [scored_language(row) for row in rows]
    parts = list(_in_parts(rows, tags, [None] * len(rows), NORMALIZERS[normalizer])[1].values())
    found = [part.worse(part.kind)[1] for part in parts if part.with_text]
    known = [drawn for drawn in found if drawn is not None]
    if not parts or len(known) < len(parts):
        return None
    shares = [part.utterances / len(rows) for part in parts]
    error = max(share * part.sample.error("target", part.kind) for share, part in zip(shares, parts, strict=True))
    return _interval(np.average(known, axis=0, weights=shares), error, signed=True)


def _in_parts(
    rows: Sequence[Row], tags: Sequence[str], divergences: Sequence[int | None], normalizer: Normalizer
) -> tuple[list[dict[str, Score]], dict[str, _Part]]:
    """Each row's errors, and the rows of each language."""
    languages = _groups(rows, tags)
    spoken = {language for language, row in zip(languages, rows, strict=True) if row.text}  # the others have no text
    scored = [
        _row_scores(row, normalizer, tag, language in spoken)
        for row, tag, language in zip(rows, tags, languages, strict=True)
    ]
    parts = {
        name: _Part(
            [row for language, row in zip(languages, rows, strict=True) if language == name],
            [score for language, score in zip(languages, scored, strict=True) if language == name],
            [position for language, position in zip(languages, divergences, strict=True) if language == name],
            normalizer.kind,
            name,
            name in spoken,
        )
        for name in sorted(set(languages))
    }
    return scored, parts


def _averaged(parts: Mapping[str, _Part]) -> tuple[list[str], list[str]]:
    """Languages with text, or all where none has; of these the ones with enough speech, or all where none has."""
    alike = [name for name, part in parts.items() if part.with_text] or list(parts)
    return alike, [name for name in alike if parts[name].is_enough] or alike


def _notes(parts: Mapping[str, _Part], judged: Sequence[_Part], checks: Sequence[Check]) -> list[str]:
    notes = [
        f"{name}: the reference gets {part.rate('reference'):.0f} % of the text wrong, so the target is judged by its "
        "distance to the reference's text"
        for name, part in parts.items()
        if part.with_text and not part.is_recognized
    ]
    limit = next(check.limit for check in checks if check.scope == MACRO)
    missed = 100.0 * MISSED / (len(judged) * min(part.sentences for part in judged)) if judged else 0.0
    if limit is not None and missed > limit:
        notes.append(
            f"up to {min(missed, 100.0):.1f} points that are lost as whole sentences may not show in so few sentences"
        )
    return notes


def _measured(parts: Sequence[_Part], scope: str) -> Measured:
    """What is limited of these languages: points lost, or where no text can be lost the distance to the reference's."""
    by_text = any(part.is_recognized for part in parts)
    name: _Limited = "wer_delta" if by_text else "wer_between"
    value, distribution = _limited(parts, name)
    return Measured(
        limit_name="language_wer_delta" if by_text and scope != MACRO else name,
        scope=scope,
        value=value,
        interval=_interval(distribution, _error(parts, "target" if by_text else "between"), signed=by_text),
        resampled=_interval(distribution, 0.0, signed=by_text),
        units=sum(max(part.units(name), part.units("wer_delta") if part.with_text else 0) for part in parts),
        sentences=sum(part.sentences for part in parts),
    )


def scored_language(row: Row) -> str:
    """What a row's rates are counted with: the manifest's language, or where it names none, the reference's tag."""
    return (row.reference.language if row.language == DEFAULT_LANGUAGE else None) or row.language


def _groups(rows: Sequence[Row], tags: Sequence[str]) -> list[str]:
    """What each row is counted with: its language, apart where only the tag says so or the text alone is missing."""
    with_text = {tag for tag, row in zip(tags, rows, strict=True) if row.text}
    return [
        tag
        + ("" if tag == row.language else f" ({row.language})")
        + (" without text" if tag in with_text and not row.text else "")
        for tag, row in zip(tags, rows, strict=True)
    ]


def _row_scores(row: Row, normalizer: Normalizer, language: str, with_text: bool) -> dict[str, Score]:
    """One row's errors by name: each side in its language's metric, with case and punctuation, in words and characters;
    and between the two sides.
    """
    metric, raw = metric_for(language), NORMALIZERS["none"]
    text, target, reference = (
        normalizer.words(each, language) for each in (row.text, row.target.text, row.reference.text)
    )
    between = score_words(reference, target, metric)
    scores = {"between": between, "between deletions": Score(deletions=between.deletions, units=between.units)}
    for side, words in zip(SIDES, (target, reference), strict=True):
        scores |= {f"{side} {each}": score_words(text, words, each) for each in METRICS if with_text or each == metric}
        scores[side] = scores[f"{side} {metric}"]
        scores[f"{side} raw"] = score_words(raw.words(row.text), raw.words(getattr(row, side).text), metric)
    return scores


class _Part:
    """One language's rows: rates, and what they could have been as well."""

    def __init__(
        self,
        rows: Sequence[Row],
        scored: Sequence[Mapping[str, Score]],
        divergences: Sequence[int | None],
        kind: RateKind,
        language: str,
        with_text: bool,
    ) -> None:
        # Where nothing says which recordings are of a sentence, copies of a recording, and of silence, are alike here.
        known: dict[tuple[str, float], str] = {}  # a recording is one sentence, whatever that is called
        places = [(row.audio_filepath or row.audio, row.offset) for row in rows]
        names = [row.sentence or row.text or row.reference.text for row in rows]
        sentences = [known.setdefault(place, name) for place, name in zip(places, names, strict=True)]
        self._divergences, self._metric, self.with_text = divergences, metric_for(scored_language(rows[0])), with_text
        self.kind: RateKind = kind
        self.utterances, self.sentences = len(rows), len(set(sentences))
        voiced = {each for each, row in zip(sentences, rows, strict=True) if row.reference.tokens or row.target.tokens}
        self.with_tokens = len(voiced)  # silence that stays silent keeps none
        counts = {name: [each[name] for each in scored] for name in scored[0]}
        self.sample = Sample(counts, sentences, seed=crc32(language.encode()))  # languages vary independently

    def units(self, limited: _Limited) -> int:
        """Words or characters that what is limited is counted over: of the manifest's text, or of the reference's."""
        return self.sample.totals["target" if limited == "wer_delta" else "between"].units

    @property
    def is_enough(self) -> bool:
        """Whether its rate is worth an average."""
        units = self.units("wer_delta" if self.with_text else "wer_between")
        return units >= ENOUGH_UNITS and self.sentences >= ENOUGH_SENTENCES

    @property
    def is_recognized(self) -> bool:
        """Whether there is text, and the reference has enough of it right to lose something."""
        return self.with_text and self.rate("reference") <= UNRECOGNIZED

    def rate(self, name: str) -> float:
        """What is the language's number."""
        return self.sample.rate(name, self.kind)

    def counted(self, name: str) -> Sequence[Score]:
        """The scores whose mean rate that is: of all recordings together, or of each."""
        return [self.sample.totals[name]] if self.kind == "corpus" else self.sample.scores[name]

    @cached_property
    def rates(self) -> dict[str, Any]:
        """What it has in common with an average of languages."""
        return _average([self])

    def worse(self, kind: RateKind, name: str = "") -> tuple[float, Array | None]:
        """Points that the target is worse, and what they could have been; in the language's metric by default."""
        target, reference = f"target{name}", f"reference{name}"
        ours, theirs = self.sample.resampled(target, kind), self.sample.resampled(reference, kind)
        resampled = None if ours is None or theirs is None else ours - theirs
        return self.sample.rate(target, kind) - self.sample.rate(reference, kind), resampled

    def score(self) -> LanguageScore:
        """What the report says of it."""
        return LanguageScore(
            metric=self._metric,
            units=self.sample.totals["target"].units,
            sentences=self.sentences,
            utterances=self.utterances,
            exact_match=exact_match(self._divergences),
            rates={side: {each: self._rate(f"{side} {each}") for each in METRICS} for side in SIDES}
            if self.with_text
            else {},
            differences={each: self._difference(f" {each}") for each in METRICS} if self.with_text else {},
            **self.rates,
        )

    def _rate(self, name: str) -> Rate:
        sample = self.sample
        return Rate(
            corpus=sample.rate(name, "corpus"),
            corpus_interval=_interval(sample.resampled(name, "corpus"), sample.error(name, "corpus")),
            mean=sample.rate(name, "mean"),
            mean_interval=_interval(sample.resampled(name, "mean"), sample.error(name, "mean")),
            errors=_error_parts([[sample.totals[name]]]),
            units=sample.totals[name].units,
        )

    def _difference(self, name: str) -> Difference:
        (corpus, corpus_drawn), (mean, mean_drawn) = self.worse("corpus", name), self.worse("mean", name)
        sample = self.sample
        return Difference(
            corpus=corpus,
            corpus_interval=_interval(corpus_drawn, sample.error(f"target{name}", "corpus"), signed=True),
            mean=mean,
            mean_interval=_interval(mean_drawn, sample.error(f"target{name}", "mean"), signed=True),
        )


def _weighted(parts: Collection[_Part], name: str) -> float | None:
    """The mean of the languages' numbers, weighted by utterances; None where there is no text."""
    if not any(part.with_text for part in parts):
        return None
    return fmean((part.rate(name) for part in parts), [part.utterances for part in parts])


def _interval(resampled: Array | None, error: float, *, signed: bool = False) -> Interval:
    return None if resampled is None else interval(resampled, error, signed=signed)


def _mean(values: Iterable[float]) -> float:
    return fmean(found) if (found := list(values)) else 0.0


def _limited(parts: Sequence[_Part], name: _Limited) -> tuple[float, Array | None]:
    """What has a limit, averaged over languages, and what it could have been."""
    if name == "wer_delta":
        return _mean_of([part.worse(part.kind) for part in parts])
    return _resampled(parts, "between")


def _resampled(parts: Sequence[_Part], name: str) -> tuple[float, Array | None]:
    """A rate averaged over languages, and what it could have been."""
    return _mean_of([(part.rate(name), part.sample.resampled(name, part.kind)) for part in parts])


def _mean_of(found: Sequence[tuple[float, Array | None]]) -> tuple[float, Array | None]:
    known = [resampled for _, resampled in found if resampled is not None]
    mean_drawn = np.mean(known, axis=0) if known and len(known) == len(found) else None
    return _mean(value for value, _ in found), mean_drawn


def _error(parts: Sequence[_Part], counted: str) -> float:
    """What one error more adds to the languages' average, where it adds most."""
    return max((part.sample.error(counted, part.kind) for part in parts), default=0.0) / max(len(parts), 1)


def _average(parts: Sequence[_Part]) -> dict[str, Any]:
    """The rates that each language has, averaged over languages."""
    distance, distances = _limited(parts, "wer_between")
    between = {
        "wer_between": distance,
        "wer_between_interval": _interval(distances, _error(parts, "between")),
        "between_errors": _error_parts([part.counted("between") for part in parts]),
    }
    if parts and not any(part.with_text for part in parts):
        return dict.fromkeys(_OF_TEXT) | between
    worse, worse_drawn = _limited(parts, "wer_delta")
    return between | {
        "wer": _mean(part.rate("target") for part in parts),
        "errors": _error_parts([part.counted("target") for part in parts]),
        "reference_wer": _mean(part.rate("reference") for part in parts),
        "reference_errors": _error_parts([part.counted("reference") for part in parts]),
        "wer_delta": worse,
        "wer_delta_interval": _interval(worse_drawn, _error(parts, "target"), signed=True),
        "wer_raw": _mean(part.rate("target raw") for part in parts),
        "reference_wer_raw": _mean(part.rate("reference raw") for part in parts),
    }


_OF_TEXT = (
    "wer", "errors", "reference_wer", "reference_errors", "wer_delta", "wer_delta_interval", "wer_raw",
    "reference_wer_raw",
)  # fmt: skip
"""What is measured against the manifest's text."""


def _error_parts(languages: Sequence[Sequence[Score]]) -> ErrorParts:
    """Substitutions, deletions and insertions, averaged over each language's scores and over languages."""

    def mean(kind: ErrorKind) -> float:
        shares = [fmean(score.share(kind) for score in scores) for scores in languages]
        return fmean(shares) if shares else 0.0

    return ErrorParts(substitutions=mean("substitutions"), deletions=mean("deletions"), insertions=mean("insertions"))


def _language_accuracy(rows: Sequence[Row], side: str) -> float | None:
    """Share of rows whose detected language is the manifest's, see :func:`export.languages.is_same`."""
    known = [row for row in rows if row.language != DEFAULT_LANGUAGE]
    if not known:
        return None
    right = sum(is_same(row.language, getattr(row, side).language or "") for row in known)
    return right / len(known)


def _language_confusion(rows: Sequence[Row], side: str) -> dict[str, dict[str, int]]:
    """How often each spoken language was tagged as which; no tag is ``""``, the most frequent comes first."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if row.language != DEFAULT_LANGUAGE:
            found.setdefault(row.language, Counter())[getattr(row, side).language or ""] += 1
    return {spoken: dict(found[spoken].most_common()) for spoken in sorted(found)}


def divergence_at(row: Row, position: int) -> Divergence:
    """Where the target's tokens leave the reference's; see :func:`verify.compare.first_divergence`."""
    expected, actual, frames = row.reference.tokens, row.target.tokens, row.target.frames
    return Divergence(
        audio=row.audio,
        position=position,
        expected=expected[position] if position < len(expected) else None,
        actual=actual[position] if position < len(actual) else None,
        frame=frames[position] if position < len(frames) else None,
        margin=row.margin,
        counts=not row.is_tie,
    )


def _first_divergences(rows: Sequence[Row], divergences: Sequence[int | None]) -> list[Divergence]:
    divergent = [(row, position) for row, position in zip(rows, divergences, strict=True) if position is not None]
    return [divergence_at(row, position) for row, position in divergent[:FIRST_DIVERGENCES]]


def _worst_examples(rows: Sequence[Row], metrics: Sequence[Metric], between: Sequence[Score]) -> list[Example]:
    """The utterances that differ most between the two sides, as diffs."""
    different = [index for index, row in enumerate(rows) if row.target.text != row.reference.text]
    worst = sorted(different, key=lambda index: (-between[index].rate, index))[:WORST_EXAMPLES]
    return [
        Example(
            audio=rows[index].audio,
            language=rows[index].language,
            edits=between[index].edits,
            wer=between[index].rate,
            diff=text_diff(rows[index].reference.text, rows[index].target.text, metrics[index]),
            text=rows[index].text,
        )
        for index in worst
    ]
