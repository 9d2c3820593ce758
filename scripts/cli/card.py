"""``card``: a repository's page, from reports about exactly these files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.cli import options
from scripts.cli.result import Result, verb

Root = Annotated[Path, typer.Argument(metavar="DIR", help="What `regenerate` wrote: fp32/, int8/ … and reports.")]
Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", metavar="NAME", help="Only this folder of DIR, repeatable. (default: all)"),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Another report, repeatable: of `verify --report`, `regenerate`, `bench --json`, `scripts.compatibility`. "
        "(DIR/report.json and DIR/reports are read)",
    ),
]
LayoutOption = Annotated[
    options.Layout, typer.Option(help="'folders': one repository; 'split': one for each folder, NAME-int8-ov.")
]
BaseModel = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Hub id of the model that the checkpoint is. (default: where it was fetched from)"),
]
Licence = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="The weights' licence, as the Hub names it. (default: the model's)"),
]
LicenceFile = Annotated[
    Path | None,
    typer.Option("--license-file", metavar="FILE", help="Its text, where it is neither OpenMDW nor Apache."),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="ID", help="Data set of the audio, other than the demo's: google/fleurs.")
]


@verb
def card(
    directory: Root,
    check: Annotated[
        bool, typer.Option("--check", help="Say what the page that is there claims and no report supports.")
    ] = False,
    precision: Precisions = None,
    report: Reports = None,
    layout: LayoutOption = options.Layout.FOLDERS,
    base_model: BaseModel = None,
    licence: Licence = None,
    license_file: LicenceFile = None,
    dataset: Dataset = None,
    force: Annotated[bool, typer.Option("--force", help="Replace pages that were edited.")] = False,
    as_json: options.Json = False,
) -> Result:
    """Write the page of a repository, README.md, with config.json and LICENSE, from reports about exactly these files.

    Exit status 1: --check found a claim that no report supports.
    """
    from scripts.publish.card import unsupported
    from scripts.publish.facts import gather
    from scripts.publish.page import Page
    from scripts.publish.repository import local_pages, read_card, write_pages

    facts = gather(directory, precision or (), report or ())
    page = Page(base_model=base_model, licence=licence, dataset=dataset)
    unused = [str(file) for file in facts.unused]
    if not check:
        written = write_pages(facts, layout.value, page, license_file, force=force)
        data: dict[str, Any] = {"written": [str(file) for file in written], "reports_of_other_files": unused}
        lines = [f"{file}: written" for file in written]
        return Result(data, lambda: options.escaped([*lines, *map(_unused, unused)]), as_json)
    problems = {}
    for file, part, told in local_pages(facts, layout.value, page):
        problems[str(file)] = unsupported(read_card(file), part, told)
    lines = [f"{file}: {problem}" for file, found in problems.items() for problem in found]
    lines += [f"{file}: every claim has its report" for file, found in problems.items() if not found]
    wrong = any(problems.values())
    data = {"unsupported": problems, "reports_of_other_files": unused}
    return Result(data, lambda: options.escaped([*lines, *map(_unused, unused)]), as_json, exit_code=int(wrong))


def _unused(file: str) -> str:
    return f"{file}: is about none of these files; not used"
