"""Two transcripts of the same audio: where they diverge, and what that looks like."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from verify.scoring.rates import Metric


def first_divergence(reference: Sequence[int], target: Sequence[int]) -> int | None:
    """Position of the first token that differs, or None where the sequences are identical.

    A sequence that ends where the other goes on diverges at its end.
    """
    for position, (expected, actual) in enumerate(zip(reference, target, strict=False)):
        if expected != actual:
            return position
    return None if len(reference) == len(target) else min(len(reference), len(target))


def exact_match(divergences: Sequence[int | None]) -> float:
    """Share of utterances whose tokens are identical, 0 to 1; 1 where there are none."""
    return sum(position is None for position in divergences) / len(divergences) if divergences else 1.0


def text_diff(reference: str, target: str, metric: Metric = "wer") -> str:
    """One line that shows what changed: ``the [-cat-]{+hat+} sat``, by words or by characters."""
    joint = "" if metric == "cer" else " "
    before, after = (list(text.replace(" ", "")) if metric == "cer" else text.split() for text in (reference, target))
    parts = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = joint.join(before[i1:i2]), joint.join(after[j1:j2])
        parts.append(old if kind == "equal" else (f"[-{old}-]" if old else "") + (f"{{+{new}+}}" if new else ""))
    return joint.join(parts)
