"""What the measurements say: medians with their spread, ratios to the baseline, and what they were taken on."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import Bundle
from export.host import machine
from scripts.bench.builds import installed_versions
from scripts.bench.plan import BASELINE, Build, Plan
from scripts.bench.rounds import Measured
from scripts.bench.worker import Measurement

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BUSY = 0.15
"""Share of the cores that other processes may take before the times are called disturbed."""

SPREAD = ("pipeline_rtfx", "encoder_step_ms", "peak_rss_mb", "load_s")
"""Figures given as the median of the rounds, with the smallest and largest beside it."""


def load_average() -> float:
    """Processes that wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def make_report(
    plan: Plan, paths: Mapping[str, Path], measured: Measured, failed: Mapping[str, str], load: float
) -> dict[str, Any]:
    """The JSON object.

    Args:
        plan: what was asked for.
        paths: where each build lies.
        measured: each build's rounds.
        failed: why there are none of some.
        load: :func:`load_average` before anything was started.
    """
    rows = {
        build.name: _row(build, paths[build.name], measured[build.name])
        for build in plan.builds
        if build.name in measured
    }
    baseline = baseline_of(rows)
    for row in rows.values():
        row["ratios"] = ratios(row, rows[baseline or ""])
    for name, row in rows.items():
        row["same_tokens"] = _same_tokens(plan, measured, name)
    rounds = [each for found in measured.values() for each in found]
    others = statistics.median([each.other_cores for each in rounds]) if rounds else 0.0
    return {
        "builds": rows,
        "failed": dict(failed),
        "unusable": plan.unusable,
        "baseline": baseline,
        "machine": machine()
        | {
            "threads": plan.threads,
            "load_average_before": load,
            "other_cores": round(others, 2),
            "versions": installed_versions(),
        },
        "checkpoint": _checkpoint(plan, paths),
        "audio": _audio(plan, rounds),
        "repeats": plan.options.repeats,
    }


def _same_tokens(plan: Plan, measured: Measured, name: str) -> float | None:
    """Share of the utterances on which a build has NeMo's tokens; None where NeMo was not measured at its lookahead."""
    first = measured[name][0]
    references = (measured[build.name][0] for build in plan.builds if build.engine == "nemo" and build.name in measured)
    reference = next((each for each in references if each.lookahead == first.lookahead), None)
    if reference is None or plan.options.tokens_per_second is not None:
        return None
    same = [one == other for one, other in zip(first.utterance_tokens, reference.utterance_tokens, strict=True)]
    return _rounded(sum(same) / len(same))


def baseline_of(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What ratios are against: the published FP32 folder as clients run it, in default precision, where it is there."""
    published = [name for name, row in rows.items() if row["label"] == BASELINE]
    as_clients = [name for name in published if rows[name]["asked_precision"] == "default"]
    return next(iter([*as_clients, *published, *rows]), None)


def _row(build: Build, path: Path, rounds: Sequence[Measurement]) -> dict[str, Any]:
    """One build: figures by name, their spread under ``…_min`` and ``…_max``."""
    first = rounds[0]
    values = {name: [getattr(each, name) for each in rounds] for name in SPREAD if name != "pipeline_rtfx"}
    values["pipeline_rtfx"] = [each.audio_s / each.pipeline_s for each in rounds]
    row: dict[str, Any] = {}
    for name in SPREAD:
        row[name] = _rounded(statistics.median(values[name]))
        row[f"{name}_min"], row[f"{name}_max"] = _rounded(min(values[name])), _rounded(max(values[name]))
    seconds = {name: [each.seconds.get(name) for each in rounds] for name in first.seconds}
    row |= {
        "anonymous_mb": _median([each.anonymous_mb for each in rounds]),
        "folder_mb": round(first.folder_mb, 3),
        "encoder_mb": None if first.encoder_mb is None else round(first.encoder_mb, 1),
        "chunk_ms": first.chunk_ms,
        "pipeline_seconds": _rounded(statistics.median(each.pipeline_s for each in rounds)),
        "seconds": {name: _median(found) for name, found in seconds.items()},
        "calls": first.calls,
        "tokens": first.tokens,
        "lookahead": first.lookahead,
        "label": build.shown,
        "precision": first.precision,
        "asked_precision": build.precision,
        "engine": build.engine,
        "runtime": build.runtime,
        "batch": build.batch,
        "threads_and_properties": first.config,
        "path": str(path),
        "files": Bundle.open(path).hashes if build.folder is not None else {},
        "rounds": [each.model_dump(mode="json") for each in rounds],
    }
    return row


def ratios(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float]:
    """A build against the baseline: speeds as times faster, memory and size as a share.

    The encoder steps are compared per second of audio, because chunks and batches may differ.
    """

    def step(of: Mapping[str, Any]) -> float:
        return float(of["encoder_step_ms"] / (of["chunk_ms"] * of["batch"]))

    return {
        "encoder_step": round(step(baseline) / step(row), 3),
        "pipeline": round(row["pipeline_rtfx"] / baseline["pipeline_rtfx"], 3),
        "peak_rss": round(row["peak_rss_mb"] / baseline["peak_rss_mb"], 3),
        "folder": round(row["folder_mb"] / baseline["folder_mb"], 3),
    }


def _checkpoint(plan: Plan, paths: Mapping[str, Path]) -> dict[str, Any]:
    """What the builds were made from; several hashes where given folders come from several checkpoints."""
    from export.checkpoint import open_checkpoint
    from scripts.bench.builds import RANDOM

    facts: list[dict[str, Any]] = []
    if plan.made:
        opened = plan.checkpoint or open_checkpoint(plan.options.work / RANDOM)
        facts.append({"source": opened.source, "sha256": opened.sha256, "random": opened.is_random})
    for build in plan.builds:
        if build.folder is not None:
            recorded = Bundle.open(paths[build.name]).metadata.checkpoint
            facts.append({"source": recorded.get("source"), "sha256": recorded.get("sha256"), "random": None})
    distinct = {fact["sha256"]: fact for fact in reversed(facts)}
    first = facts[0]
    return first | {"others": [fact for sha256, fact in distinct.items() if sha256 != first["sha256"]]}


def _audio(plan: Plan, rounds: Sequence[Measurement]) -> dict[str, Any]:
    seconds = rounds[0].audio_s if rounds else sum(each.duration for each in plan.utterances)
    manifest = plan.options.manifest
    return {
        "manifest": "demo set" if manifest is None else str(manifest),
        "utterances": len(plan.utterances),
        "seconds": round(seconds, 2),
        "tokens_per_second": plan.options.tokens_per_second,
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(statistics.median(known)) if known else None


def _rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What makes the figures less than they seem."""
    facts, found = report["machine"], []
    if facts["load_average_before"] > 0.5 * facts["cores"] or facts["other_cores"] > BUSY * facts["cores"]:
        found.append(
            f"machine busy: load average {facts['load_average_before']:g} on {facts['cores']} cores before the run, "
            f"other processes took {facts['other_cores']:g} cores during it; read the ratios, not the times"
        )
    if report["checkpoint"]["others"]:
        found.append("the folders come from different checkpoints: sizes and times do not compare")
    if report["checkpoint"]["random"]:
        found.append("random weights: true size and speed, no sense in the text")
        if report["audio"]["tokens_per_second"] is None:
            found.append("random weights emit tokens by chance: compare audio to text with --tokens-per-second 2.5")
    return found


def render(report: Mapping[str, Any]) -> list[RenderableType]:
    """What people see: where it was measured, ratios, figures, what failed or could not be used."""
    lines = [_escape(line) for line in header(report)]
    lines += [f"[bold]warning:[/] {_escape(text)}" for text in warnings(report)]
    failures = [f"[bold]{_escape(name)}[/] {_escape(reason)}" for name, reason in report["failed"].items()]
    tables = [_ratio_table(report), _figure_table(report), _detail_table(report)] if report["builds"] else []
    left_out = [f"[bold]left out:[/] {_escape(reason)}" for reason in report["unusable"].values()]
    return [*lines, *tables, *failures, *left_out]


def header(report: Mapping[str, Any]) -> list[str]:
    """Machine, versions, checkpoint, audio and properties, one line each."""
    facts, checkpoint, audio = report["machine"], report["checkpoint"], report["audio"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    kind = {True: ", random weights", False: ", trained", None: ""}[checkpoint["random"]]
    return [
        f"{facts['cpu']}, {facts['cores']} cores ({' '.join(facts['flags'])}), threads: {facts['threads']}",
        versions,
        f"checkpoint {checkpoint['source']} ({str(checkpoint['sha256'])[:12]}{kind})",
        f"audio {audio['manifest']}: {audio['utterances']} utterances, {audio['seconds']:g} s{_speech(audio)}; "
        f"median (smallest–largest) of {report['repeats']} rounds",
        *_property_lines(report),
    ]


def _speech(audio: Mapping[str, Any]) -> str:
    rate = audio["tokens_per_second"]
    return "" if rate is None else f", {rate:g} tokens a second whatever the audio (not NeMo, Transformers)"


def _property_lines(report: Mapping[str, Any]) -> list[str]:
    """Each set of properties once, with the builds that ran with it where there are several."""
    sets: dict[str, list[str]] = {}
    for name, row in report["builds"].items():
        text = ", ".join(f"{key} {value}" for key, value in row["threads_and_properties"].items())
        sets.setdefault(text, []).append(name)
    if len(sets) == 1:
        return [f"properties: {text}" for text in sets]
    return [f"properties of {', '.join(names)}: {text}" for text, names in sets.items()]


def as_fast_as(report: Mapping[str, Any]) -> str:
    """``as fast as`` the build that ratios are against, with its loop and precision."""
    base = report["builds"][report["baseline"]]
    return f"as fast as {base['label']} ({', '.join(place(base))})"


def _ratio_table(report: Mapping[str, Any]) -> RenderableType:
    title = _escape(f"× {as_fast_as(report)}, and × its memory and size")
    table = _table(*_PLACE, "step", "audio to text", "peak memory", "folder", title=title)
    for row in report["builds"].values():
        against = row["ratios"]
        figures = (against[name] for name in ("encoder_step", "pipeline", "peak_rss", "folder"))
        table.add_row(_escape(row["label"]), *place(row), *(f"{figure:.2f}" for figure in figures))
    return table


_PLACE = ("build", "loop", "precision")


def place(row: Mapping[str, Any]) -> tuple[str, str]:
    """Loop and precision of a row."""
    loop = row["runtime"] + (f", batch {row['batch']}" if row["batch"] > 1 else "")
    return loop, row["precision"]


def _figure_table(report: Mapping[str, Any]) -> RenderableType:
    table = _table(*_PLACE, "chunk ms", "× real time", "peak MB", "folder MB")
    for row in report["builds"].values():
        figures = (_with_spread(row, "encoder_step_ms", row["batch"]), _with_spread(row, "pipeline_rtfx"))
        table.add_row(
            _escape(row["label"]), *place(row), *figures, f"{row['peak_rss_mb']:,.0f}", f"{row['folder_mb']:,.1f}"
        )
    return table


def _detail_table(report: Mapping[str, Any]) -> RenderableType:
    table = _table(*_PLACE, "load s", "tokens", "as NeMo", "mel/enc/dec/joint %", "ms a call")
    for row in report["builds"].values():
        figures = (_figure(row["load_s"]), f"{row['tokens']:,}", as_nemo(row), _split(row), _calls(row))
        table.add_row(_escape(row["label"]), *place(row), *figures)
    return table


def as_nemo(row: Mapping[str, Any]) -> str:
    """The share of utterances with NeMo's tokens, in percent; a dash where NeMo was not measured."""
    same = row["same_tokens"]
    return "–" if same is None else f"{100 * same:.1f} %"


def _table(first: str, *others: str, title: str | None = None) -> Table:
    """Narrow enough for 80 columns, names at the left and figures at the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="left" if column in _PLACE else "right")
    return table


def _with_spread(row: Mapping[str, Any], name: str, streams: int = 1) -> str:
    """A figure with its smallest and largest, for each of so many streams."""
    middle, least, most = (_figure(row[f"{name}{end}"] / streams) for end in ("", "_min", "_max"))
    return f"{middle} ({least}–{most})"


def _figure(value: float) -> str:
    """Three significant digits, never as a power."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _escape(name: str) -> str:
    from rich.markup import escape

    return escape(name)


def _split(row: Mapping[str, Any]) -> str:
    """Where the pipeline's time goes, in percent; a dash where the runtime does not count it."""
    whole = row["pipeline_seconds"]
    parts = [row["seconds"].get(name) for name in ("mel", "encoder", "decoder", "joint")]
    return "/".join("–" if part is None else f"{100 * part / whole:.0f}" for part in parts)


def _calls(row: Mapping[str, Any]) -> str:
    """Milliseconds of a call of each graph within the pipeline; a dash where the runtime does not count them.

    Of ``recordings`` a call is one recording's row, which may hold several chunks.
    """
    names = ("mel", "encoder", "decoder", "joint")
    counted = [(row["seconds"].get(name), row["calls"].get(name)) for name in names]
    return "/".join(f"{1000 * spent / calls:.2g}" if spent and calls else "–" for spent, calls in counted)
