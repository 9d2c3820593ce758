"""How sure a rate is: resampled sentences instead of a formula.

Blockwise bootstrap of paired differences: Liu, Peng, *Statistical Testing on ASR Performance via Blockwise Bootstrap*
(arXiv 1912.09508), after Bisani, Ney, *Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation*
(ICASSP 2004). Recordings of one sentence depend on each other and are drawn together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999
CONFIDENCE = 0.95
_SEED = 0  # the same rows give the same interval
_BATCH = 1000  # resamples in memory at a time

Array = NDArray[Any]


def resampled_rates(errors: Sequence[int], units: Sequence[int], sentences: Sequence[Hashable]) -> Array | None:
    """Rates in percent of :data:`RESAMPLES` sets of sentences, drawn with replacement from those given.

    Args:
        errors: of each recording; a paired difference may be negative.
        units: words or characters of each.
        sentences: which sentence each recording is of.

    Returns:
        [:data:`RESAMPLES`], or None where fewer than two sentences leave nothing to draw from.
    """
    from scipy.stats import bootstrap  # 60 MB, which a transcription need not hold

    numbers = {sentence: number for number, sentence in enumerate(dict.fromkeys(sentences))}
    if len(numbers) < 2:
        return None
    places = [numbers[sentence] for sentence in sentences]
    summed = tuple(np.bincount(places, weights=values) for values in (errors, units))
    result = bootstrap(
        summed, _rate, n_resamples=RESAMPLES, batch=_BATCH, vectorized=True, paired=True, method="percentile", rng=_SEED
    )
    distribution: Array = result.bootstrap_distribution
    return distribution


def interval(distribution: Array) -> tuple[float, float]:
    """The percentile interval of :data:`CONFIDENCE` of resampled values."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(distribution, [tail, 1.0 - tail])
    return float(low), float(high)


def _rate(errors: Array, units: Array, axis: int) -> Array:
    rate: Array = 100.0 * errors.sum(axis=axis) / np.maximum(units.sum(axis=axis), 1.0)
    return rate
