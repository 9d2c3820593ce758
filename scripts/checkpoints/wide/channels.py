"""Channels that are copied, and weights over them: what a wider layer must hold to compute what the small one did.

Net2WiderNet of Chen, Goodfellow, Shlens, *Net2Net: Accelerating Learning via Knowledge Transfer* (ICLR 2016): a channel
is copied, and the weights that read it are split into parts whose sum is the old weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]

OUTLIERS = (20.0, 50.0)
"""How many times larger an outlier channel's activations are.

Dettmers et al., *LLM.int8()* (NeurIPS 2022): up to 20 times, in some 0.1 % of the channels, the same in nearly all
layers. Xiao et al., *SmoothQuant* (ICML 2023): about 100 times, always in the same channels.
"""

SCALES_SPREAD = 0.2
"""Standard deviation of the logarithm of all other channels' scales; the demo's trained norms have 0.04 to 0.19."""


@dataclass(frozen=True)
class Channels:
    """A layer's channels.

    Attributes:
        source: which old channel each is a copy of, [new].
        scale: what each copy holds of the old channel's value, [new].
    """

    source: Array
    scale: Array

    @classmethod
    def copies(cls, source: Array) -> Channels:
        """Copies as they are."""
        return cls(source, np.ones(len(source)))

    def scaled(self, scale: Array) -> Channels:
        """The same, each multiplied by its scale."""
        return replace(self, scale=self.scale * scale)

    def repeated(self, inner: int) -> Channels:
        """Each followed by ``inner`` values of its own, as flattened time-frequency maps are."""
        source = self.source[:, None] * inner + np.arange(inner)
        return Channels(source.ravel(), np.repeat(self.scale, inner))

    def blocks(self, count: int) -> Channels:
        """``count`` blocks of such channels, one after another: gates."""
        old = int(self.source.max()) + 1
        source = np.arange(count)[:, None] * old + self.source
        return Channels(source.ravel(), np.tile(self.scale, count))

    def then(self, kept: int) -> Channels:
        """These, and ``kept`` channels behind them that are not copied."""
        old = int(self.source.max()) + 1
        return Channels(
            np.concatenate([self.source, old + np.arange(kept)]), np.concatenate([self.scale, np.ones(kept)])
        )


class Splitter:
    """Draws everything random.

    Args:
        seed: of the draws.
        spread: how unequal the parts of a weight are; 0 for equal parts. With 1 a row's weights have the old row's root
            mean square divided by √k, of k copies: independent errors of rounding then move the output as much as in
            the old layer. Equal parts average them, to 1/√k of that.
        outliers: share of the channels whose activations are :data:`OUTLIERS` times larger.
    """

    def __init__(self, seed: int, spread: float = 1.0, outliers: float = 0.005) -> None:
        self._random = np.random.default_rng(seed)
        self._spread, self._outliers = spread, outliers

    def channels(self, old: int, new: int) -> Channels:
        """Copies of each of ``old`` channels, in random order."""
        return Channels.copies(self._random.permutation(np.repeat(np.arange(old), new // old)))

    def outliers(self, count: int) -> Array:
        """Which of ``count`` channels are outliers, at least one, or none where no share is asked for."""
        share = self._outliers
        return self._random.choice(count, size=max(1, round(share * count)) if share else 0, replace=False)

    def scales(self, count: int, outliers: Array | None = None) -> Array:
        """Scales of ``count`` channels, log-normal; 1 everywhere where no share of outliers is asked for.

        Args:
            count: of channels.
            outliers: which are; new ones are drawn where this is None.
        """
        if not self._outliers:
            return np.ones(count)
        scale: Array = np.exp(SCALES_SPREAD * self._random.standard_normal(count))
        where = self.outliers(count) if outliers is None else outliers
        scale[where] = np.exp(self._random.uniform(np.log(OUTLIERS[0]), np.log(OUTLIERS[1]), len(where)))
        return scale

    def parts(self, groups: int, copies: int) -> Array:
        """Parts that sum to 1 in each group, [groups, copies]."""
        drawn = self._laplace((groups, copies))
        drawn -= drawn.mean(axis=1, keepdims=True)
        parts: Array = 1.0 / copies + self._spread * drawn / np.sqrt(copies)
        return parts

    def split(self, weight: Array, columns: Channels) -> Array:
        """A weight [rows, old, …] over copied channels, [rows, new, …].

        What is added to equal parts is Laplace-distributed (trained weights have heavier tails than normal ones) with
        the row's root mean square, and sums to nothing over the copies of a channel.
        """
        order = np.argsort(columns.source, kind="stable")
        source, scale = columns.source[order], columns.scale[order]
        starts, counts = np.unique(source, return_index=True, return_counts=True)[1:]
        share = counts[source].reshape(-1, *[1] * (weight.ndim - 2))
        size = np.sqrt((weight**2).mean(axis=tuple(range(1, weight.ndim)), keepdims=True))
        noise = self._laplace((len(weight), len(source), *weight.shape[2:])) * size
        noise -= (np.add.reduceat(noise, starts, axis=1) / counts.reshape(-1, *share.shape[1:]))[:, source]
        wide: Array = np.empty_like(noise)
        parts = weight[:, source] / share + self._spread * noise / np.sqrt(share)
        wide[:, order] = parts / scale.reshape(share.shape)
        return wide

    def _laplace(self, shape: tuple[int, ...]) -> Array:
        """Of variance 1: the difference of two exponential draws, which is faster than NumPy's own."""
        first, second = (self._random.standard_exponential(shape, np.float32) for _ in range(2))
        drawn: Array = (first.astype(np.float64) - second) / np.sqrt(2.0)
        return drawn


def copied(tensor: Array, rows: Channels) -> Array:
    """A bias, a norm's weight or a matrix whose outputs are copied, [new, …]."""
    wide: Array = tensor[rows.source] * rows.scale.reshape(-1, *[1] * (tensor.ndim - 1))
    return wide


def to_torch(array: Array) -> torch.Tensor:
    """In FP32."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
