"""``sweep``: many recipes on one FP32 folder, what each costs and what it buys."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options as shared
from scripts.cli.result import Result, verb


class Keep(StrEnum):
    """Which folders stay."""

    all = "all"
    front = "front"
    none = "none"


class Objective(StrEnum):
    """What a search makes small."""

    size = "size"
    step = "step"


@verb
def sweep(
    source: Annotated[Path, typer.Argument(metavar="FP32_DIR", help="The folder that `export` wrote.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Results, and the folders that stay; one FP32 folder's, any sweeps'.")
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A recipe or its .toml file, repeatable. (default: all that can be made)"),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V", help="Values of a recipe's field: encoder.group_size=32,64,128; repeatable."),
    ] = None,
    manifest: shared.Manifest = None,
    limit: shared.Limit = None,
    ignore_text: Annotated[
        bool, typer.Option("--ignore-text", help="The manifest's text is not what this model should hear.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What `calibrate` collected; some recipes need it.")
    ] = None,
    keep: Annotated[Keep, typer.Option(help="Folders that stay: all, those on a Pareto front, or none.")] = Keep.front,
    kl: Annotated[bool, typer.Option("--kl", help="Also the teacher-forced divergence of each recipe.")] = False,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds of measuring each recipe in turn with fp32.")
    ] = 2,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads. (default: the physical cores)")
    ] = None,
    runtime: Annotated[
        shared.RuntimeName | None,
        typer.Option(help="Loop. (default: generation1 for WER, streaming for times where the graph can)"),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Rank groups of weights by what compressing each alone costs.")
    ] = False,
    draw: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="With --per-layer: write a recipe that keeps the N worst groups."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search a mixed recipe within --budget, with Optuna.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="With --search: WER points over fp32 (default: 0.3). With --per-layer: write a recipe that keeps as "
            "many groups as leave a KL of X.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --search: trials, earlier runs' included (default: 20)."),
    ] = None,
    objective: Annotated[
        Objective | None, typer.Option(help="With --search: what shall be small.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="With --search: seed of what is proposed.")] = 0,
    as_json: shared.Json = False,
) -> Result:
    """Try recipes on an FP32 folder: size, speed and memory against what each costs in accuracy.

    Ends in a table, sweep.json and sweep.png. A sweep that was stopped goes on when it is repeated, and nothing is
    computed twice in one --output. Exit status 1: some recipe failed.
    """
    from scripts.sweep import rank_layers
    from scripts.sweep import search as run_search
    from scripts.sweep import sweep as run_sweep
    from scripts.sweep.plan import Options
    from scripts.sweep.report import render_layers, render_search, render_sweep

    _check_modes(
        per_layer=per_layer,
        search=search,
        sweep_only={"--grid": grid, "--kl": kl},
        layer_only={"--draw": draw},
        search_only={"--trials": trials, "--objective": objective},
        either={"--budget": budget},
    )
    chosen = Options(
        source=source,
        output=output,
        recipes=tuple(recipe or ()),
        grid=tuple(grid or ()),
        manifest=manifest,
        limit=limit,
        ignore_text=ignore_text,
        calibration=calibration,
        keep=keep.value,
        kl=kl,
        repeats=repeats,
        threads=threads,
        runtime=runtime.value if runtime else None,
        lessons=limit if per_layer else None,
        draw=draw,
        kl_budget=budget if per_layer else None,
        budget=0.3 if budget is None else budget,
        trials=trials or 20,
        objective=objective.value if objective else "size",
        seed=seed,
    )
    if per_layer:
        report = rank_layers(chosen)
        return Result(report, lambda: render_layers(report), as_json, exit_code=1 if report["failed"] else 0)
    if search:
        report = run_search(chosen)
        return Result(report, lambda: render_search(report), as_json, exit_code=0 if report["best"] else 1)
    report = run_sweep(chosen)
    return Result(report, lambda: render_sweep(report), as_json, exit_code=1 if report["failed"] else 0)


def _check_modes(
    *,
    per_layer: bool,
    search: bool,
    sweep_only: dict[str, object],
    layer_only: dict[str, object],
    search_only: dict[str, object],
    either: dict[str, object],
) -> None:
    """Refuse options that the chosen mode would not read."""
    from export.errors import UserError

    if per_layer and search:
        raise UserError("--per-layer and --search: are two things; run one after the other with the same --output")
    given = {
        "is for a sweep; leave it out": sweep_only if per_layer or search else {},
        "goes with --per-layer; add that": {} if per_layer else layer_only,
        "goes with --search; add that": {} if search else search_only,
        "goes with --search or --per-layer; add one": {} if search or per_layer else either,
    }
    for remedy, options in given.items():
        for name, value in options.items():
            if value not in (None, False, [], ()):
                raise UserError(f"{name}: {remedy}")
    if layer_only["--draw"] is not None and either["--budget"] is not None:
        raise UserError("--draw and --budget: both say how many groups are kept; give one")
