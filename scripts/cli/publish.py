"""``publish`` and ``fetch``: folders to the Hugging Face Hub, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import card, options
from scripts.cli.result import Result, facts_table, megabytes, verb

if TYPE_CHECKING:
    from scripts.publish.plan import Plan

Repository = Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hub.")]


@verb
def publish(
    directory: card.Root,
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that does not exist a private one.")] = (
        False
    ),
    revision: Annotated[
        str, typer.Option(metavar="BRANCH", help="Where to commit; made where it is missing.")
    ] = "main",
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead; it gets no tag.")] = False,
    tag: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Mark the commit by this. (default: build-, and a hash of the files)"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, what changes and the page; send nothing.")
    ] = False,
    layout: card.LayoutOption = options.Layout.FOLDERS,
    precision: card.Precisions = None,
    report: card.Reports = None,
    base_model: card.BaseModel = None,
    licence: card.Licence = None,
    license_file: card.LicenceFile = None,
    dataset: card.Dataset = None,
    as_json: options.Json = False,
) -> Result:
    """Publish verified folders with their page: all or nothing, checked by the Hub's checksums, then tagged.

    Refuses without a passing report for exactly these files, and says all that is in the way at once. A run that was
    stopped is finished by the same command; where all is there, it does nothing.
    """
    from export.hub import hub_api
    from scripts.publish.facts import gather
    from scripts.publish.page import Page
    from scripts.publish.plan import Target, make_plan, require_publishable
    from scripts.publish.repository import repositories
    from scripts.publish.upload import publish as run

    facts = gather(directory, precision or (), report or ())
    page = Page(base_model=base_model, licence=licence, dataset=dataset)
    target = Target(private=private, revision=revision, pr=pr, tag=tag)
    api = hub_api()
    plans = [make_plan(api, each, target) for each in repositories(facts, repository, layout.value, page, license_file)]
    if dry_run:
        data: dict[str, Any] = {"repositories": [plan.as_json() for plan in plans]}
        refused = any(plan.reasons for plan in plans)
        return Result(data, lambda: _shown(plans), as_json, exit_code=2 if refused else 0)
    require_publishable(plans)
    done = [run(api, plan) for plan in plans]
    lines = [f"{each.url}: {each.did}" + (f", tag {each.tag}" if each.tag else "") for each in done]
    lines += [f"{each.repo_id}: {name}" for each in done for name in map(_stale, each.stale)]
    return Result({"repositories": [vars(each) for each in done]}, lambda: options.escaped(lines), as_json)


def _stale(folder: str) -> str:
    return f"{folder} stays beside the new build and its page says nothing of it; delete it there if it is stale"


def _shown(plans: list[Plan]) -> list[Any]:
    """A table of files for each repository, the page, and what is in the way."""
    from rich.markup import escape
    from rich.table import Table

    parts: list[Any] = []
    for plan in plans:
        repository = plan.repository
        state = "exists" if plan.exists else "will be made" + (", private" if plan.target.private else "")
        place = "a pull request" if plan.target.pr else plan.target.revision
        table = Table(title=escape(f"{repository.repo_id} ({state}), {place}"), title_justify="left")
        for column in ("file", "bytes", "change", "SHA-256"):
            table.add_column(column, justify="right" if column == "bytes" else "left")
        for file in repository.files:
            table.add_row(escape(file.path), f"{file.size:,}", plan.changes[file.path], file.sha256[:12])
        for path in plan.stays:
            table.add_row(escape(path), "", "stays", "")
        marked = f"tag {plan.tag}" if plan.tag else "no tag"
        summary = f"{megabytes(repository.size_bytes)}, {megabytes(plan.to_send)} to send; {marked}"
        parts += [table, escape(summary + ("; nothing to do" if plan.nothing_to_do else "")), escape(repository.card)]
        parts += [escape(_stale(folder)) for folder in plan.stale_folders]
        parts += [f"[bold]in the way:[/] {escape(reason)}" for reason in plan.reasons]
    return parts


@verb
def fetch(
    repository: Repository,
    directory: options.Folder,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="The folder: int8. (default: the root of the repository)")
    ] = None,
    revision: options.Revision = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Get one folder of a repository, whole and with the Hub's checksums, or not at all."""
    from dataclasses import replace

    from export.errors import UserError
    from export.remote_folder import SCHEME, RemoteFolder
    from scripts.publish.fetch import fetch_folder

    address = SCHEME + repository.removeprefix(SCHEME) + (f"/{precision}" if precision else "")
    remote = RemoteFolder.parse(address)
    if revision:  # not as a part of the address, where what follows a slash is a folder
        if remote.revision:
            raise UserError(f"--revision {revision}: {repository} names {remote.revision} already; leave one out")
        remote = replace(remote, revision=revision)
    bundle = fetch_folder(remote, directory, force=force)
    metadata = bundle.metadata
    data = {"folder": str(bundle.path), "bytes": bundle.size_bytes, "files": bundle.hashes}
    facts = {
        "precision": metadata.precision,
        "recipe": metadata.recipe.get("name"),
        "size": megabytes(bundle.size_bytes),
    }
    return Result(data, lambda: [facts_table(str(bundle.path), facts)], as_json)
