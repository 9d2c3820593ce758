"""What a report says: rows of two sides' output, and every number that follows from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, computed_field

from verify.scoring.agreement import Agreeing, agreeing
from verify.scoring.intervals import Interval
from verify.scoring.normalization import DEFAULT_NORMALIZER, RateKind
from verify.scoring.rates import Metric
from verify.verdict import NOISE, Check

Measure = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""What a stored number can be that was measured: a time, or a margin."""

SIDES: tuple[Literal["target", "reference"], ...] = ("target", "reference")
METRICS: tuple[Metric, ...] = ("wer", "cer")


Whole = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
"""A token or a frame; a larger number is none, and a table for notebooks could not hold it."""


class Output(BaseModel):
    """What one side made of an utterance."""

    tokens: list[Whole]  # the checkpoint's ids, also where the folder's vocabulary is pruned
    frames: list[Whole] = Field(default_factory=list)
    text: str
    language: str | None = None
    seconds: Measure | None = None  # of computing; None in reports of before, and where a cluster transcribed
    step_ms: list[Measure] = Field(default_factory=list)  # of each chunk, audio in to tokens out
    together: bool = False  # with others at a time: its seconds are its share, and no chunk was timed
    worker: str | None = None  # machine of a cluster that transcribed it; it has no times


class Row(BaseModel):
    """An utterance with both sides' output and the manifest's text."""

    audio: str
    audio_filepath: str | None = None  # with its folder; None in reports of before
    offset: Measure = 0.0  # where it begins in that file, seconds
    audio_seconds: Measure
    language: str  # the manifest's target_lang
    text: str
    sentence: str | None = None  # the manifest's sentence_id
    target: Output
    reference: Output
    margin: Measure | None = None  # FP32's where the tokens differ; see verify.margins
    witness: Output | None = None  # a second reference's, where there is one

    @computed_field  # type: ignore[prop-decorator]
    @property
    def agree(self) -> Agreeing | None:
        """Which of the three sides have the same tokens; None without a witness."""
        if self.witness is None:
            return None
        return agreeing(self.target.tokens, self.reference.tokens, self.witness.tokens)

    @property
    def is_tie(self) -> bool:
        """Whether FP32 itself was undecided where the tokens part."""
        return self.margin is not None and self.margin <= NOISE


class ErrorParts(BaseModel):
    """What an error rate is made of, in percent; the three add up to it."""

    substitutions: float
    deletions: float
    insertions: float


class Rates(BaseModel):
    """Rates in percent and their differences in points; intervals are those of 95 %, None where nothing tells.

    ``wer`` and all that begins with it is what the normalizer calls a language's number: all errors over all words
    (or characters), or the mean of the utterances' rates. What is measured against the manifest's text is None where it
    has none.
    """

    utterances: int
    exact_match: float  # share of utterances with identical tokens, 0 to 1
    wer: float | None  # target against the manifest's text
    errors: ErrorParts | None
    reference_wer: float | None  # reference against the manifest's text
    reference_errors: ErrorParts | None
    wer_delta: float | None  # points that the target is worse than the reference
    wer_delta_interval: Interval
    wer_between: float  # target against the reference's text
    wer_between_interval: Interval
    between_errors: ErrorParts | None = None  # what wer_between is made of; None in reports of before
    wer_raw: float | None  # as wer, with case and punctuation
    reference_wer_raw: float | None


class Rate(BaseModel):
    """One side's rate against the manifest's text, in percent."""

    corpus: float  # all errors over all units
    corpus_interval: Interval
    mean: float  # of the utterances' rates
    mean_interval: Interval
    errors: ErrorParts
    units: int  # words or characters of the text


class Difference(BaseModel):
    """Points that the target is worse than the reference on the same recordings."""

    corpus: float
    corpus_interval: Interval
    mean: float
    mean_interval: Interval


class Paired(BaseModel):
    """Points by which one target is farther from the reference's text than another, averaged over languages."""

    points: float
    interval: Interval
    deletions: float
    deletions_interval: Interval


class LanguageScore(Rates):
    """One language's share of the result; ``wer`` holds what ``metric`` says.

    ``rates`` and ``differences`` hold words and characters, whatever the language's metric is, and are empty where
    there is no text.
    """

    metric: Metric
    units: int  # words or characters of the manifest's text
    sentences: int  # that are resampled
    rates: dict[Literal["target", "reference"], dict[Metric, Rate]] = Field(default_factory=dict)
    differences: dict[Metric, Difference] = Field(default_factory=dict)


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
    """An utterance that the two sides transcribe differently."""

    audio: str
    language: str
    edits: int
    wer: float  # target against reference
    diff: str
    text: str


class Scores(Rates):
    """Everything that follows from the rows and the limits; rates are averages over ``languages``."""

    normalizer: str = DEFAULT_NORMALIZER  # the form in which texts were compared
    rate: RateKind = "corpus"  # what a language's number is
    passed: bool | None  # None: not decided by these utterances
    reasons: list[str]  # why not passed
    notes: list[str] = Field(default_factory=list)  # what a reader of the verdict must know besides
    checks: list[Check]  # every limit with its answer
    languages: list[str]  # that the rates average: those with enough speech, or all where none has enough
    wer_weighted: float | None = None  # mean of all languages' numbers, weighted by utterances
    reference_wer_weighted: float | None = None
    ties: int  # utterances whose tokens part where FP32 itself was undecided
    language_accuracy: float | None  # share of utterances whose language tag is right; None where none is known
    reference_language_accuracy: float | None
    language_confusion: dict[str, dict[str, int]] = Field(default_factory=dict)  # spoken, tagged ("" without a tag): n
    reference_language_confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    per_language: dict[str, LanguageScore]
    first_divergences: list[Divergence]
    worst_examples: list[Example]
