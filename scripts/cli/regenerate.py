"""``regenerate``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.errors import exit_status
from scripts.cli import options
from scripts.cli.result import Result, verb


@verb
def regenerate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder for everything made.")],
    checkpoint: options.OptionalSource = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Recipe to derive, repeatable; see `recipes`. (default: fp16 and int8)"),
    ] = None,
    profile: options.Profile = None,
    lookahead: options.OptionalLookahead = None,
    chunk_ms: options.ChunkMs = None,
    cache: options.CacheOption = None,
    encoder: options.EncoderOption = options.Encoder.rewritten,
    languages: options.Languages = None,
    scripts: options.Scripts = None,
    oracle: options.OracleOption = None,
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    limit: options.Limit = None,
    nemo_limit: options.NemoLimit = None,
    run_by: options.RunByOption = None,
    folders_only: Annotated[
        bool,
        typer.Option(
            "--folders-only",
            help="Make the folders, each graph checked against its --oracle, and transcribe nothing. The same command "
            "without it goes on from there.",
        ),
    ] = False,
    precision: options.PrecisionOption = options.Precision.f32,
    force: options.Force = False,
    force_lookahead: options.ForceLookahead = False,
    revision: options.Revision = None,
    checkpoint_format: options.CheckpointFormatOption = None,
    ray: options.Ray = None,
    as_json: options.Json = False,
    graph: options.OldGraph = None,  # noqa: ARG001  # refused by its callback
) -> Result:
    """Turn a checkpoint into verified folders: fp32/, fp16/, int8/, with one table, report.json and report.html.

    A run that was stopped continues when it is repeated.

    Exit status 1: everything is there, and some folder failed its verification. Exit status 3: everything is there,
    and some folder could not be judged.
    """
    from scripts.regenerate import regenerate as run
    from scripts.regenerate.plan import Options
    from scripts.regenerate.report import folder_table, tables

    report = run(
        Options(
            output=output,
            checkpoint=checkpoint,
            revision=revision,
            layout=options.layout_of(checkpoint_format),
            recipes=tuple(recipe or ()),
            asked=options.asked(
                profile, lookahead, chunk_ms, cache, encoder, force_lookahead, languages, scripts, oracle
            ),
            manifest=manifest,
            data=options.data_set(data, split),
            limit=limit,
            nemo_limit=nemo_limit,
            precision=precision.value,
            oracles=tuple((run_by or options.RunBy.nemo).oracles),
            folders_only=folders_only,
            force=force,
            ray=ray,
        )
    )
    if folders_only:
        return Result(report, lambda: folder_table(report), as_json)
    return Result(report, lambda: tables(report), as_json, exit_code=exit_status(report["passed"]))
