"""``checkpoint``: make checkpoints for tests and demonstrations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb

app = typer.Typer(help="Make a checkpoint: the trained demo one, or a random one of any size.", no_args_is_help=True)

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


@app.command("demo")
@verb
def demo(
    output: Output,
    work_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where speech and progress are kept. (default: OUT.work)")
    ] = None,
    seed: Seed = 1,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="How long to train.  (default: as the embedded one)")
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Train the demo checkpoint on synthetic speech again (hours on 2 cores; continues where it was stopped)."""
    from export.errors import UserError
    from scripts.checkpoints.demo.train import train_demo_checkpoint

    work = work_dir or output.with_name(output.name + ".work")
    if output.exists() and not (force or work.exists()):  # an interrupted run has left both
        raise UserError(f"{output}: already exists; add --force to replace it, or choose another file")
    if minutes is None:
        train_demo_checkpoint(output, work, seed)
    else:
        train_demo_checkpoint(output, work, seed, minutes)
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
