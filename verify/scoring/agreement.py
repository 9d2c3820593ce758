"""Which of three sides agree: a folder, its reference, and a second reference that does not count in the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel

Agreeing = Literal["all", "target_and_reference", "target_and_witness", "reference_and_witness", "none"]
"""The sides that have the same tokens on an utterance."""


class Agreement(BaseModel):
    """How many utterances have the same tokens on which sides; the five numbers add up to all utterances."""

    all: int
    target_and_reference: int
    target_and_witness: int
    reference_and_witness: int
    none: int


def agreeing(target: Sequence[int], reference: Sequence[int], witness: Sequence[int]) -> Agreeing:
    """Which of three token sequences are the same."""
    same = target == reference, target == witness, reference == witness
    if all(same):
        return "all"
    pairs: tuple[Agreeing, ...] = ("target_and_reference", "target_and_witness", "reference_and_witness")
    return next((pair for pair, holds in zip(pairs, same, strict=True) if holds), "none")


def count_agreement(found: Sequence[Agreeing | None]) -> Agreement | None:
    """The utterances by who agrees; None where there is no witness."""
    counts = Counter(each for each in found if each is not None)
    if not counts:
        return None
    return Agreement(**{each: counts[each] for each in get_args(Agreeing)})
