"""``recipes``: which there are, what they say, and files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import options
from scripts.cli.result import Result, facts_table, verb

if TYPE_CHECKING:
    from quantize.recipe import Recipe

app = typer.Typer(help="List, show, check, copy and mix the recipes that `quantize` and `regenerate` know.")

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A built-in recipe, or a .toml file.")]


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: options.Json = False) -> None:
    """List the recipes that `quantize` and `regenerate` know; its commands show, check, copy and mix one."""
    if context.invoked_subcommand is None:
        _listed(as_json=as_json)


@verb
def _listed(as_json: bool) -> Result:
    from quantize.recipe import allowance
    from quantize.recipes import RECIPES

    def render() -> list[Any]:
        from rich.table import Table

        table = Table("recipe", "what it does", "identical tokens", "WER delta, average / language", "text differs")
        for recipe in RECIPES.values():
            needs = " (needs calibration data)" if recipe.needs_calibration else ""
            table.add_row(recipe.name, recipe.description + needs, *allowance(recipe.tolerance))
        return [table]

    return Result({"recipes": [_facts(recipe) for recipe in RECIPES.values()]}, render, as_json)


@app.command("show")
@verb
def show(name: Name, as_json: options.Json = False) -> Result:
    """Print a recipe as the TOML of its file."""
    from quantize.recipe_file import dump_recipe
    from quantize.recipes import get_recipe

    recipe = get_recipe(name)

    def render() -> list[Any]:
        from rich.text import Text

        return [Text(dump_recipe(recipe).rstrip())]

    return Result(recipe.as_metadata(), render, as_json)


@app.command("validate")
@verb
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipe's .toml file.")], as_json: options.Json = False
) -> Result:
    """Check a recipe's file; whether it fits a checkpoint's graphs shows when it is applied."""
    from quantize.recipe_file import load_recipe
    from quantize.recipes import check_name

    recipe = load_recipe(file)
    check_name(recipe, file)
    facts = {"recipe": recipe.name, "version": recipe.version, "precision": recipe.precision, "hash": recipe.hash}
    facts["calibration"] = "needed" if recipe.needs_calibration else "not needed"
    return Result({"file": str(file), **_facts(recipe)}, lambda: [facts_table(str(file), facts)], as_json)


@app.command("copy")
@verb
def copy(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .toml file to write; its stem names the copy.")],
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Write a recipe to a file of one's own, to be changed there."""
    from quantize.recipe_file import renamed, save_recipe
    from quantize.recipes import check_name, get_recipe

    recipe = renamed(get_recipe(name), file)
    check_name(recipe, file)
    save_recipe(recipe, file, force=force)
    facts = {"recipe": recipe.name, "copied from": name}
    return Result({"file": str(file), **_facts(recipe)}, lambda: [facts_table(str(file), facts)], as_json)


@app.command("mix")
@verb
def mix(
    ranking: Annotated[Path, typer.Argument(metavar="LAYERS_JSON", help="What `rank` wrote.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .toml file to write; its stem names the recipe.")],
    keep_worst: options.KeepWorst = None,
    kl_budget: options.KlBudget = None,
    extra_mb: options.ExtraMb = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Write the recipe that keeps some groups of a ranking in higher precision; no model is needed."""
    from export.errors import UserError
    from quantize.ranking import read_ranking
    from quantize.recipe_file import renamed, save_recipe
    from quantize.recipes import check_name

    if not options.one_choice(keep_worst, kl_budget, extra_mb):
        raise UserError("nothing says how many groups are kept; give --extra-mb, --keep-worst or --kl-budget")
    ranked = read_ranking(ranking)
    kept = ranked.kept(keep_worst=keep_worst, kl_budget=kl_budget, extra_mb=extra_mb)
    recipe = renamed(ranked.mixed(kept), file)
    check_name(recipe, file)
    save_recipe(recipe, file, force=force)
    more = sum(row.more_mb for row in ranked.groups if row.name in kept)
    facts = {"recipe": recipe.name, "mixed from": ranked.recipe.name, "kept": ", ".join(kept) or "none"}
    facts["MB more"] = f"{more:.2f}"
    outcome = {"file": str(file), "kept": kept, "more_mb": more, **_facts(recipe)}
    return Result(outcome, lambda: [facts_table(str(file), facts)], as_json)


def _facts(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "precision": recipe.precision,
        "needs_calibration": recipe.needs_calibration,
        "hash": recipe.hash,
        "tolerance": recipe.tolerance.model_dump(),
    }
