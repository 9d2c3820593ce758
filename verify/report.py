"""The report: every number of a comparison, and the rows from which they can be computed again without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from export.errors import UserError
from export.folders import write_atomically
from export.languages import DEFAULT_LANGUAGE
from quantize.recipe import Tolerance
from verify.compare import exact_match, first_divergence, text_diff
from verify.runs import Side
from verify.scoring.bootstrap import Array, interval, resampled_rates
from verify.scoring.rates import Metric, Score, metric_for, score_text, total
from verify.verdict import ALL, ENOUGH_SENTENCES, ENOUGH_UNITS, MACRO, NOISE, Check, Measured, judge, passed

REPORT_VERSION = 2
WORST_EXAMPLES = 10
FIRST_DIVERGENCES = 50


class Output(BaseModel):
    """What one side made of an utterance."""

    tokens: list[int]  # the checkpoint's ids, also where the folder's vocabulary is pruned
    frames: list[int] = Field(default_factory=list)
    text: str
    language: str | None = None


class Row(BaseModel):
    """An utterance with both sides' output and what was really said."""

    audio: str
    audio_seconds: float
    language: str  # the manifest's target_lang
    text: str
    sentence: str | None = None  # the manifest's sentence_id
    target: Output
    reference: Output
    margin: float | None = None  # FP32's where the tokens differ; see verify.margins

    @property
    def is_tie(self) -> bool:
        """Whether FP32 itself was undecided where the tokens part."""
        return self.margin is not None and self.margin <= NOISE


class ErrorParts(BaseModel):
    """What an error rate is made of, in percent of the reference's units."""

    substitutions: float
    deletions: float
    insertions: float


class Rates(BaseModel):
    """Rates in percent and their differences in points; intervals are those of 95 %, None where nothing tells."""

    utterances: int
    exact_match: float  # share of utterances with identical tokens, 0 to 1
    wer: float  # target against the manifest's text
    errors: ErrorParts
    reference_wer: float  # reference against the manifest's text
    reference_errors: ErrorParts
    wer_delta: float  # points that the target is worse than the reference
    wer_delta_interval: tuple[float, float] | None
    wer_between: float  # target against the reference's text
    wer_between_interval: tuple[float, float] | None
    wer_raw: float  # as wer, with case and punctuation
    reference_wer_raw: float


class LanguageScore(Rates):
    """One language's share of the result; ``wer`` holds what ``metric`` says."""

    metric: Metric
    units: int  # words or characters of the manifest's text
    sentences: int  # that are resampled


class Divergence(BaseModel):
    """Where a target's tokens first leave the reference's; None as token: the sequence had ended."""

    audio: str
    position: int
    expected: int | None
    actual: int | None
    frame: int | None  # encoder frame of the target's token
    margin: float | None  # logits by which FP32's best token led where the two paths part; None where not measured
    counts: bool  # whether it counts against the target: its margin is above NOISE, or not known


class Example(BaseModel):
    """An utterance that the two sides hear differently."""

    audio: str
    language: str
    edits: int
    wer: float  # target against reference
    diff: str
    text: str


class Scores(Rates):
    """Everything that follows from the rows and the limits; rates are averages over ``languages``."""

    passed: bool | None  # None: not decided by these utterances
    reasons: list[str]  # why not passed
    checks: list[Check]  # every limit with its answer
    languages: list[str]  # that the rates average: those with enough speech, or all where none has enough
    ties: int  # utterances whose tokens part where FP32 itself was undecided
    language_accuracy: float | None  # share of utterances whose language tag is right; None where none is known
    reference_language_accuracy: float | None
    per_language: dict[str, LanguageScore]
    first_divergences: list[Divergence]
    worst_examples: list[Example]


class Speed(BaseModel):
    """How fast a side ran on the whole set."""

    audio_seconds: float
    wall_seconds: float
    rtfx: float  # seconds of audio per second of computing
    encoder_ms: float | None = None  # mean encoder step
    step_ms: float | None = None  # mean of everything a chunk costs
    seconds: dict[str, float] = Field(default_factory=dict)  # by graph
    calls: dict[str, int] = Field(default_factory=dict)


class LogitDivergence(BaseModel):
    """How far the target's logits are from the reference's along the reference's path: between tensors and tokens."""

    utterances: int
    cells: int  # of the lattice: encoder frame and tokens so far
    kl: float  # mean KL(reference ‖ target) in nats
    agreement: float  # share of cells with the same best token
    agreed_until: float  # share of an utterance's cells before the first with another, on average


class Report(Scores):
    """The comparison of a target with its reference."""

    report_version: int = REPORT_VERSION
    limits: Tolerance
    limits_of: str = "the stored report"  # whose limits these are
    target: Side
    reference: Side
    language: str  # "manifest", "auto", or the language that was forced
    manifest_sha256: str
    speed: Speed
    reference_speed: Speed
    divergence: LogitDivergence | None = None  # where it was asked for
    rows: list[Row]

    def save(self, path: Path) -> None:
        """Write the report as JSON; the file appears only when complete.

        Raises:
            UserError: it cannot be written there.
        """
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a saved report; every number that follows from its rows is computed again, and none is believed.

        Reports of version 1, which averaged over utterances of all languages, are read too.

        Raises:
            UserError: the file is missing or is no report.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            rows = [Row.model_validate(row) for row in stored["rows"]]
            limits = Tolerance.model_validate(stored["limits"])
            scores = score_rows(rows, limits, Side.model_validate(stored["target"]).lang_tag_token_ids)
            return cls.model_validate(stored | dict(scores) | {"report_version": REPORT_VERSION})
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a report that verify wrote") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is no verification report; give a report that verify wrote") from error


def score_rows(rows: Sequence[Row], limits: Tolerance, tag_ids: Sequence[int] = ()) -> Scores:
    """All numbers that follow from the rows.

    Args:
        rows: utterances with both sides' output.
        limits: what passes.
        tag_ids: the model's language tags; without any, no language accuracy is given.
    """
    divergences = [first_divergence(row.reference.tokens, row.target.tokens) for row in rows]
    metrics = [metric_for(row.language) for row in rows]
    scored = [_RowScore(row, metric) for row, metric in zip(rows, metrics, strict=True)]
    with_text = any(row.text for row in rows)
    names = sorted({row.language for row in rows})
    parts = {
        name: _Part(
            [row for row in rows if row.language == name],
            [score for score, row in zip(scored, rows, strict=True) if row.language == name],
            [position for position, row in zip(divergences, rows, strict=True) if row.language == name],
            with_text,
        )
        for name in names
    }
    averaged = [name for name in names if parts[name].is_enough] or names
    ties = sum(position is not None and row.is_tie for position, row in zip(divergences, rows, strict=True))
    same = exact_match(divergences)
    average = _average([parts[name] for name in averaged])
    kept = same + (ties / len(rows) if rows else 0.0)
    measured = [
        Measured(limit_name="exact_match", scope=ALL, value=kept),
        _measured(average, [parts[name] for name in averaged], MACRO, with_text=with_text),
    ]
    if len(parts) > 1:
        measured += [_measured(part.rates, [part], name, with_text=with_text) for name, part in parts.items()]
    checks = judge(measured, limits)
    reasons = [check.reason for check in checks if check.counts and check.answer != "within"]
    return Scores(
        **average | {"utterances": len(rows), "exact_match": same},
        passed=passed(checks) if rows else False,
        reasons=reasons if rows else ["no utterances were compared"],
        checks=checks,
        languages=averaged,
        ties=ties,
        language_accuracy=_language_accuracy(rows, "target") if tag_ids else None,
        reference_language_accuracy=_language_accuracy(rows, "reference") if tag_ids else None,
        per_language={name: part.score() for name, part in parts.items()},
        first_divergences=_first_divergences(rows, divergences),
        worst_examples=_worst_examples(rows, metrics, scored),
    )


def _measured(rates: Mapping[str, Any], parts: Sequence[_Part], scope: str, *, with_text: bool) -> Measured:
    """What is limited of these languages: points lost, or without text the distance to the reference's."""
    name = "wer_delta" if with_text else "wer_between"
    return Measured.model_validate(
        {
            "limit_name": "language_wer_delta" if with_text and scope != MACRO else name,
            "scope": scope,
            "value": rates[name],
            "interval": rates[f"{name}_interval"],
            "units": sum(part.units for part in parts),
            "sentences": sum(part.sentences for part in parts),
        }
    )


class _RowScore:
    """One row's errors, against the manifest's text and between the two sides."""

    def __init__(self, row: Row, metric: Metric) -> None:
        self.target: Score = score_text(row.text, row.target.text, metric)
        self.reference: Score = score_text(row.text, row.reference.text, metric)
        self.target_raw: Score = score_text(row.text, row.target.text, metric, raw=True)
        self.reference_raw: Score = score_text(row.text, row.reference.text, metric, raw=True)
        self.between: Score = score_text(row.reference.text, row.target.text, metric)


class _Part:
    """One language's rows: totals, and what they could have been as well."""

    def __init__(
        self, rows: Sequence[Row], scored: Sequence[_RowScore], divergences: Sequence[int | None], with_text: bool
    ) -> None:
        sentences = [row.sentence or row.text or number for number, row in enumerate(rows)]
        self._rows, self._divergences, self.sentences = rows, divergences, len(set(sentences))
        self.target, self.reference = total(each.target for each in scored), total(each.reference for each in scored)
        self.target_raw = total(each.target_raw for each in scored)
        self.reference_raw = total(each.reference_raw for each in scored)
        self.between = total(each.between for each in scored)
        self.wer_delta = self.target.rate - self.reference.rate
        self.delta_distribution = resampled_rates(
            [each.target.edits - each.reference.edits for each in scored],
            [each.target.units for each in scored],
            sentences,
        )
        self.between_distribution = resampled_rates(
            [each.between.edits for each in scored], [each.between.units for each in scored], sentences
        )
        self.units = self.target.units if with_text else self.between.units

    @property
    def is_enough(self) -> bool:
        """Whether its rate is worth an average."""
        return self.units >= ENOUGH_UNITS and self.sentences >= ENOUGH_SENTENCES

    @cached_property
    def rates(self) -> dict[str, Any]:
        """What it has in common with an average of languages."""
        return _average([self])

    def score(self) -> LanguageScore:
        """What the report says of it."""
        return LanguageScore(
            metric=metric_for(self._rows[0].language),
            units=self.target.units,
            sentences=self.sentences,
            utterances=len(self._rows),
            exact_match=exact_match(self._divergences),
            **self.rates,
        )


def _average(parts: Sequence[_Part]) -> dict[str, Any]:
    """The rates that each language has, averaged over languages."""

    def mean(values: Iterable[float]) -> float:
        return fmean(found) if (found := list(values)) else 0.0

    def drawn(distributions: Sequence[Array | None]) -> tuple[float, float] | None:
        known = [each for each in distributions if each is not None]
        return interval(np.mean(known, axis=0)) if known and len(known) == len(distributions) else None

    return {
        "wer": mean(part.target.rate for part in parts),
        "errors": _error_parts([part.target for part in parts]),
        "reference_wer": mean(part.reference.rate for part in parts),
        "reference_errors": _error_parts([part.reference for part in parts]),
        "wer_delta": mean(part.wer_delta for part in parts),
        "wer_delta_interval": drawn([part.delta_distribution for part in parts]),
        "wer_between": mean(part.between.rate for part in parts),
        "wer_between_interval": drawn([part.between_distribution for part in parts]),
        "wer_raw": mean(part.target_raw.rate for part in parts),
        "reference_wer_raw": mean(part.reference_raw.rate for part in parts),
    }


def _error_parts(scores: Sequence[Score]) -> ErrorParts:
    """Substitutions, deletions and insertions, averaged over languages."""
    units = [max(score.units, 1) for score in scores]

    def mean(name: str) -> float:
        shares = [100.0 * getattr(score, name) / count for score, count in zip(scores, units, strict=True)]
        return fmean(shares) if shares else 0.0

    return ErrorParts(**{name: mean(name) for name in ErrorParts.model_fields})


def _language_accuracy(rows: Sequence[Row], side: str) -> float | None:
    """Share of rows whose detected language is the manifest's; ``es`` in the manifest accepts ``es-US``."""
    known = [row for row in rows if row.language != DEFAULT_LANGUAGE]
    if not known:
        return None
    right = 0
    for row in known:
        detected = getattr(row, side).language or ""
        right += detected == row.language or ("-" not in row.language and detected.split("-")[0] == row.language)
    return right / len(known)


def _first_divergences(rows: Sequence[Row], divergences: Sequence[int | None]) -> list[Divergence]:
    found = []
    for row, position in zip(rows, divergences, strict=True):
        if position is None:
            continue
        expected, actual, frames = row.reference.tokens, row.target.tokens, row.target.frames
        found.append(
            Divergence(
                audio=row.audio,
                position=position,
                expected=expected[position] if position < len(expected) else None,
                actual=actual[position] if position < len(actual) else None,
                frame=frames[position] if position < len(frames) else None,
                margin=row.margin,
                counts=not row.is_tie,
            )
        )
    return found[:FIRST_DIVERGENCES]


def _worst_examples(rows: Sequence[Row], metrics: Sequence[Metric], scored: Sequence[_RowScore]) -> list[Example]:
    """The utterances that differ most between the two sides, as diffs."""
    different = [index for index, row in enumerate(rows) if row.target.text != row.reference.text]
    worst = sorted(different, key=lambda index: (-scored[index].between.rate, index))[:WORST_EXAMPLES]
    return [
        Example(
            audio=rows[index].audio,
            language=rows[index].language,
            edits=scored[index].between.edits,
            wer=scored[index].between.rate,
            diff=text_diff(rows[index].reference.text, rows[index].target.text, metrics[index]),
            text=rows[index].text,
        )
        for index in worst
    ]
