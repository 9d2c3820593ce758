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
        typer.Option(metavar="NAME", help="A recipe or its .toml file, repeatable. (default: all built-in ones)"),
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
        Path | None,
        typer.Option(
            metavar="DIR",
            help="What `calibrate` collected, from other audio than the manifest's. (default: where a recipe needs it, "
            "the set beside the demo checkpoint, collected once into --output)",
        ),
    ] = None,
    keep: Annotated[
        Keep | None,
        typer.Option(
            help="Folders that stay: all, those on a Pareto front (size or step time, and error rate against fp32's "
            "text), or none. (default: front)",
            show_default=False,
        ),
    ] = None,
    kl: Annotated[bool, typer.Option("--kl", help="Also the teacher-forced divergence of each recipe.")] = False,
    repeats: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rounds of measuring each recipe in turn with fp32. (default: 2)"),
    ] = None,
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
            help="With --search: WER points over fp32 (default: 0.3); gains count as none, and fp32's tokens must be "
            "kept as often as the recipe's exact_match asks. With --per-layer: write a recipe that keeps as many "
            "groups as leave a KL of X.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --search: trials, earlier runs' included (default: 20)."),
    ] = None,
    objective: Annotated[
        Objective | None, typer.Option(help="With --search: what shall be small. (default: size)", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="With --search: seed of what is proposed. (default: 0)")
    ] = None,
    as_json: shared.Json = False,
) -> Result:
    """Try recipes on an FP32 folder: size, speed and memory against what each costs in accuracy.

    Ends in a table, sweep.json and, with matplotlib, sweep.png. A sweep that was stopped goes on when it is repeated,
    and nothing is computed twice in one --output. Exit status 1: some recipe failed.
    """
    from scripts.sweep import rank_layers
    from scripts.sweep import search as run_search
    from scripts.sweep import sweep as run_sweep
    from scripts.sweep.plan import Options
    from scripts.sweep.report import render_layers, render_search, render_sweep

    _check_modes(
        per_layer=per_layer,
        search=search,
        given={
            "--grid": grid,
            "--ignore-text": ignore_text,
            "--keep": keep,
            "--kl": kl,
            "--repeats": repeats,
            "--runtime": runtime,
            "--draw": draw,
            "--budget": budget,
            "--trials": trials,
            "--objective": objective,
            "--seed": seed,
        },
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
        keep=keep.value if keep else "front",
        kl=kl,
        repeats=repeats or 2,
        threads=threads,
        runtime=runtime.value if runtime else None,
        lessons=limit if per_layer else None,
        draw=draw,
        kl_budget=budget if per_layer else None,
        budget=0.3 if budget is None else budget,
        trials=trials or 20,
        objective=objective.value if objective else "size",
        seed=seed or 0,
    )
    if per_layer:
        report = rank_layers(chosen)
        return Result(report, lambda: render_layers(report), as_json, exit_code=1 if report["failed"] else 0)
    if search:
        report = run_search(chosen)
        return Result(report, lambda: render_search(report), as_json, exit_code=0 if report["best"] else 1)
    report = run_sweep(chosen)
    return Result(report, lambda: render_sweep(report), as_json, exit_code=1 if report["failed"] else 0)


_READ_BY = {
    "--grid": ("sweep",),
    "--ignore-text": ("sweep",),
    "--keep": ("sweep", "search"),
    "--kl": ("sweep",),
    "--repeats": ("sweep", "search"),
    "--runtime": ("sweep", "search"),
    "--draw": ("per-layer",),
    "--budget": ("per-layer", "search"),
    "--trials": ("search",),
    "--objective": ("search",),
    "--seed": ("search",),
}
"""Options that not every mode reads, and the modes that do."""


def _check_modes(*, per_layer: bool, search: bool, given: dict[str, object]) -> None:
    """Refuse options that the chosen mode would not read."""
    from export.errors import UserError

    if per_layer and search:
        raise UserError("--per-layer and --search: are two things; run one after the other with the same --output")
    mode = "per-layer" if per_layer else "search" if search else "sweep"
    for name, value in given.items():
        readers = _READ_BY[name]
        if value is None or value is False or value == [] or mode in readers:
            continue
        modes = " or ".join(f"--{reader}" for reader in readers if reader != "sweep")
        remedy = f"goes with {modes}; add that" if mode == "sweep" else f"is not read with --{mode}; leave it out"
        raise UserError(f"{name}: {remedy}")
    if given["--draw"] is not None and given["--budget"] is not None:
        raise UserError("--draw and --budget: both say how many groups are kept; give one")
