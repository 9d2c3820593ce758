"""Each language's number for each build, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.page.sources import Comparison
from verify.scoring.intervals import Interval
from verify.scoring.models import LanguageScore
from verify.scoring.normalization import RateKind
from verify.scoring.rates import Metric


@dataclass(frozen=True)
class Cell:
    """A build's error rate in a language, percent, and the points that it is worse than its reference."""

    rate: float
    interval: Interval
    delta: float | None = None
    delta_interval: Interval = None


@dataclass
class Language:
    """A language with its builds' numbers; ``of_text`` says whether they are against a text or the reference's."""

    name: str
    metric: Metric
    utterances: int
    of_text: bool
    cells: dict[str, Cell] = field(default_factory=dict)


def by_language(comparisons: Sequence[Comparison]) -> list[Language]:
    """All languages, by name; a reference that several builds share stands as its first comparison has it."""
    found: dict[str, Language] = {}
    for comparison in comparisons:
        report = comparison.report
        for name, score in report.per_language.items():
            language = found.setdefault(name, Language(name, score.metric, score.utterances, bool(score.rates)))
            language.utterances = max(language.utterances, score.utterances)
            if not score.rates:
                if not language.of_text:
                    language.cells[comparison.build] = Cell(score.wer_between, score.wer_between_interval)
                continue
            if not language.of_text:  # one comparison ignored the text, another did not
                language.of_text, language.cells = True, {}
            language.cells.setdefault(comparison.reference, _cell(score, "reference", report.rate))
            language.cells[comparison.build] = _cell(score, "target", report.rate)
    return [found[name] for name in sorted(found)]


def _cell(score: LanguageScore, side: str, kind: RateKind) -> Cell:
    rate = score.rates["target" if side == "target" else "reference"][score.metric]
    value = rate.corpus if kind == "corpus" else rate.mean
    interval = rate.corpus_interval if kind == "corpus" else rate.mean_interval
    if side != "target":
        return Cell(value, interval)
    return Cell(value, interval, score.wer_delta, score.wer_delta_interval)
