"""What people see of a sweep and of a ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from verify.scoring.intervals import with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BUSY = 0.15
"""Share of the cores that other processes may take before times are called disturbed."""


def render_sweep(report: Mapping[str, Any]) -> list[RenderableType]:
    """Where it was measured, a line a recipe, what failed."""
    from rich.markup import escape
    from rich.table import Table

    facts, text = report["machine"], report["text_scored"]
    lines = [
        f"{escape(report['source'])}, {report['utterances']} utterances of {escape(report['manifest'])}; "
        f"{facts['cpu']}, {facts['threads']} threads, {report['seconds']:.0f} s"
    ]
    if facts["other_cores"] is not None and facts["other_cores"] > BUSY * facts["cores"]:
        lines.append(
            f"[bold]warning:[/] machine busy, other processes took {facts['other_cores']:g} of {facts['cores']} cores; "
            "read the ratios (each against fp32 measured in turn with it), not the times"
        )
    table = Table("recipe")
    columns = ["MB", "step ms", "× as fast", "× real time", "peak MB"]
    columns += ["WER %", "points"] if text else []
    columns += [
        "from fp32 % (95 %)",
        "S / D / I %",
        "farther than the nearest (95 %)",
        "same tokens %",
        *(["KL"] if any("kl" in row for row in report["rows"]) else []),
        "limits",
        "front",
    ]
    for column in columns:
        table.add_column(column, justify="right")
    _keep_whole(table, (row["name"] for row in report["rows"]))
    for row in report["rows"]:
        cells = [_number(row["mb"], ".1f"), _number(row["encoder_step_ms"], ".4g"), _number(row["step_ratio"], ".2f")]
        cells += [_number(row["times_real_time"], ".3g"), _number(row["peak_rss_mb"], ".0f")]
        cells += [f"{row['wer']:.2f}", f"{row['wer_delta']:+.2f}"] if text else []
        cells += [with_interval(row["wer_between"], row["wer_between_interval"], ".2f")]
        parts = row["between_errors"] or {}
        cells += [" / ".join(f"{share:.2f}" for share in parts.values())]
        paired = row.get("farther")
        cells += [with_interval(paired["points"], paired["interval"]) if paired else ""]
        cells += [f"{100 * row['exact_match']:.1f}"]
        cells += [_number(row.get("kl"), ".2e")] if "KL" in columns else []
        cells += [{True: "held", False: "missed", None: "not decided"}[row["within_limits"]], ", ".join(row["front"])]
        table.add_row(escape(row["name"]), *cells)
    failures = [f"[bold]{escape(name)}[/] failed: {escape(reason)}" for name, reason in report["failed"].items()]
    failures += [f"[bold]left out:[/] {escape(reason)}" for reason in report["unusable"].values()]
    return [*lines, table, *failures]


def render_layers(report: Mapping[str, Any]) -> list[RenderableType]:
    """Groups of weights, the most expensive first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "weights",
        title=f"each alone by {escape(report['recipe'])} ({report['mode']}), all else f16",
        title_justify="left",
    )
    for column in (
        "million",
        "compressed %",
        "KL",
        "× f16's",
        "same best token %",
        "until first other %",
        "mixed recipe",
    ):
        table.add_column(column, justify="right")
    _keep_whole(table, (group["name"] for group in report["groups"]))
    base = report["f16"]["kl"]
    kept = set(report["kept"])
    for group in report["groups"]:
        table.add_row(
            escape(group["name"]),
            f"{group['elements'] / 1e6:.2f}",
            f"{100 * group['compressed']:.0f}",
            f"{group['kl']:.2e}",
            f"{group['kl'] / base:.1f}" if base > 0 else "",
            f"{100 * group['agreement']:.2f}",
            f"{100 * group['agreed_until']:.1f}",
            "kept" if group["name"] in kept else "",
        )
    lines = [
        f"{report['utterances']} utterances, {report['cells']} cells of fp32's decoding; f16 alone: KL {base:.2e}",
    ]
    after = [f"recipe written to {escape(report['mixed_recipe'])}"] if report["mixed_recipe"] else []
    after += [f"[bold]{escape(name)}[/] failed: {escape(reason)}" for name, reason in report["failed"].items()]
    after += [f"[bold]left out:[/] {escape(reason)}" for reason in report["unusable"].values()]
    return [*lines, table, *after]


def _keep_whole(table: Table, names: Iterable[str]) -> None:
    """Let no heading and no name be cut where the screen is narrow."""
    for column in table.columns:
        column.min_width = len(str(column.header))
    table.columns[0].min_width = max(map(len, names), default=1)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
