"""``tables``: the published tables from stored reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.result import Result, verb


@verb
def tables(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Outputs of `regenerate`, or folders with what `verify --report` wrote."),
    ],
    build: Annotated[str, typer.Option(metavar="NAME", help="The recipe that is put beside FP32.")] = "int8",
    normalizer: Annotated[
        str, typer.Option(metavar="NAME", help="As in `verify`; the published tables were made with 'published'.")
    ] = "published",
    as_json: options.Json = False,
) -> Result:
    """Print the published tables in Markdown: FP32 by language, INT8 beside it, and what INT8 buys.

    Everything is computed from stored reports, without a model; what they do not hold reads "not measured".
    """
    from rich.markup import escape

    from verify.tables import make_tables, markdown

    made = make_tables(directories, build=build, normalizer=normalizer)
    return Result(made.model_dump(mode="json"), lambda: [escape(line) for line in markdown(made)], as_json)
