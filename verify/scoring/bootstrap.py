"""How sure a rate is: resampled sentences instead of a formula.

Blockwise bootstrap of paired differences: Liu, Peng, *Statistical Testing on ASR Performance via Blockwise Bootstrap*
(arXiv 1912.09508), after Bisani, Ney, *Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation*
(ICASSP 2004). Recordings of one sentence depend on each other and are drawn together.

Resampling draws only what was seen, so that no errors give an interval of no width. Each interval is therefore widened
by errors that a set of this size may miss: where none was seen, as many as have a mean of one (Poisson), 3 of 97.5 %.
That is the rule of three of Hanley, Lippman-Hand, *If Nothing Goes Wrong, Is Everything All Right?* (JAMA 1983).
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.scoring.normalization import RateKind
from verify.scoring.rates import Score, mean_rate, total

RESAMPLES = 9999
CONFIDENCE = 0.95
MISSED = 3
"""Errors that may have been missed where none was seen: the 97.5 % quantile of a Poisson of mean one."""
_BATCH = 1000  # resamples in memory at a time

Array = NDArray[Any]


class Sample:
    """Errors of the same recordings, counted in several ways, and what other recordings might have given.

    All counts see the same resampled sentences, so that their differences are paired.

    Args:
        scores: by the name of each count, one of each recording.
        sentences: which sentence each recording is of.
        seed: the same rows give the same interval; what varies independently has another.
    """

    def __init__(self, scores: Mapping[str, Sequence[Score]], sentences: Sequence[Hashable], *, seed: int = 0) -> None:
        self.scores = scores
        self._seed = seed
        self._sentences = sentences
        self.totals = {name: total(each) for name, each in scores.items()}

    def rate(self, name: str, kind: RateKind) -> float:
        """A rate in percent."""
        return self.totals[name].rate if kind == "corpus" else mean_rate(self.scores[name])

    def error(self, name: str, kind: RateKind) -> float:
        """Points that a single error more adds to that rate."""
        scores = [self.totals[name]] if kind == "corpus" else self.scores[name]
        return fmean(100.0 / max(score.units, 1) for score in scores) / len(scores)

    def resampled(self, name: str, kind: RateKind) -> Array | None:
        """That rate of :data:`RESAMPLES` sets of as many sentences, [:data:`RESAMPLES`]; None for fewer than two."""
        if self._sums is None:
            return None
        count, sums = self._sums
        edits, units, rates = sums[name]
        result: Array = 100.0 * edits / np.maximum(units, 1.0) if kind == "corpus" else rates / count
        return result

    @cached_property
    def _sums(self) -> tuple[Array, dict[str, Array]] | None:
        """Recordings, and by name edits, units and summed rates, of each resampled set."""
        columns = [np.ones(len(self._sentences))]
        for scores in self.scores.values():
            columns += [
                np.array([score.edits for score in scores]),
                np.array([score.units for score in scores]),
                np.array([score.rate for score in scores]),
            ]
        sums = resample(np.stack(columns), self._sentences, self._seed)
        if sums is None:
            return None
        return sums[0], {name: sums[1 + 3 * place : 4 + 3 * place] for place, name in enumerate(self.scores)}


def resample(columns: Array, sentences: Sequence[Hashable], seed: int) -> Array | None:
    """Sums over :data:`RESAMPLES` sets of sentences, drawn with replacement from those given.

    Args:
        columns: [columns, recordings].
        sentences: which sentence each recording is of.
        seed: of the draws.

    Returns:
        [columns, :data:`RESAMPLES`], or None where fewer than two sentences leave nothing to draw from.
    """
    numbers = {sentence: number for number, sentence in enumerate(sorted(set(sentences), key=str))}  # in any order
    count = len(numbers)
    if count < 2:
        return None
    places = [numbers[sentence] for sentence in sentences]
    summed = np.stack([np.bincount(places, weights=column) for column in columns])
    generator = np.random.default_rng(seed)
    batches = []
    for first in range(0, RESAMPLES, _BATCH):
        rows = min(_BATCH, RESAMPLES - first)
        chosen = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count)  # each sentence, in each set
        batches.append(summed @ times.T)
    return np.concatenate(batches, axis=1)


def interval(distribution: Array, error: float, *, signed: bool) -> tuple[float, float]:
    """The percentile interval of :data:`CONFIDENCE` of resampled values, with the errors that the set may have missed.

    Args:
        distribution: [:data:`RESAMPLES`].
        error: what a single error more adds to the value.
        signed: whether errors can lower the value too, as in a difference of two rates.
    """
    tail = (1.0 - CONFIDENCE) / 2.0
    missed = error * _missed(len(distribution))
    low = np.quantile(distribution - missed if signed else distribution, tail)
    return float(low), float(np.quantile(distribution + missed, 1.0 - tail))


@functools.cache
def _missed(count: int) -> Array:
    """Errors that each of so many sets may have missed: the same for all values that an interval is taken of."""
    return np.random.default_rng(0).poisson(1.0, count)
