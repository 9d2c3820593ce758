"""The measurements as one table in Markdown, for documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.bench.report import as_fast_as, as_nemo, header, place, warnings

HEAD = (
    "build", "loop", "precision", "encoder, ms a chunk", "as fast", "audio to text, × real time", "as fast",
    "peak MB", "anonymous MB", "folder MB", "tokens", "as NeMo",
)  # fmt: skip

_WORDS = 3
"""Columns of words, at the left."""


def markdown(report: Mapping[str, Any]) -> list[str]:
    """Where it was measured and what makes the figures less than they seem, a row for each build, what failed or could
    not be used.

    Args:
        report: of :func:`scripts.bench.report.make_report`. ``as fast`` is against its baseline, by the second of
            audio; anonymous memory is what is no mapped page of the weights' file.
    """
    rule = ("---",) * _WORDS + ("---:",) * (len(HEAD) - _WORDS)
    table = [_line(HEAD), _line(rule), *(_line(_cells(row)) for row in report["builds"].values())]
    before = [*header(report), *(f"Warning: {text}" for text in warnings(report))]
    failures = [f"{name}: {reason}" for name, reason in report["failed"].items()]
    if report["builds"]:
        before.append(f"Ratios say how many times {as_fast_as(report)} a build is")
    return [*before, "", *table, *failures, *(f"Left out: {reason}" for reason in report["unusable"].values())]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"`{row['label']}`",
        *place(row),
        f"{row['encoder_step_ms'] / row['batch']:,.0f}",
        f"{row['ratios']['encoder_step']:.2f}",
        f"{row['pipeline_rtfx']:.1f}",
        f"{row['ratios']['pipeline']:.2f}",
        f"{row['peak_rss_mb']:,.0f}",
        "–" if row["anonymous_mb"] is None else f"{row['anonymous_mb']:,.0f}",
        f"{row['folder_mb']:,.0f}",
        f"{row['tokens']:,}",
        as_nemo(row),
    )


def _line(cells: tuple[str, ...]) -> str:
    """A row; a folder may be called anything."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
