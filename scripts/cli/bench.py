"""``bench``: builds measured side by side."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.checkpoint import Size
from scripts.cli.result import Result, all_tried, verb


class Loop(StrEnum):
    """Of :data:`scripts.bench.plan.Loop`."""

    generation1 = "generation1"
    generation2 = "generation2"
    streaming = "streaming"
    recordings = "recordings"


@verb
def bench(
    directories: options.ManyFinished = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="A .nemo file, a Hugging Face id, or 'demo' (the default).")
    ] = None,
    size: Annotated[
        Size, typer.Option(help="'small': the demo checkpoint; 'full': a random one of full size, made in --work.")
    ] = Size.small,
    build: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to make and measure, repeatable: published-fp32, -fp16, -int8, a recipe (NAME-kv: with "
            "kv cache), onnxruntime-fp32, -int8, -int4, nemo-pytorch, nemo-pytorch-13 (lookahead 13), "
            "transformers-fp32, -bf16, or all. (default: published-* and every recipe that needs no calibration)",
        ),
    ] = None,
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Transcribe N utterances, spread evenly over the manifest. (default: for a minute)"
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds; the builds take turns in each.")] = 3,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads of every engine. (default: the physical cores)")
    ] = None,
    runtime: Annotated[
        list[Loop] | None,
        typer.Option(
            help="Loop for folders and recipes, repeatable; 'recordings': the "
            "streaming one with all audio together, as files are transcribed. (default: generation1 and streaming)"
        ),
    ] = None,
    precision: Annotated[
        list[options.Precision] | None,
        typer.Option(
            help="'default': what OpenVINO takes on this processor, as the clients run; 'f32'; repeatable. (default: "
            "default)"
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Streams that the streaming loop transcribes together.")
    ] = 1,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.1,
            max=12.0,
            help="Let every build emit N tokens a second of audio, whatever it recognizes: random weights emit by "
            "chance, and decoder and joint cost time for each. (default: what is recognized)",
        ),
    ] = None,
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where builds are made and kept for the next run.")] = Path(
        "out/bench"
    ),
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time against memory here: .png, .svg or .pdf.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print one table in Markdown in place of those for people.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything here as one JSON object; '-': stdout, no table."),
    ] = None,
) -> Result:
    """Measure builds side by side: audio to text and the encoder step alone, peak memory, size; ratios first.

    Every measurement is a process of its own, and the builds take turns. Exit status 1: some build failed.
    Exit status 3: some recording could not be used.
    """
    from rich.markup import escape

    from export.errors import exit_status
    from export.folders import write_atomically
    from scripts.bench.markdown import markdown
    from scripts.bench.picture import save_picture
    from scripts.bench.plan import Options
    from scripts.bench.report import render
    from scripts.bench.run import bench as run

    to_stdout = json_file == Path("-")
    file = None if to_stdout else json_file
    report = run(
        Options(
            folders=tuple(directories or ()),
            checkpoint=checkpoint,
            size=size.value,
            builds=tuple(build or ()),
            manifest=manifest,
            data=options.data_set(data, split),
            limit=limit,
            repeats=repeats,
            threads=threads,
            runtimes=tuple(each.value for each in dict.fromkeys(runtime or ())),
            precisions=tuple(each.value for each in dict.fromkeys(precision or (options.Precision.default,))),
            batch=batch,
            tokens_per_second=tokens_per_second,
            work=work,
            picture=picture,
            json_file=file,
        )
    )
    if file is not None:
        write_atomically(file, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    if picture is not None and report["builds"]:
        save_picture(report, picture)
    shown = (lambda: [escape(line) for line in markdown(report)]) if as_markdown else (lambda: render(report))
    return Result(report, shown, to_stdout, exit_code=exit_status(all_tried(report)))
