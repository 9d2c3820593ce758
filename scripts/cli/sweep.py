"""``sweep`` and ``rank``: what each recipe, and each group of weights, costs on one FP32 folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.result import Result, all_tried, verb


class Keep(StrEnum):
    """Which folders stay."""

    all = "all"
    front = "front"
    none = "none"


Output = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Results and kept folders; of one FP32 folder, for any number of runs."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="What `calibrate` collected, from other audio than the manifest's. (default: where a recipe needs it, "
        "the set beside the demo checkpoint, collected once into --output)",
    ),
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads. (default: the physical cores)")]


@verb
def sweep(
    source: options.Fp32,
    output: Output,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A recipe or its .toml file, repeatable. (default: all built-in ones)"),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V", help="Values of a recipe's field: encoder.group_size=32,64,128; repeatable."),
    ] = None,
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    limit: options.Limit = None,
    ignore_text: Annotated[
        bool, typer.Option("--ignore-text", help="The manifest's text is not what this model should recognize.")
    ] = False,
    calibration: Calibration = None,
    keep: Annotated[
        Keep,
        typer.Option(
            help="Folders that stay: all, those on a Pareto front (size or step time, and error rate against fp32's "
            "text), or none.",
        ),
    ] = Keep.front,
    kl: Annotated[bool, typer.Option("--kl", help="Also the teacher-forced divergence of each recipe.")] = False,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds of measuring each recipe in turn with fp32.")
    ] = 2,
    threads: Threads = None,
    runtime: Annotated[
        options.RuntimeName | None,
        typer.Option(help="Loop. (default: generation1 for WER, streaming for times where the graph can)"),
    ] = None,
    ray: options.Ray = None,
    as_json: options.Json = False,
) -> Result:
    """Try recipes on an FP32 folder: size, speed and memory against what each costs in accuracy.

    Ends in a table, sweep.json, sweep.html and, with matplotlib, sweep.png. A sweep that was stopped goes on when it is
    repeated, and nothing is computed twice in one --output. Exit status 1: some recipe failed; 3:
    some recording could not be used.
    """
    from export.errors import exit_status
    from scripts.sweep import sweep as run_sweep
    from scripts.sweep.options import Options
    from scripts.sweep.report import render_sweep

    chosen = Options(
        source=source,
        output=output,
        recipes=tuple(recipe or ()),
        grid=tuple(grid or ()),
        manifest=manifest,
        data=options.data_set(data, split),
        limit=limit,
        ignore_text=ignore_text,
        calibration=calibration,
        keep=keep.value,
        kl=kl,
        repeats=repeats,
        threads=threads,
        runtime=runtime.value if runtime else None,
        ray=ray,
    )
    report = run_sweep(chosen)
    return Result(report, lambda: render_sweep(report), as_json, exit_code=exit_status(all_tried(report)))


@verb
def rank(
    source: options.Fp32,
    output: Output,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="The recipe, or its .toml file, whose first compression is tried.")
    ] = "int8",
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Utterances along which logits are compared. (default: 8)")
    ] = None,
    calibration: Calibration = None,
    keep_worst: options.KeepWorst = None,
    kl_budget: options.KlBudget = None,
    extra_mb: options.ExtraMb = None,
    threads: Threads = None,
    as_json: options.Json = False,
) -> Result:
    """Rank groups of an FP32 folder's weights by the divergence that compressing each group alone causes.

    Ends in a table and layers.json. A ranking that was stopped goes on when it is repeated. Exit status 1: some group
    could not be compressed. Exit status 3: some recording could not be used.
    """
    from export.errors import exit_status
    from scripts.sweep import rank_layers
    from scripts.sweep.options import Options
    from scripts.sweep.report import render_layers

    options.one_choice(keep_worst, kl_budget, extra_mb)
    report = rank_layers(
        Options(
            source=source,
            output=output,
            recipes=(recipe,),
            manifest=manifest,
            data=options.data_set(data, split),
            ignore_text=True,
            limit=limit,
            calibration=calibration,
            threads=threads,
            reference_paths=limit,
            keep_worst=keep_worst,
            kl_budget=kl_budget,
            extra_mb=extra_mb,
        )
    )
    return Result(report, lambda: render_layers(report), as_json, exit_code=exit_status(all_tried(report)))
