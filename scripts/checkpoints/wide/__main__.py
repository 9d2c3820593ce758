"""Writes the wider checkpoint: ``python -m scripts.checkpoints.wide CHECKPOINT OUT``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated

import typer
import yaml

from export.checkpoint import open_checkpoint
from export.checkpoint.archive import CONFIG, WEIGHTS, unpack
from export.checkpoint.weights import read_weights
from export.digest import file_facts
from export.errors import NemotronOVError, UserError
from export.progress import task
from scripts.checkpoints.packing import new_checkpoint, pack
from scripts.checkpoints.wide.channels import Splitter
from scripts.checkpoints.wide.model import Widening, Widths, widened_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A .nemo file, or 'demo'.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .nemo file to write.")],
    width: Annotated[int, typer.Option(min=1, help="Of the encoder.")] = Widths.width,
    heads: Annotated[int, typer.Option(min=1, help="Of its attention.")] = Widths.heads,
    hidden: Annotated[int, typer.Option(min=1, help="Width of prediction network and joint.")] = Widths.hidden,
    spread: Annotated[float, typer.Option(min=0.0, help="How unequal the parts of a weight are; 0: equal.")] = 1.0,
    outliers: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of channels; 0: none is scaled.")] = 0.005,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing checkpoint.")] = False,
) -> None:
    """Write a wider checkpoint with outliers that computes, in FP32, what a small one computes."""
    try:
        write_wide_checkpoint(source, output, Widths(width, heads, hidden), Splitter(seed, spread, outliers), force)
    except NemotronOVError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{output}: {file_facts(output)['bytes'] / 1e6:.0f} MB")


def write_wide_checkpoint(source: str | Path, output: Path, widths: Widths, splitter: Splitter, force: bool) -> None:
    """Write the ``.nemo`` file; the same seed gives the same bytes.

    Raises:
        UserError: the source cannot be widened so, or ``output`` cannot be written.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.shards:
        raise UserError(f"{checkpoint.path}: is a folder as Transformers lays it out; give a .nemo file")
    if output.exists() and output.samefile(checkpoint.path):
        raise UserError(f"{output}: is the checkpoint that would be widened; choose another name")
    with new_checkpoint(output, force=force) as folder:
        with task("widening"):
            widening = Widening(checkpoint, read_weights(checkpoint), widths, splitter)
            tensors = widening.tensors()
        with task(f"writing {output.name}"):
            import torch

            torch.save(tensors, folder / WEIGHTS)
            config = widened_config(copy.deepcopy(checkpoint.config), widths, widening.times)
            text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode("utf-8")
            contents: dict[str, bytes | Path] = {CONFIG: text, WEIGHTS: folder / WEIGHTS}
            tokenizer = set(checkpoint.tokenizer.values())
            unpack(checkpoint.path, tokenizer, folder)
            contents |= {member: folder / member for member in sorted(tokenizer)}
            pack(folder / output.name, contents)


if __name__ == "__main__":
    app()
