"""What it costs to make each recipe's folder: ``python -m scripts.costs FP32_DIR --calibration DIR --work DIR``.

Measures each recipe in a process of its own, one after another, and stores the figures for the table that
:mod:`scripts.docs` makes. Folders of recipes that are measured stay in ``--work``; a recipe that is there already keeps
its figures.
"""

from __future__ import annotations

import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from export.bundle import Bundle
from export.digest import ROOT
from export.errors import UserError
from export.folders import write_atomically
from export.host import machine
from export.progress import note
from quantize.recipes import RECIPES, get_recipe
from quantize.samples import CalibrationData
from scripts.bench.report import load_average
from scripts.cli import end_with_status
from scripts.figures import read_figures
from scripts.processes import run_module

FIGURES = ROOT / "docs" / "recipes-full-size.json"

SPENT = ("wall_s", "processor_s", "peak_rss_mb")


class _Constants(BaseModel, extra="allow"):
    bytes: int


class _Graphs(BaseModel, extra="allow"):
    encoder: dict[str, _Constants]  # by type


class _Cost(BaseModel, extra="allow", allow_inf_nan=False):
    """Of a recipe's folder, what the table shows."""

    recipe_hash: str
    bytes: int
    wall_s: float
    processor_s: float
    peak_rss_mb: float
    calibration_steps: int | None
    constants: _Graphs


def main(
    source: Annotated[Path, typer.Argument(metavar="FP32_DIR")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where the folders go.")],
    calibration: Annotated[Path | None, typer.Option(metavar="DIR", help="For recipes that need it.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Repeatable. (default: all)")] = None,
    figures: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures are stored.")] = FIGURES,
) -> None:
    """Make folders, and store what each took; figures of other recipes stay."""
    bundle = Bundle.open(source)
    chosen_recipes = [get_recipe(name) for name in recipe or RECIPES]
    found = read(figures)
    wanted = [each for each in chosen_recipes if each.name != "fp32" and not (work / each.name).exists()]
    if calibration is None and any(each.needs_calibration for each in wanted):
        needing = ", ".join(each.name for each in wanted if each.needs_calibration)
        raise UserError(f"recipe {needing}: needs calibration; give --calibration DIR, or --recipe with others")
    for chosen in chosen_recipes:
        if chosen not in wanted:
            note(f"{chosen.name}: is there or is the source; not measured")
    for chosen in wanted:
        folder, needed = work / chosen.name, chosen.needs_calibration
        given = ["--calibration", calibration] if needed else []
        made = run_module(
            "scripts.cli", ["quantize", source, folder, "--recipe", chosen.name, *given, "--json"], stderr="show"
        )
        found[chosen.name] = {
            "recipe_hash": chosen.hash,
            "checkpoint": bundle.metadata.checkpoint.get("sha256"),
            "cache": bundle.metadata.cache,
            "calibration_steps": CalibrationData.open(calibration).size("encoder") if needed and calibration else None,
            **{key: made[key] for key in (*SPENT, "bytes", "constants")},
            "load_average": load_average(),
            "machine": machine(),
            "tools": {tool: version(tool) for tool in ("openvino", "nncf")},
            "date": date.today().isoformat(),  # of the machine
        }
        write_atomically(figures, json.dumps(found, indent=1, sort_keys=True) + "\n")


def read(figures: Path = FIGURES) -> dict[str, Any]:
    """The stored figures by recipe; see :func:`scripts.figures.read_figures`."""
    return read_figures(figures, dict[str, _Cost])


def costs_table(found: dict[str, Any]) -> str:
    """A row for every built-in recipe that was measured as it is now; another recipe of its name does not count."""
    lines = [
        "| recipe | MB | wall s | processor s | peak MB | calibration steps | encoder's constants, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, recipe in RECIPES.items():
        row = found.get(name)
        if row is None or row["recipe_hash"] != recipe.hash:
            continue
        sizes = {kind: facts["bytes"] / 1e6 for kind, facts in row["constants"]["encoder"].items()}
        shown = sorted(((size, kind) for kind, size in sizes.items() if size >= 0.05), reverse=True)  # MB
        constants = ", ".join(f"{kind} {size:.1f}" for size, kind in shown)
        figures = [
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{row[key]:,.0f}" for key in SPENT),
        ]
        steps = row["calibration_steps"] or ""
        lines.append(f"| `{name}` | {' | '.join(figures)} | {steps} | {constants} |")
    return "\n".join(lines)


if __name__ == "__main__":
    end_with_status(lambda: typer.run(main))
