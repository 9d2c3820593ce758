"""``report.json`` and the table: what was made, how alike it is, what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import Bundle
from export.folders import write_atomically
from scripts.regenerate.plan import FP32, Plan
from scripts.regenerate.stages import Outcome
from scripts.regenerate.state import REPORT, REPORTS
from verify.scoring.intervals import between
from verify.scoring.normalization import DEFAULT_NORMALIZER
from verify.verdict import all_passed

if TYPE_CHECKING:
    from rich.console import RenderableType

REPORT_VERSION = 2


def write_report(plan: Plan, results: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    """Write ``report.json`` and return its content."""
    from export.host import machine

    rows = [folder_row(plan, name, results) for name in results]
    report = {
        "report_version": REPORT_VERSION,
        "passed": all_passed([row["passed"] for row in rows]),
        "output": str(plan.output),
        "checkpoint": {
            "source": plan.checkpoint.source,
            "file": plan.checkpoint.weight_files[0].name,
            "bytes": plan.checkpoint.size_bytes,
        },
        "normalizer": DEFAULT_NORMALIZER,  # of all error rates
        "folders": rows,
        "notes": notes(plan, rows),
        "machine": machine(),
        "inputs": plan.inputs,
    }
    write_atomically(plan.output / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def folder_row(plan: Plan, name: str, results: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    """One folder's facts: sizes in bytes, rates in percent, times in ms, memory in MB (10⁶ bytes)."""
    verified, measured = results[name]["verified"], results[name]["measured"]
    bundle = Bundle.open(plan.output / name)
    judged = is_judged(plan, name, verified["target"]["runtime"])
    return {
        "recipe": name,
        "files": verified["target"].get("files", {}),  # SHA-256: what the row is about
        **_sizes(bundle),
        **(error_rates(name, results) if plan.score_text else NO_RATES),
        "reference": _oracle(plan) if name == FP32 else FP32,
        "runtime": verified["target"]["runtime"],  # that the comparison with the reference was made by
        "precision": verified["target"]["precision"],  # that the folder computed in; its reference in f32
        "reference_chunk_ms": verified["reference"]["chunk_ms"],
        "judged": judged,
        "passed": verified["passed"] if judged else None,
        "reasons": verified["reasons"] if judged else [],
        "limits_of": verified["limits_of"],
        "utterances": verified["utterances"],
        "unusable": verified["unusable"],
        "exact_match": verified["exact_match"],
        "ties": verified["ties"],
        "wer_between": verified["wer_between"],
        "wer_delta": verified["wer_delta"] if plan.score_text else None,
        "wer_delta_interval": verified["wer_delta_interval"] if plan.score_text else None,
        "encoder_step_ms": measured["encoder_ms"],
        "times_real_time": measured["rtfx"],
        "peak_rss_mb": measured["peak_rss_mb"],
        "stages": {stage: _spent(outcome) for stage, outcome in results[name].items() if outcome},
        "report": str(Path(REPORTS) / f"{name}.json"),
    }


def _oracle(plan: Plan) -> str:
    """Who gives FP32's reference."""
    from verify.runs import ORACLE_NAMES

    return ORACLE_NAMES[plan.options.oracles[0]]


def made_folders(plan: Plan, made: dict[str, Outcome]) -> dict[str, Any]:
    """What ``--folders-only`` says: each folder's sizes in bytes, and what making it took; nothing is judged."""
    rows = []
    for name, outcome in made.items():
        bundle = Bundle.open(plan.output / name)
        rows.append(
            {
                "recipe": name,
                "files": bundle.hashes,
                **_sizes(bundle),
                "stages": {"made": _spent(outcome)} if outcome else {},
            }
        )
    return {"output": str(plan.output), "folders": rows}


def _sizes(bundle: Bundle) -> dict[str, Any]:
    return {
        "bytes": bundle.size_bytes,
        "encoder_bytes": bundle.graph_path("encoder").with_suffix(".bin").stat().st_size,
        "constants": bundle.metadata.constants,
        "warnings": bundle.metadata.warnings,
    }


def _spent(outcome: Outcome) -> dict[str, Any]:
    return {key: outcome.get(key) for key in ("wall_seconds", "peak_rss_mb")}


def is_judged(plan: Plan, name: str, runtime: str) -> bool:
    """Whether limits apply: not where tokens say nothing about speech, nor to FP32 in the clients' loop.

    That loop feeds the graphs otherwise than NeMo does, so its tokens say little about the export.
    """
    return not plan.checkpoint.is_random and (name != FP32 or runtime == "streaming")


NO_RATES: dict[str, Any] = {
    "scored_utterances": 0, "scored_runtime": None, "wer": None, "languages": [], "per_language": {},
}  # fmt: skip


def error_rates(name: str, results: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    """A folder's error rates against the manifest's text, on as many utterances as it was transcribed on.

    FP32 is compared with NeMo on few, and by the streaming runtime; where it was a recipe's reference, it was
    transcribed on all, as clients do it.
    """
    derived = next((other for other in results if other != FP32), None)
    source, rate = (derived, "reference_wer") if name == FP32 and derived else (name, "wer")
    verified = results[source]["verified"]
    return {
        "scored_utterances": verified["utterances"],
        "scored_runtime": verified["target"]["runtime"],
        "wer": verified[rate],
        "languages": verified["languages"],
        "per_language": {
            language: {"metric": score["metric"], "utterances": score["utterances"], "rate": score[rate]}
            for language, score in verified["per_language"].items()
            if score[rate] is not None
        },
    }


def notes(plan: Plan, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the numbers."""
    fp32, oracle = rows[0], _oracle(plan)
    judged = "judged by its tokens" if fp32["judged"] else "reported, not judged"
    lines = [
        f"{FP32} against the streaming of {oracle} itself (lookahead {plan.settings.lookahead}, {fp32['utterances']} "
        f"utterances), {oracle} in chunks of {fp32['reference_chunk_ms']:g} ms, {FP32} by the {fp32['runtime']} "
        f"runtime: {judged}. Every other folder: against {FP32} in the clients' loop, judged by its recipe's limits.",
        "Step time, speed and peak memory: one process that transcribes up to a minute with the clients' loop"
        f" ({plan.options.precision} precision).",
    ]
    if plan.vocabulary:
        lines.append(
            f"Vocabulary pruned to {', '.join(plan.vocabulary['scripts'])}: utterances in other scripts are compared "
            "too, and cannot be right. Give a --manifest without them to judge by."
        )
    if plan.checkpoint.is_random:
        lines.append("Random weights: logits nearly tie, so any rounding changes tokens; no folder is judged.")
    elif not plan.score_text:
        lines.append(
            f"The demo recordings stand in ({rows[-1]['utterances']} of them), whose text means nothing to this "
            f"checkpoint: no error rates. Folders are judged by their distance to {FP32}'s own text. Give --manifest "
            "for error rates."
        )
    return lines


def verdict(rows: list[dict[str, Any]]) -> str:
    """The last line: what passed, what failed, what is not known."""
    named = {
        word: [row["recipe"] for row in rows if row["passed"] is passed]
        for word, passed in (("failed", False), ("not judged or not decided", None), ("passed", True))
    }
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in named.items() if names)


def tables(report: dict[str, Any]) -> list[RenderableType]:
    """The table that people see, a column a folder, and what to know about it."""
    from rich.markup import escape
    from rich.table import Table

    rows = report["folders"]
    table = Table("", title=escape(report["output"]), title_justify="left")
    for row in rows:
        table.add_column(row["recipe"], justify="right")
    for label, values in _lines(rows):
        table.add_row(label, *values)
    reasons = [f"{row['recipe']}: {reason}" for row in rows for reason in row["reasons"]]
    return [table, *(escape(line) for line in (*report["notes"], *reasons, verdict(rows)))]


def folder_table(made: dict[str, Any]) -> list[RenderableType]:
    """The table of ``--folders-only``, a row a folder."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("folder", title=escape(made["output"]), title_justify="left")
    for column in ("MB", "encoder .bin MB", "seconds", "peak MB"):
        table.add_column(column, justify="right")
    for row in made["folders"]:
        spent = row["stages"].get("made")
        took = (f"{spent['wall_seconds']:.1f}", f"{spent['peak_rss_mb']:.0f}") if spent else ("kept", "")
        table.add_row(row["recipe"], f"{row['bytes'] / 1e6:.1f}", f"{row['encoder_bytes'] / 1e6:.1f}", *took)
    return [
        table,
        "Nothing was transcribed, so no folder is verified; run the command without --folders-only for that.",
    ]


def _lines(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The table's lines: a label and a value for each folder."""
    lines = [
        ("folder MB", [f"{row['bytes'] / 1e6:.1f}" for row in rows]),
        ("encoder .bin MB", [f"{row['encoder_bytes'] / 1e6:.1f}" for row in rows]),
    ]
    for language, score in rows[0]["per_language"].items():
        label = f"{language} {score['metric'].upper()} % ({score['utterances']} utterances)"
        lines.append((label, [f"{row['per_language'][language]['rate']:.2f}" for row in rows]))
    if len(rows[0]["languages"]) > 1:
        label = f"average of {len(rows[0]['languages'])} languages %"
        lines.append((label, [f"{row['wer']:.2f}" for row in rows]))
    lines += [
        ("compared with", [row["reference"] for row in rows]),
        ("  utterances", [str(row["utterances"]) for row in rows]),
        ("  computed in", [row["precision"] for row in rows]),
        ("  identical tokens %", [f"{100 * row['exact_match']:.1f}" for row in rows]),
        ("  text differs %", [f"{row['wer_between']:.2f}" for row in rows]),
    ]
    if rows[0]["wer_delta"] is not None:
        lines.append(("  error rate, points more", [f"{row['wer_delta']:+.2f}" for row in rows]))
        lines.append(("    95 % interval", [between(row["wer_delta_interval"]) for row in rows]))
    verdicts = [
        {True: "passed", False: "FAILED", None: "not decided" if row["judged"] else "not judged"}[row["passed"]]
        for row in rows
    ]
    return [
        *lines,
        ("encoder step ms", [f"{row['encoder_step_ms']:.1f}" for row in rows]),
        ("times real time", [f"{row['times_real_time']:.1f}" for row in rows]),
        ("peak memory MB", [f"{row['peak_rss_mb']:.0f}" for row in rows]),
        ("verdict", verdicts),
    ]
