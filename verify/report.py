"""The report: every number of a comparison, and the rows from which they can be computed again without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from export.errors import UserError
from export.folders import write_atomically
from export.languages import DEFAULT_LANGUAGE
from quantize.recipe import Tolerance
from verify.compare import exact_match, first_divergence, text_diff
from verify.runs import Side
from verify.scoring.rates import Metric, Score, metric_for, score_text, total

REPORT_VERSION = 1
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
    target: Output
    reference: Output


class LanguageScore(BaseModel):
    """One language's share of the result; ``wer`` holds what ``metric`` says."""

    metric: Metric
    utterances: int
    wer: float
    reference_wer: float
    wer_delta: float
    wer_raw: float
    wer_between: float
    exact_match: float


class Divergence(BaseModel):
    """Where a target's tokens first leave the reference's; None as token: the sequence had ended."""

    audio: str
    position: int
    expected: int | None
    actual: int | None
    frame: int | None  # encoder frame of the target's token


class Example(BaseModel):
    """An utterance that the two sides hear differently."""

    audio: str
    language: str
    edits: int
    wer: float  # target against reference
    diff: str
    text: str


class Scores(BaseModel):
    """Everything that follows from the rows and the limits; rates in percent, their differences in points."""

    passed: bool
    reasons: list[str]  # why not passed
    utterances: int
    exact_match: float  # share of utterances with identical tokens, 0 to 1
    wer: float  # target against the manifest's text; characters for languages scored so
    reference_wer: float  # reference against the manifest's text
    wer_delta: float  # points that the target is worse than the reference
    wer_between: float  # target against the reference's text
    wer_raw: float  # as wer, with case and punctuation
    reference_wer_raw: float
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
        """Read a saved report.

        Raises:
            UserError: the file is missing or is no report of this version.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a report that verify wrote") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: is no verification report; give a report that verify wrote") from error


def score_again(path: Path) -> Report:
    """A saved report with all numbers computed again from its rows.

    Raises:
        UserError: the file is missing or is no report.
    """
    report = Report.load(path)
    return report.model_copy(update=dict(score_rows(report.rows, report.limits, report.target.lang_tag_token_ids)))


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
    languages = sorted({row.language for row in rows})
    members = {name: [index for index, row in enumerate(rows) if row.language == name] for name in languages}
    overall = _summary(range(len(rows)), scored, divergences)
    scores = Scores(
        **overall,
        passed=True,
        reasons=[],
        reference_wer_raw=total(each.reference_raw for each in scored).rate,
        language_accuracy=_language_accuracy(rows, "target") if tag_ids else None,
        reference_language_accuracy=_language_accuracy(rows, "reference") if tag_ids else None,
        per_language={
            name: LanguageScore(metric=metric_for(name), **_summary(indices, scored, divergences))
            for name, indices in members.items()
        },
        first_divergences=_first_divergences(rows, divergences),
        worst_examples=_worst_examples(rows, metrics, scored),
    )
    reasons = _reasons(scores, limits)
    return scores.model_copy(update={"passed": not reasons, "reasons": reasons})


class _RowScore:
    """One row's errors, against the manifest's text and between the two sides."""

    def __init__(self, row: Row, metric: Metric) -> None:
        self.target: Score = score_text(row.text, row.target.text, metric)
        self.reference: Score = score_text(row.text, row.reference.text, metric)
        self.target_raw: Score = score_text(row.text, row.target.text, metric, raw=True)
        self.reference_raw: Score = score_text(row.text, row.reference.text, metric, raw=True)
        self.between: Score = score_text(row.reference.text, row.target.text, metric)


def _summary(indices: Sequence[int], scored: Sequence[_RowScore], divergences: Sequence[int | None]) -> dict[str, Any]:
    """The numbers that the whole set and each language have in common."""
    wer = total(scored[index].target for index in indices).rate
    reference_wer = total(scored[index].reference for index in indices).rate
    return {
        "utterances": len(indices),
        "exact_match": exact_match([divergences[index] for index in indices]),
        "wer": wer,
        "reference_wer": reference_wer,
        "wer_delta": wer - reference_wer,
        "wer_raw": total(scored[index].target_raw for index in indices).rate,
        "wer_between": total(scored[index].between for index in indices).rate,
    }


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


def _reasons(scores: Scores, limits: Tolerance) -> list[str]:
    """One line for each limit that does not hold."""
    reasons = []
    if not scores.utterances:
        reasons.append("no utterances were compared")
    if scores.exact_match < limits.exact_match:
        reasons.append(f"exact_match {scores.exact_match:.4f} is below the limit {limits.exact_match:g}")
    if scores.wer_delta > limits.wer_delta + 1e-9:
        reasons.append(f"wer_delta {scores.wer_delta:+.3f} points is above the limit {limits.wer_delta:+g}")
    return reasons
