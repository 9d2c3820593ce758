"""What passes: limits, how sure a measured value is, and three answers.

A value on some utterances is a sample of what all speech would give. A limit holds where the whole interval of
:data:`verify.scoring.bootstrap.CONFIDENCE` lies within it, is broken where the whole interval lies beyond it, and is
not decided by so many utterances where the interval holds the limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from pydantic import BaseModel

from quantize.recipe import Tolerance
from verify.scoring.intervals import between

ENOUGH_UNITS = 100
"""Words or characters from which on a language's rate is worth an average and a limit can hold."""

ENOUGH_SENTENCES = 10
"""Sentences from which on resampling them says how sure a rate is."""

IDENTITY = 0.95
"""Share of identical utterances from which on a limit promises the same tokens, rather than about as many errors."""

ENOUGH_ALIKE = 59
"""Sentences that must keep their tokens before that promise holds.

If 59 of 59 do, :data:`IDENTITY` of all do with 95 % confidence (0.95⁵⁹ < 0.05).
"""

UNRECOGNIZED = 80.0
"""Percent of errors of the reference itself from which on its text has nothing left to lose."""

NOISE = 0.02
"""Logits by which FP32's best token must lead before another token counts against a build; below, rounding decides.

Weights in FP16 move that lead by up to 0.018 (demo checkpoint, 60 utterances, 5,053 cells), in INT8 by up to 0.53.
"""

Answer = Literal["within", "beyond", "undecided"]

MACRO = "macro-average"
ALL = "all"

TOO_LITTLE = "too little speech"
TOO_FEW = "too few utterances"
TOO_FEW_ALIKE = f"{ENOUGH_ALIKE} different sentences that keep their tokens show it"
NO_LIMIT = "there is no text, and the limits name no wer_between"

_ROUNDING = 1e-9


class Measured(BaseModel):
    """A value that has a limit."""

    limit_name: Literal["exact_match", "wer_delta", "language_wer_delta", "wer_between"]
    scope: str  # a language, MACRO, or ALL utterances
    value: float  # a share from 0 to 1, points, or percent
    interval: tuple[float, float] | None = None  # of CONFIDENCE; None where nothing tells
    resampled: tuple[float, float] | None = None  # the same without errors that the set may have missed
    units: int = 0  # words or characters behind it
    sentences: int = 0

    def checked(self, limits: Tolerance) -> Check:
        """Whether the limit holds."""
        limit, answer, why = self._share(limits) if self.limit_name == "exact_match" else self._rate(limits)
        found = {"limit": limit, "answer": answer, "why": why, "judged_interval": self._judged_interval(limits)}
        return Check.model_validate(self.model_dump() | found)

    def _share(self, limits: Tolerance) -> tuple[float | None, Answer, str]:
        limit = limits.exact_match
        if self.value < limit:
            return limit, "beyond", ""
        enough = limit < IDENTITY or self.sentences >= ENOUGH_ALIKE
        return (limit, "within", "") if enough else (limit, "undecided", TOO_FEW_ALIKE)

    def _rate(self, limits: Tolerance) -> tuple[float | None, Answer, str]:
        limit = limits.of_a_language if self.limit_name == "language_wer_delta" else getattr(limits, self.limit_name)
        if limit is None:
            return None, "undecided", NO_LIMIT
        interval = self._judged_interval(limits)
        if interval is None or self.sentences < ENOUGH_SENTENCES:
            return limit, "undecided", TOO_LITTLE
        low, high = interval
        if low > limit + _ROUNDING:
            return limit, "beyond", ""
        if self.units < ENOUGH_UNITS:
            return limit, "undecided", TOO_LITTLE
        return (limit, "within", "") if high <= limit + _ROUNDING else (limit, "undecided", TOO_FEW)

    def _judged_interval(self, limits: Tolerance) -> tuple[float, float] | None:
        """Tokens that must be identical leave no room for errors that were missed: their own limit sees to those."""
        return self.resampled if limits.exact_match >= IDENTITY else self.interval


class Check(Measured):
    """A limit, and whether it holds."""

    limit: float | None
    answer: Answer
    judged_interval: tuple[float, float] | None = None  # by which it was answered: of the two above
    why: str = ""  # where it is undecided: what is missing

    @property
    def counts(self) -> bool:
        """Whether the verdict heeds it: too little speech of a language that loses no more than it may says nothing."""
        beyond = self.limit is not None and self.value > self.limit + _ROUNDING
        return self.scope in (ALL, MACRO) or self.why != TOO_LITTLE or beyond

    @property
    def reason(self) -> str:
        """One line for a limit that does not hold, or is not known to."""
        is_share = self.limit_name == "exact_match"
        value = f"{self.value:.4f}" if is_share else f"{self.value:+.3f}"
        interval = "" if self.judged_interval is None else f" (95 %: {between(self.judged_interval, '+.3f')})"
        limit = "" if self.limit is None else f" {'below' if is_share else 'above'} the limit {self.limit:g}"
        answer = f"is{limit}" if self.answer == "beyond" else f"may be{limit}: {self.why}"
        return f"{self.limit_name}{'' if self.scope == ALL else f' of {self.scope}'} {value}{interval} {answer}"


def judge(measured: Iterable[Measured], limits: Tolerance) -> list[Check]:
    """Every limit's answer."""
    return [each.checked(limits) for each in measured]


def passed(checks: Sequence[Check]) -> bool | None:
    """True where every limit holds, False where one is broken, None where that is not decided."""
    return all_passed([_PASSED[each.answer] for each in checks if each.counts])


_PASSED: dict[Answer, bool | None] = {"within": True, "beyond": False, "undecided": None}


def verdict_word(passed: bool | None) -> str:
    """How a verdict reads."""
    return {True: "passed", False: "FAILED", None: "NOT DECIDED"}[passed]


def all_passed(passed: Collection[bool | None]) -> bool | None:
    """False where one has failed, None where one is not known."""
    return False if False in passed else None if None in passed else True
