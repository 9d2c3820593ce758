"""``page``: stored reports as something to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.result import Result, verb
from scripts.page import AUDIO_MB, UTTERANCES


@verb
def page(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...",
            help="What `verify`, `regenerate` or `sweep` wrote, or a folder with it; several become one page.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.html", help="Write the page here.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv|.parquet",
            help="Write a row for each utterance and build here, for notebooks; Parquet needs the extra 'data'.",
        ),
    ] = None,
    audio_mb: Annotated[
        float,
        typer.Option(
            metavar="MB",
            min=0.0,
            max=500.0,
            help="Audio inside the page; other recordings are played from their files.",
        ),
    ] = AUDIO_MB,
    utterances: Annotated[
        int, typer.Option(metavar="N", min=1, help="Show this many utterances at most, the most severe.")
    ] = UTTERANCES,
    normalizer: options.Normalizer = None,
    as_json: options.Json = False,
) -> Result:
    """Make one HTML file of stored reports, without a model: verdicts, charts, and utterances where builds disagree.

    The page loads nothing from elsewhere. Charts need the extra 'report'.
    """
    from dataclasses import asdict

    from export.errors import UserError
    from scripts.outputs import check_page
    from scripts.page.render import write_page
    from scripts.page.sources import read_sources
    from scripts.page.table import check_table, write_table
    from verify.scoring.normalization import get_normalizer

    if output is None and table is None:
        raise UserError("page: nothing to write; give --output FILE.html, --table FILE.csv, or both")
    if output is not None and table is not None and output.resolve() == table.resolve():
        raise UserError(f"--table {table}: is the --output too; give another file")
    check_page("--output", output)
    check_table(table)
    if normalizer is not None:
        get_normalizer(normalizer).words("")
    sources = read_sources(reports, normalizer)
    data: dict[str, object] = {"page": None, "table": None}
    lines = []
    if output is not None:
        written = write_page(sources, output, audio_mb=audio_mb, limit=utterances)
        data["page"] = asdict(written) | {"path": str(output)}
        lines.append(
            f"{output}: {written.bytes / 1e6:.1f} MB, {written.shown} of {written.disagreements} utterances where "
            f"builds disagree, audio of {written.embedded} inside"
        )
    if table is not None:
        rows = write_table(sources.comparisons, table)
        data["table"] = {"path": str(table), "rows": rows}
        lines.append(f"{table}: {rows} rows")
    return Result(data, lambda: options.escaped(lines), as_json)
