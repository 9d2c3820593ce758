"""Points that no other point dominates: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """For each point, whether no other is at least as small everywhere and smaller somewhere.

    Args:
        points: [n][objectives], less is better; equal points stand or fall together.
    """
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)
