"""The report: every number of a comparison, and the rows from which they can be computed again without a model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from export.checkpoint.config import RANDOM_WEIGHTS
from export.errors import UserError
from export.folders import write_atomically
from quantize.recipe import Tolerance
from verify.limits import Limits
from verify.runs import ORACLE_NAMES, Side
from verify.scoring.agreement import Agreeing, Agreement, count_agreement
from verify.scoring.models import (
    Difference,
    Divergence,
    ErrorParts,
    Example,
    LanguageScore,
    Output,
    Rate,
    Rates,
    Row,
    Scores,
)
from verify.scoring.normalization import DEFAULT_NORMALIZER, NORMALIZERS, get_normalizer
from verify.scoring.rows import score_rows

__all__ = [
    "Difference", "Divergence", "ErrorParts", "Example", "LanguageScore", "Latency", "LogitDivergence", "Output",
    "Rate", "Rates", "Report", "Row", "Scores", "Speed", "agreement_summary", "agreement_words", "latency_of",
    "score_rows",
]  # fmt: skip

REPORT_VERSION = 3
"""2: rates average over languages; 3: a normalizer by name, both rates in words and characters, computing times."""


class Latency(BaseModel):
    """Milliseconds from the last audio of a chunk to its tokens; a process that computes nothing else."""

    chunks: int
    p50: float
    p95: float
    p99: float


def latency_of(step_ms: Sequence[float]) -> Latency | None:
    """Percentiles of chunks' milliseconds; None where none were measured."""
    if not step_ms:
        return None
    p50, p95, p99 = np.percentile(step_ms, [50, 95, 99])
    return Latency(chunks=len(step_ms), p50=float(p50), p95=float(p95), p99=float(p99))


class Throughput(BaseModel):
    """What recordings took that were transcribed together, in batches, longer steps and several requests."""

    utterances: int
    audio_seconds: float
    wall_seconds: float
    rtfx: float


class Elsewhere(BaseModel):
    """Recordings that the machines of a cluster transcribed. They have no times: nobody knows what else ran there."""

    audio_seconds: float
    utterances: dict[str, int]  # by machine


class Speed(BaseModel):
    """How fast a side ran on the machine of the report, one utterance after another and chunk by chunk.

    Of all utterances, or of those that ran so where others ran ``together``. Where none did, the ratios are those of
    ``together``, and there are no times of chunks.
    """

    audio_seconds: float
    wall_seconds: float
    rtfx: float  # seconds of audio per second of computing
    rtf: float | None = None  # real-time factor: seconds of computing per second of audio
    encoder_ms: float | None = None  # mean encoder step
    step_ms: float | None = None  # mean of everything a chunk costs
    latency: Latency | None = None  # of a chunk; None where chunks were not timed
    together: Throughput | None = None  # the utterances that ran with others at a time
    elsewhere: Elsewhere | None = None  # those that a cluster transcribed, which no other figure counts
    seconds: dict[str, float] = Field(default_factory=dict)  # by graph
    calls: dict[str, int] = Field(default_factory=dict)


class LogitDivergence(BaseModel):
    """How far the target's logits are from the reference's along the reference's path: between tensors and tokens."""

    utterances: int
    cells: int  # of the lattice: encoder frame and tokens so far
    kl: float  # mean KL(reference ‖ target) in nats
    agreement: float  # share of cells with the same best token
    agreed_until: float  # share of an utterance's cells before the first with another, on average


def scored(rows: Sequence[Row], limits: Tolerance, target: Side, reference: Side, *, normalizer: str) -> dict[str, Any]:
    """The fields of :class:`Scores`, with what the two sides are as notes.

    Args:
        rows: utterances with both sides' output.
        limits: what passes.
        target: the side that is judged.
        reference: what it is compared with.
        normalizer: a name of :data:`verify.scoring.normalization.NORMALIZERS`.
    """
    scores = score_rows(rows, limits, target.lang_tag_token_ids, normalizer=normalizer)
    notes = []
    if target.checkpoint.get(RANDOM_WEIGHTS):
        notes.append("the checkpoint's weights are random: errors against the text say nothing about a trained model")
    if reference.recipe.get("hash"):
        notes.append(
            f"{reference.name} was made by the recipe {reference.recipe.get('name')}: what agrees with it need not "
            "agree with FP32"
        )
    return dict(scores) | {"notes": [*notes, *scores.notes]}


class Report(Scores):
    """The comparison of a target with its reference."""

    report_version: int = REPORT_VERSION
    limits: Tolerance
    limits_of: str = "the stored report"  # whose limits these are
    target: Side
    reference: Side
    witness: Side | None = None  # a second reference, which does not count in the verdict
    agreement: Agreement | None = None  # of the three
    language: str  # "manifest", "auto", or the language that was forced
    manifest_sha256: str
    speed: Speed
    reference_speed: Speed
    witness_speed: Speed | None = None
    divergence: LogitDivergence | None = None  # where it was asked for
    unusable: dict[str, str] = Field(default_factory=dict)  # recordings that could not be compared, and why
    pieces: dict[int, str] = Field(default_factory=dict)  # of the tokens at which utterances part; none in old reports
    rows: list[Row]

    def token_words(self, token: int | None) -> str:
        """A token as people read it: its id and, where the report has it, its piece."""
        if token is None:
            return "end"
        return f"{token} “{self.pieces[token]}”" if token in self.pieces else str(token)

    def save(self, path: Path) -> None:
        """Write the report as JSON; the file appears only when complete.

        Raises:
            UserError: it cannot be written there.
        """
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    def without(self, unusable: Mapping[str, str]) -> Report:
        """The report, with recordings that could not be compared; what has passed without them is not decided."""
        if not unusable:
            return self
        reason = f"{len(unusable)} recordings could not be used: {', '.join(Path(each).name for each in unusable)}"
        changes = {"unusable": dict(unusable), "passed": self.passed and None, "reasons": [*self.reasons, reason]}
        return self.model_copy(update=changes)

    @classmethod
    def load(cls, path: Path, normalizer: str | None = None, limits: Limits | None = None) -> Report:
        """Read a saved report; every number that follows from its rows is computed again.

        Reports of version 1, which averaged over utterances of all languages, and of version 2 are read too.

        Args:
            path: what :meth:`save` wrote.
            normalizer: see :mod:`verify.scoring.normalization`; None for the report's own.
            limits: to judge by; None for those that are stored, which are believed.

        Raises:
            UserError: the file is missing, is no report, or of a later version.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(stored, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
            rows = [Row.model_validate(row) for row in stored["rows"]]
            if limits is not None:
                stored |= {"limits": limits.tolerance.model_dump(), "limits_of": limits.whose}
            tolerance = Tolerance.model_validate(stored["limits"])
            later = stored.get("report_version", REPORT_VERSION) > REPORT_VERSION
            sides = [Side.model_validate(stored[name]) for name in ("target", "reference")]
            stored |= {
                name: _timed(Speed.model_validate(stored[name]), rows, [getattr(row, side) for row in rows])
                for name, side in (("speed", "target"), ("reference_speed", "reference"))
            }
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a report that verify wrote") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: is no verification report; give a report that verify wrote") from error
        if later:
            raise UserError(f"{path}: was written by a later version of nemotron-ov; use that")
        known = stored.get("normalizer") or DEFAULT_NORMALIZER
        if normalizer is None and str(known) not in NORMALIZERS:
            raise UserError(f"{path}: has the normalizer {known!r}, which is none; give --normalizer")
        chosen = get_normalizer(normalizer or known).name
        scores = scored(rows, tolerance, *sides, normalizer=chosen)
        try:
            agreement = count_agreement([row.agree for row in rows])
            report = cls.model_validate(stored | scores | {"agreement": agreement, "report_version": REPORT_VERSION})
            return report.without(report.unusable)
        except ValueError as error:
            raise UserError(f"{path}: is no verification report; give a report that verify wrote") from error


def read_rows(path: Path) -> list[Row]:
    """The rows of a report that this version saved; nothing is computed from them."""
    return [Row.model_validate(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def agreement_words(report: Report) -> dict[Agreeing, str]:
    """What each answer of :data:`verify.scoring.agreement.Agreeing` means with the names of a report's sides."""
    target, reference, witness = (
        "" if side is None else ORACLE_NAMES[side.oracle] if side.oracle else Path(side.name).name or side.name
        for side in (report.target, report.reference, report.witness)
    )
    return {
        "all": "all three",
        "target_and_reference": f"{target} and {reference}, not {witness}",
        "target_and_witness": f"{target} and {witness}, not {reference}",
        "reference_and_witness": f"{reference} and {witness}, not {target}",
        "none": "no two",
    }


def agreement_summary(report: Report) -> str:
    """The utterances of each answer, those with none left out; empty without a witness."""
    counted = {} if report.agreement is None else report.agreement.model_dump()
    counts = [(words, counted.get(name, 0), name == "all") for name, words in agreement_words(report).items()]
    return "; ".join(f"{words} {count}" for words, count, always in counts if counted and (count or always))


def _timed(speed: Speed, rows: Sequence[Row], outputs: Sequence[Output]) -> Speed:
    """What the rows say of a side's speed; the stored values where they hold no times."""
    if not rows or any(output.seconds is None and output.worker is None for output in outputs):
        return speed
    spent = [
        Spent(row.audio_seconds, output.seconds or 0.0, output.step_ms, output.together, output.worker)
        for row, output in zip(rows, outputs, strict=True)
    ]
    return speed.model_copy(update=timed(spent))


class Spent(NamedTuple):
    """What one utterance took."""

    audio_seconds: float
    wall_seconds: float
    step_ms: Sequence[float]
    together: bool
    worker: str | None = None


def timed(spent: Sequence[Spent]) -> dict[str, Any]:
    """The fields of :class:`Speed` that utterances' times give."""
    here = [each for each in spent if each.worker is None]
    alone, others = ([each for each in here if each.together is kind] for kind in (False, True))
    workers = Counter(each.worker for each in spent if each.worker is not None)
    far = sum(each.audio_seconds for each in spent if each.worker is not None)
    return speed_ratios(alone or others) | {
        "latency": latency_of([ms for each in alone for ms in each.step_ms]),
        "together": None if not others else Throughput(utterances=len(others), **_sums(others)),
        "elsewhere": Elsewhere(audio_seconds=far, utterances=dict(workers)) if workers else None,
    }


def speed_ratios(spent: Sequence[Spent]) -> dict[str, Any]:
    """Seconds of audio and of computing, and both ratios of them."""
    sums = _sums(spent)
    audio, wall = sums["audio_seconds"], sums["wall_seconds"]
    return sums | {"rtf": wall / audio if audio else None}


def _sums(spent: Sequence[Spent]) -> dict[str, float]:
    audio, wall = sum(each.audio_seconds for each in spent), sum(each.wall_seconds for each in spent)
    return {"audio_seconds": audio, "wall_seconds": wall, "rtfx": audio / wall if wall else 0.0}
