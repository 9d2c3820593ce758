"""``flaws``: what the published clients' loop costs, flaw by flaw."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import options
from scripts.cli.result import Result, verb

if TYPE_CHECKING:
    from verify.flaws import Row


@verb
def flaws(
    checkpoint: options.OptionalSource = None,
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    limit: options.Limit = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what is exported here, for the next time.")
    ] = None,
    revision: options.Revision = None,
    checkpoint_format: options.CheckpointFormatOption = None,
    as_json: options.Json = False,
) -> Result:
    """What each flaw of the published clients' loop costs in errors: one table, for Markdown."""
    from dataclasses import asdict

    from export.checkpoint import open_checkpoint
    from export.errors import exit_status
    from verify.data.selection import choose_utterances, usable
    from verify.data.sets import choose_manifest
    from verify.flaws import measure
    from verify.scoring.normalization import DEFAULT_NORMALIZER

    opened = open_checkpoint(checkpoint, revision, options.layout_of(checkpoint_format))
    manifest = choose_manifest(manifest, options.data_set(data, split), prompts=opened.prompts)
    utterances, unusable = usable(choose_utterances(manifest, limit, prompts=opened.prompts), opened.sample_rate)
    with nullcontext(work) if work else tempfile.TemporaryDirectory(prefix="flaws.") as folder:
        rows = measure(opened, utterances, Path(folder))
    outcome = {
        "checkpoint": opened.source,
        "utterances": len(utterances),
        "unusable": unusable,
        "normalizer": DEFAULT_NORMALIZER,
        "rows": [asdict(row) for row in rows],
    }
    return Result(outcome, lambda: _table(rows), as_json, exit_code=exit_status(None if unusable else True))


def _table(rows: list[Row]) -> list[Any]:
    lines = [
        "| lookahead | runtime | error rate % | points more | NeMo's tokens % |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.lookahead} | {row.name} | {row.error_rate:.2f} | {row.points:+.2f} | {row.identical:.1f} |"
        for row in rows
    ]
    return lines
