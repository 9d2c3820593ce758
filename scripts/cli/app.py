"""The command's verbs. Heavy imports live inside the verbs, so that ``--help`` loads none of them."""

from __future__ import annotations

import typer

from scripts.cli import (
    bench,
    bundles,
    calibrate,
    card,
    checkpoint,
    compare,
    export,
    flaws,
    page,
    publish,
    recipes,
    regenerate,
    sweep,
    tables,
    transcribe,
)

app = typer.Typer(
    help="NVIDIA's streaming multilingual speech recognizer: NeMo checkpoint to verified OpenVINO folders.",
    no_args_is_help=True,
    rich_markup_mode=None,  # help in half the time, and errors of the command line as text, without boxes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command("regenerate")(regenerate.regenerate)
app.command("export")(export.export)
app.command("calibrate")(calibrate.calibrate)
app.command("quantize")(bundles.quantize)
app.command("verify")(compare.verify)
app.command("record", hidden=True)(compare.record)  # a stage of regenerate
app.command("transcribe")(transcribe.transcribe)
app.command("bench")(bench.bench)
app.command("sweep")(sweep.sweep)
app.command("rank")(sweep.rank)
app.command("flaws")(flaws.flaws)
app.command("card")(card.card)
app.command("publish")(publish.publish)
app.command("fetch")(publish.fetch)
app.command("page")(page.page)
app.command("tables")(tables.tables)
app.command("inspect")(bundles.inspect)
app.add_typer(recipes.app, name="recipes")
app.add_typer(checkpoint.app, name="checkpoint")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("nemotron-ov"))
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
) -> None:
    del version


command = typer.main.get_command(app)
"""All verbs: made once, because a Typer application makes it anew at every call."""
