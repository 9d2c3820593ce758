"""``checkpoint``: make checkpoints for tests and demonstrations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb

app = typer.Typer(help="Make a checkpoint for tests and demonstrations.", no_args_is_help=True)

Output = Annotated[Path, typer.Argument(metavar="OUT", help="The .nemo file to write.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")]


class Size(StrEnum):
    """Sizes of the random checkpoint."""

    full = "full"
    small = "small"


class Variant(StrEnum):
    """Siblings of the model."""

    multilingual = "multilingual"
    english = "english"


@app.command("random")
@verb
def random(
    output: Output,
    size: Annotated[Size, typer.Option(help="'full': 638 M parameters, 2.5 GB; 'small': for tests.")] = Size.small,
    variant: Annotated[Variant, typer.Option(help="'english': the sibling without prompt.")] = Variant.multilingual,
    seed: Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Write a checkpoint of the published configuration with seeded random weights: true size and speed, no sense."""
    from scripts.checkpoints.random.checkpoint import write_random_checkpoint

    write_random_checkpoint(output, size.value, seed=seed, force=force, variant=variant.value)
    return _written(output, as_json)


def _written(output: Path, as_json: bool) -> Result:
    """What was written, with its hash."""
    from export.digest import file_facts

    facts = {"checkpoint": str(output), **file_facts(output)}
    return Result(
        facts,
        lambda: [facts_table(str(output), {"size": megabytes(facts["bytes"]), "sha256": facts["sha256"]})],
        as_json,
    )
