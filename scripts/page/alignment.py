"""Two texts side by side as the scorer sees them: what stayed, what became what, what is missing, what was added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from verify.scoring.rates import Metric, Score


@dataclass(frozen=True)
class Part:
    """Neighbouring words, or characters, to which the same happened; ``before`` or ``after`` may be empty."""

    kind: str  # equal, replace, delete, insert
    before: str
    after: str


def align(reference: Sequence[str], hypothesis: Sequence[str], metric: Metric) -> tuple[list[Part], Score]:
    """The parts, in order, and how many errors they are.

    The edits are those that :func:`verify.scoring.rates.score_words` counts, so that the counts are the report's.

    Args:
        reference: normalized words.
        hypothesis: normalized words.
        metric: by words or, for languages that are scored by characters, by these.
    """
    joint = "" if metric == "cer" else " "
    before, after = ("".join(words) if metric == "cer" else list(words) for words in (reference, hypothesis))
    parts, counts = [], {"replace": 0, "delete": 0, "insert": 0}
    for step in Levenshtein.opcodes(before, after):
        old, new = before[step.src_start : step.src_end], after[step.dest_start : step.dest_end]
        if step.tag != "equal":
            counts[step.tag] += max(len(old), len(new))
        parts.append(Part(step.tag, joint.join(old), joint.join(new)))
    return parts, Score(counts["replace"], counts["delete"], counts["insert"], len(before))
