"""Ranks groups of weights by what compressing each alone costs, and makes a mixed recipe from the ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from export.errors import NemotronOVError, UserError
from export.folders import write_atomically
from export.progress import note
from export.results import read_result
from quantize.groups import Group, find_groups, for_groups, is_compressed, whole
from quantize.ranking import Ranking, more_mb
from quantize.recipe import Recipe
from scripts.processes import ChildError
from scripts.sweep.calibration import with_calibration
from scripts.sweep.identity import probe_identity
from scripts.sweep.options import Options, Plan
from scripts.sweep.plan import make_plan, with_recordings
from scripts.sweep.probe import BASE
from scripts.sweep.store import Store, claimed
from scripts.sweep.task import Task
from scripts.sweep.trial import ensure_reference_paths, run_task

REPORT = "layers.json"


def rank_layers(options: Options) -> dict[str, Any]:
    """Compress each group alone and compare the logits with FP32's.

    Returns:
        The content of ``layers.json``: ``groups`` (the most expensive first), ``f16`` (nothing compressed), ``failed``,
        ``kept`` and ``mixed_recipe`` (the file that was written, or None).

    Raises:
        UserError: bad input; nothing was written. Or the default calibration set cannot be collected, or the mixed
            recipe would leave its first compression nothing; then ``layers.json`` is there.
        TrialError: FP32 itself cannot be run.
        NemotronOVError: the probing process died.
    """
    plan = make_plan(options, default=("int8",))
    recipe = _single_recipe(plan)
    groups = find_groups(plan.source, recipe)
    recipe = for_groups(recipe, groups)
    candidates = [group for group in groups if is_compressed(group, recipe, recipe.encoder.compression[0])]
    if options.keep_worst is not None and options.keep_worst >= len(candidates):
        raise UserError(
            f"--keep-worst {options.keep_worst}: recipe {recipe.name} compresses {len(candidates)} groups of this "
            "folder, one of which at least must stay so; keep fewer"
        )
    plan = with_recordings(plan)
    with claimed(plan) as store:
        if whole(recipe.encoder.compression[0]).needs_calibration:
            plan = with_calibration(plan)
        found = _probe(plan, store, recipe, groups)
        report = _report(plan, recipe, groups, found) | {"kept": [], "mixed_recipe": None}
        _save(report, plan)  # first: the recipe that was asked for may not be possible
        report |= _write_mixed(options, store, Ranking(recipe=recipe, groups=report["groups"], failed=report["failed"]))
        _save(report, plan)
    return report


def _save(report: Mapping[str, Any], plan: Plan) -> None:
    write_atomically(plan.output / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _single_recipe(plan: Plan) -> Recipe:
    if len(plan.recipes) != 1:
        raise UserError(f"rank: takes one --recipe, not {len(plan.recipes)}; rank with one after the other")
    recipe = plan.recipes[0]
    if not recipe.encoder.compression:
        raise UserError(
            f"--recipe {recipe.name}: compresses no weights of the encoder; rank layers with int8, int4 or another "
            "recipe of weight compression"
        )
    first = recipe.encoder.compression[0]
    for graph, part in recipe.graphs.items():
        own, second = (*part.compression, None, None)[:2]
        if own and second and own.mode == first.mode and second.kind.bits <= first.kind.bits:
            raise UserError(
                f"--recipe {recipe.name}: the second compression of the {graph}, {second.mode}, is no higher precision "
                f"than its first, {own.mode}, so no group could be kept higher; put the smaller mode first"
            )
    options = plan.options
    if options.keep_worst is None and options.kl_budget is None and options.extra_mb is None:
        note(f"no recipe is written; `nemotron-ov recipes mix {plan.output / REPORT} FILE` writes one from the ranking")
    return recipe


def _probe(plan: Plan, store: Store, recipe: Recipe, groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Results by group, those of earlier runs taken where they are."""
    step = recipe.encoder.compression[0]
    reference_paths = ensure_reference_paths(plan, store)
    used = plan.calibration if whole(step).needs_calibration else None
    members: list[tuple[str, Group | None]] = [(BASE, None), *((group.name, group) for group in groups)]
    files = {name: store.result_file("probed", probe_identity(plan, group, groups, step)) for name, group in members}
    wanted = {name: str(file) for name, file in files.items() if read_result(file) is None}
    if wanted:
        task = Task(
            kind="layers",
            source=plan.source.path,
            folder=plan.output,
            calibration=used.path if used else None,
            threads=plan.threads,
            reference_paths=reference_paths,
            step=step,
            groups=list(groups),
            wanted=wanted,
        )
        try:
            run_task(task, stderr="show")
        except ChildError as error:
            raise NemotronOVError(f"rank: {error}; run again to go on from there") from error
    results = {name: read_result(file) or {"failed": "left no result"} for name, file in files.items()}
    for name, file in files.items():
        if "failed" in results[name]:
            file.unlink(missing_ok=True)  # to be tried again by the next run
    return results


def _report(plan: Plan, recipe: Recipe, groups: Sequence[Group], found: Mapping[str, Any]) -> dict[str, Any]:
    if "failed" in found[BASE]:
        raise NemotronOVError(f"{plan.source.path}: in f16, {found[BASE]['failed']}")
    ranked = [
        {
            "name": group.name,
            "graph": group.graph,
            "elements": group.elements,
            "keepable": is_compressed(group, recipe, recipe.encoder.compression[0]),
            "more_mb": more_mb(recipe, group),
        }
        | found[group.name]
        for group in groups
        if "failed" not in found[group.name]
    ]
    ranked.sort(key=lambda row: (-row["kl"], row["name"]))
    return {
        "report_version": 2,
        "source": str(plan.source.path),
        "checkpoint": plan.source.metadata.checkpoint,
        "recipe": recipe.name,
        "recipe_table": recipe.as_table(),
        "mode": recipe.encoder.compression[0].mode,
        "utterances": plan.reference_path_limit,
        "cells": found[BASE]["cells"],
        "f16": found[BASE],
        "groups": ranked,
        "unusable": plan.unusable,
        "failed": {group.name: found[group.name]["failed"] for group in groups if "failed" in found[group.name]},
    }


def _write_mixed(options: Options, store: Store, ranking: Ranking) -> dict[str, Any]:
    """Write the recipe that was asked for: names of the groups that it keeps, and its file; nothing without."""
    if options.keep_worst is None and options.kl_budget is None and options.extra_mb is None:
        return {}
    kept = ranking.kept(keep_worst=options.keep_worst, kl_budget=options.kl_budget, extra_mb=options.extra_mb)
    mixed = ranking.mixed(kept)
    file = options.output / f"{mixed.name}.toml"
    store.keep_recipe(mixed, file)
    return {"kept": kept, "mixed_recipe": str(file)}
