"""A comparison as people read it: what each language lost, where the two sides part, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.languages import DEFAULT_LANGUAGE, is_same
from verify.scoring.intervals import between

if TYPE_CHECKING:
    from rich.console import RenderableType

    from verify.report import Divergence, ErrorParts, Rates, Report, Speed
    from verify.runs import Side

_SHOWN = 5  # examples, and first divergences; the report holds more


def comparison(report: Report) -> list[RenderableType]:
    """A row for each language and their average, the worst examples, the first divergences, and the verdict."""
    from rich.markup import escape
    from rich.table import Table

    from verify.verdict import verdict_word

    text = any(row.text for row in report.rows)  # none where it was ignored
    table = Table("language", "metric", "utterances", "same tokens %", "differs %", title_justify="left")
    for column in ("error %", "S, D, I %", "reference %", "S, D, I %", "delta", "95 %"):
        if text:
            table.add_column(column, justify="right")
    for name, score in report.per_language.items():
        table.add_row(escape(name), score.metric, *_cells(score))
    averaged = "average" if len(report.languages) == len(report.per_language) else f"average: {_listed(report)}"
    table.add_row(averaged, "", *_cells(report))
    sides = [_described(side) for side in _known_sides(report)]
    lines = [" against ".join(sides)] if sides else []
    if report.divergence is not None:
        found = report.divergence
        lines.append(
            f"logits on {found.utterances} utterances, {found.cells} cells: KL {found.kl:.2g}, best token the same in "
            f"{100 * found.agreement:.2f} %"
        )
    lines += [_confused_languages(side, confusion) for side, confusion in _confusions(report)]
    lines += [_timed(side, speed) for side, speed in (("", report.speed), ("reference: ", report.reference_speed))]
    lines += [f"  {example.audio}: {example.diff}" for example in report.worst_examples[:_SHOWN]]
    lines += [_divergence(report, each) for each in report.first_divergences[:_SHOWN]]
    lines += [f"note: {each}" for each in report.notes]
    lines += _agreement(report)
    if report.ties:
        lines.append(f"near ties, which do not count: {report.ties}")
    mean = ", means of the utterances' rates" if report.rate == "mean" else ""
    lines.append(f"normalizer: {report.normalizer}{mean}; limits: {report.limits_of}")
    verdict = f"[bold]{verdict_word(report.passed)}[/]" + "".join(f"; {escape(reason)}" for reason in report.reasons)
    return [table, *(escape(line) for line in lines), verdict]


def _agreement(report: Report) -> list[str]:
    """Which of three sides have the same tokens, and the first utterances on which they do not."""
    from verify.report import agreement_summary, agreement_words

    if report.agreement is None:
        return []
    words = agreement_words(report)
    apart = [f"  {row.audio}: {words[row.agree]}" for row in report.rows if row.agree not in (None, "all")]
    more = [f"  and {len(apart) - _SHOWN} more"] if len(apart) > _SHOWN else []
    return [f"same tokens: {agreement_summary(report)}", *apart[:_SHOWN], *more]


def _cells(rates: Rates) -> list[str]:
    cells = [str(rates.utterances), f"{100 * rates.exact_match:.1f}", f"{rates.wer_between:.2f}"]
    if rates.errors is None or rates.reference_errors is None:
        return cells
    cells += [f"{rates.wer:.2f}", _three(rates.errors), f"{rates.reference_wer:.2f}", _three(rates.reference_errors)]
    return [*cells, f"{rates.wer_delta:+.2f}", between(rates.wer_delta_interval)]


def _three(errors: ErrorParts) -> str:
    return f"{errors.substitutions:.2f}, {errors.deletions:.2f}, {errors.insertions:.2f}"


def _listed(report: Report) -> str:
    return ", ".join(report.languages)


def _divergence(report: Report, found: Divergence) -> str:
    """One line for where an utterance's tokens part."""
    margin = "margin not measured" if found.margin is None else f"fp32's margin {found.margin:.3f}"
    tie = "" if found.counts else ", a near tie"
    expected, actual = report.token_words(found.expected), report.token_words(found.actual)
    return f"  {found.audio}: token {found.position}: {expected} became {actual}, {margin}{tie}"


def _confusions(report: Report) -> list[tuple[str, dict[str, dict[str, int]]]]:
    """Of both sides, where the model had to find the language itself."""
    if report.language != DEFAULT_LANGUAGE:
        return []
    return [
        (side, confusion)
        for side, confusion in (
            ("", report.language_confusion),
            ("reference: ", report.reference_language_confusion),
        )
        if confusion
    ]


def _confused_languages(side: str, confusion: dict[str, dict[str, int]]) -> str:
    """One line for the languages that a side found: how many of each were right, and as what the others were taken."""
    spoken = []
    for language, tagged in confusion.items():
        others = [f"{other or 'no tag'} {count}" for other, count in tagged.items() if not is_same(language, other)]
        right = sum(count for other, count in tagged.items() if is_same(language, other))
        spoken.append(f"{language} {right}/{sum(tagged.values())}" + (f" ({', '.join(others)})" if others else ""))
    return f"{side}languages found: {'; '.join(spoken)}"


def _timed(side: str, speed: Speed) -> str:
    """One line for how fast a side was."""
    line = f"{side}{speed.rtfx:.1f} × real time" if speed.rtfx else f"{side}no times"
    if speed.together is not None:
        line += f" one after another, {speed.together.rtfx:.1f} × together"
    if speed.elsewhere is not None:
        counted = speed.elsewhere.utterances
        line += f" on this machine; {sum(counted.values())} utterances transcribed by {', '.join(counted)}, not timed"
    if speed.latency is None:
        return line
    found = speed.latency
    return f"{line}; a chunk takes {found.p50:.1f} ms (p50), {found.p95:.1f} ms (p95), {found.p99:.1f} ms (p99)"


def _described(side: Side) -> str:
    """What ran, how, and in which precision where that is not FP32."""
    precision = f", {side.precision}" if side.precision not in (None, "f32") else ""
    return f"{side.name} ({side.runtime}, chunks of {side.chunk_ms:g} ms{precision})"


def _known_sides(report: Report) -> list[Side]:
    """The sides where all say their chunk."""
    sides = [report.target, report.reference, *([report.witness] if report.witness else [])]
    return sides if all(side.chunk_ms is not None for side in sides) else []
