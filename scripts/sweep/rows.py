"""The sweep itself: every variant in turn, losers' folders removed, and what came out."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from export.errors import NemotronOVError
from export.folders import write_atomically
from export.progress import note
from quantize.recipes import RECIPES
from scripts.bench.report import load_average
from scripts.bench.rounds import time_left
from scripts.outputs import check_page
from scripts.page.render import write_page
from scripts.page.sources import read_sources
from scripts.pareto import pareto
from scripts.sweep.calibration import with_calibration
from scripts.sweep.identity import recipe_identity
from scripts.sweep.options import Options, Plan
from scripts.sweep.plan import check_room, make_plan, with_recordings
from scripts.sweep.store import Store, claimed
from scripts.sweep.trial import BASE, Trial
from verify.report import read_rows
from verify.scoring.normalization import DEFAULT_NORMALIZER
from verify.scoring.rows import compare_distances
from verify.verdict import Measured, judge, passed

REPORT, PAGE, PICTURE, RECIPE_FILES = "sweep.json", "sweep.html", "sweep.png", "recipes"
REPORT_VERSION = 3

Row = dict[str, Any]

PANELS = {"size": ("mb", "wer_between"), "step": ("step_share", "wer_between")}
"""What is weighed against what; a row is on the front where it is on one of these.

Accuracy is the error rate against FP32's own text. Points against the manifest's text are noise around zero wherever
a recipe is good: it mends as many words as it breaks, and a worse one may seem better than FP32.
"""


def sweep(options: Options) -> dict[str, Any]:
    """Try every recipe with every value of the grid.

    Returns:
        The content of ``sweep.json``: ``rows`` (fp32 first), ``failed`` (reasons by name), and what was measured on.

    Raises:
        UserError: bad input; nothing was written. Or the default calibration set cannot be collected.
        TrialError: FP32 itself cannot be run.
    """
    start, load = time.monotonic(), load_average()
    plan = make_plan(options)
    check_room(plan, _missing(plan))
    check_page("--output", plan.output / PAGE)
    plan = with_recordings(plan)
    with claimed(plan) as store:
        if plan.needs_calibration:
            plan = with_calibration(plan)
        trials = _trials(plan, store)
        rows = [_base_row(plan, trials[0])]
        seconds: dict[str, list[float]] = {trial.name: [] for trial in trials[1:]}
        failed: dict[str, str] = {variant.name: variant.refused for variant in plan.variants if variant.recipe is None}
        for number, trial in enumerate(trials[1:], start=1):
            begun = time.monotonic()
            try:
                rows.append(_row(plan, trial))
            except NemotronOVError as error:
                failed[trial.name] = str(error)
                trial.drop_folder()
            if trial.computed:
                seconds[trial.name].append(time.monotonic() - begun)
            else:
                del seconds[trial.name]
            left = time_left(seconds, list(seconds), 1) if any(seconds.values()) else ""
            outcome = failed.get(trial.name) or f"{rows[-1]['mb']:.1f} MB, {_accuracy_text(plan, rows[-1])}"
            note(f"{number} of {len(trials) - 1}, {trial.name}: {outcome}{left}")
            _mark(rows)
            _drop_losers(plan, trials, rows)
        _mark(rows)
        _keep_winners(plan, store, trials, rows, failed)
        _pair(trials, rows)
        report = _report(plan, rows, failed, {"seconds": round(time.monotonic() - start, 1), "load_average": load})
        write_atomically(plan.output / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        _draw(plan, report)
        write_page(read_sources([plan.output / REPORT]), plan.output / PAGE)
    return report


def _missing(plan: Plan) -> list[Any]:
    """Recipes whose folders are not there."""
    store = Store(plan.output)
    recipes = [variant.recipe for variant in plan.variants if variant.recipe is not None]
    return [
        recipe
        for recipe in recipes
        if recipe.name != BASE and not store.folder(recipe.name, recipe_identity(plan, recipe)).is_dir()
    ]


def _trials(plan: Plan, store: Store) -> list[Trial]:
    """FP32, then every recipe by its name; of those that do the same, the later ones find the first one's results."""
    trials = [Trial(plan, store, BASE, RECIPES[BASE])]
    for variant in plan.variants:
        if variant.recipe is None or variant.recipe.name == BASE:
            continue
        trial = Trial(plan, store, variant.name, variant.recipe)
        same = next((other for other in trials if other.address == trial.address), None)
        if same is not None:
            note(f"{variant.name} does what {same.name} does: tried once, each judged by its own limits")
        trials.append(trial)
    return trials


def _base_row(plan: Plan, trial: Trial) -> Row:
    made, verified = trial.made(), trial.verified()
    row = {"name": BASE, "recipe_hash": None, "mb": made["bytes"] / 1e6, "encoder_mb": made["encoder_bytes"] / 1e6}
    return row | _accuracy(plan, verified) | {"within_limits": True, "step_share": 1.0, "path": str(plan.source.path)}


def _row(plan: Plan, trial: Trial) -> Row:
    """One recipe's facts: MB are 10⁶ bytes, rates percent, differences points, times ms."""
    made, verified = trial.made(), trial.verified()
    measured = trial.measured()
    build, ratios = measured["build"], measured["ratios"]
    row: Row = {"name": trial.name, "recipe_hash": trial.recipe.hash}
    row |= {"mb": made["bytes"] / 1e6, "encoder_mb": made["encoder_bytes"] / 1e6, "constants": made["constants"]}
    row |= _accuracy(plan, verified)
    row["within_limits"] = passed(judge(map(Measured.model_validate, verified["checks"]), trial.recipe.tolerance))
    row |= {
        "encoder_step_ms": build["encoder_step_ms"],
        "step_ratio": ratios["encoder_step"],
        "step_share": 1.0 / ratios["encoder_step"],
        "times_real_time": build["pipeline_rtfx"],
        "pipeline_ratio": ratios["pipeline"],
        "peak_rss_mb": build["peak_rss_mb"],
        "load_s": build["load_s"],
        "base": measured["base"],
        "other_cores": measured["other_cores"],
        "computed": trial.computed,
        "recipe": trial.recipe.as_table(),
        "path": str(trial.folder),
        "report": str(trial.report.relative_to(plan.output)),
    }
    if plan.options.kl:
        row |= {name: value for name, value in trial.diverged().items() if name != "cells"}
    return row


def _accuracy(plan: Plan, verified: Mapping[str, Any]) -> Row:
    """What says how good a folder is; what the manifest's text says only where that counts."""
    text = plan.score_text
    return {
        "exact_match": verified["exact_match"],
        "wer": verified["wer"] if text else None,
        "wer_delta": verified["wer_delta"] if text else None,
        "wer_delta_interval": verified["wer_delta_interval"] if text else None,
        **{field: verified[field] for field in ("wer_between", "wer_between_interval", "between_errors")},
        "per_language": verified["per_language"] if text else {},
    }


def _mark(rows: Sequence[Row]) -> None:
    """Say of each row on which panels it is on the front."""
    for row in rows:
        row["front"] = []
    for panel, fields in PANELS.items():
        for row, best in zip(rows, pareto([[row[field] for field in fields] for row in rows]), strict=True):
            row["front"] += [panel] * best


def _pair(trials: Sequence[Trial], rows: Sequence[Row]) -> None:
    """Compare each recipe with the one nearest to FP32's text, on the same recordings: what noise cannot tell apart."""
    if len(rows) < 2:
        return
    nearest = min(rows[1:], key=lambda row: float(row["wer_between"]))["name"]
    reports = {trial.name: trial.report for trial in trials[1:]}
    best = read_rows(reports[nearest])
    for row in rows[1:]:
        compared = compare_distances(read_rows(reports[row["name"]]), best)
        row["farther"] = {"than": nearest} | compared.model_dump(mode="json")


def _drop_losers(plan: Plan, trials: Sequence[Trial], rows: Sequence[Row]) -> None:
    kept = {row["name"] for row in rows if _is_kept(plan, row)}
    tried = {row["name"] for row in rows}
    for trial in trials[1:]:
        if trial.name in tried - kept:
            trial.drop_folder()


def _is_kept(plan: Plan, row: Row) -> bool:
    return plan.options.keep == "all" or (plan.options.keep == "front" and bool(row["front"]))


def _keep_winners(
    plan: Plan, store: Store, trials: Sequence[Trial], rows: Sequence[Row], failed: dict[str, str]
) -> None:
    """Folders that shall stay and went in an earlier run are made again; rows without one lose their path.

    What a grid put on the front is written as a recipe's file.
    """
    by_name = {trial.name: trial for trial in trials}
    for row in rows[1:]:
        recipe = by_name[row["name"]].recipe
        row["recipe_file"] = None
        if row["front"] and "@" in row["name"]:
            file = plan.output / RECIPE_FILES / f"{recipe.name}.toml"
            store.keep_recipe(recipe, file)
            row["recipe_file"] = str(file)
        if not _is_kept(plan, row):
            row["path"] = None
            continue
        try:
            by_name[row["name"]].ensure_folder()
        except NemotronOVError as error:
            row["path"] = None
            failed[row["name"]] = f"its folder could not be made again: {error}"


def _draw(plan: Plan, report: Mapping[str, Any]) -> None:
    """The picture, where it can be drawn; that of an earlier run does not stay beside a newer report."""
    file = plan.output / PICTURE
    if find_spec("matplotlib") is None:
        file.unlink(missing_ok=True)
        note(f"no {PICTURE} without matplotlib; pip install 'nemotron-ov[sweep]' and repeat the sweep")
        return
    from scripts.sweep.picture import save_picture

    save_picture(report, file)


def _accuracy_text(plan: Plan, row: Row) -> str:
    points = f"WER {row['wer_delta']:+.2f} points, " if plan.score_text else ""
    return f"{points}{row['wer_between']:.2f} % from fp32's text"


def _report(plan: Plan, rows: list[Row], failed: dict[str, str], run: dict[str, Any]) -> dict[str, Any]:
    from export.host import machine

    bases = [row["base"] for row in rows[1:]]
    for name, field in (
        ("encoder_step_ms", "encoder_step_ms"), ("times_real_time", "pipeline_rtfx"), ("peak_rss_mb", "peak_rss_mb"),
    ):  # fmt: skip
        rows[0][name] = statistics.median(base[field] for base in bases) if bases else None
    rows[0] |= {"step_ratio": 1.0, "pipeline_ratio": 1.0}
    busy = [row["other_cores"] for row in rows[1:]]
    options, meta = plan.options, plan.source.metadata
    return {
        "report_version": REPORT_VERSION,
        "source": str(plan.source.path),
        "checkpoint": meta.checkpoint,
        "manifest": "demo set" if options.manifest is None else str(options.manifest),
        "utterances": len(plan.utterances),
        "unusable": plan.unusable,
        "text_scored": plan.score_text,
        "normalizer": DEFAULT_NORMALIZER,
        "rows": rows,
        "failed": failed,
        "machine": machine()
        | {"threads": plan.threads, "other_cores": round(statistics.median(busy), 2) if busy else None},
        "calibration_sha256": plan.calibration.sha256 if plan.calibration else None,
        **run,
    }
