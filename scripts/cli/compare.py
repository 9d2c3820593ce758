"""``verify``: does a folder transcribe like its reference; ``record``, a stage of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from export.errors import exit_status
from scripts.cli import options
from scripts.cli.result import Result, verb
from scripts.cli.verdict import comparison

if TYPE_CHECKING:
    from export.bundle import Bundle
    from export.checkpoint import Checkpoint
    from export.checkpoint.hub import Format
    from verify.report import Report
    from verify.runs import Run
    from verify.runtimes.names import Runtime


@verb
def verify(
    context: typer.Context,
    directory: options.OptionalFinished = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|CHECKPOINT",
            help="The folder to compare with, or a checkpoint: see --run-by.",
        ),
    ] = None,
    run_by: options.RunByOption = None,
    rescore: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead of DIR and --reference: score what a --report holds again, without a model."
        ),
    ] = None,
    manifest: options.Manifest = None,
    data: options.Data = None,
    split: options.SplitOption = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything here, as JSON.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page to look at here. (default: beside --report, with its name and .html)",
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Write no page beside --report.")] = False,
    limit: options.Limit = None,
    ignore_text: Annotated[
        bool, typer.Option("--ignore-text", help="The manifest's text is not what this model should recognize.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep both sides' transcripts here, for other folders.")
    ] = None,
    runtime: options.OptionalRuntime = None,
    precision: options.PrecisionOption = options.Precision.f32,
    nemo_start: options.NemoStart = False,
    language: Annotated[
        str, typer.Option(metavar="manifest|auto|xx-XX", help="Prompt: each utterance's own language, or one for all.")
    ] = "manifest",
    limits: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE|FILE.toml",
            help="Judge by this recipe's limits. (default: the built-in one's that the folder names, else ours)",
        ),
    ] = None,
    divergence: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Compare logits too, on N utterances, along the reference's path."),
    ] = 0,
    normalizer: options.Normalizer = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write both sides' transcripts here, JSON lines for NeMo's Speech Data Explorer and the Open ASR "
            "leaderboard's scorer.",
        ),
    ] = None,
    revision: options.Revision = None,
    checkpoint_format: options.CheckpointFormatOption = None,
    ray: options.Ray = None,
    as_json: options.Json = False,
) -> Result:
    """Does a folder transcribe like its reference?

    Exit status 1: a limit does not hold. Exit status 3: so few utterances do not decide.
    """
    from export.bundle import Bundle
    from export.checkpoint import Checkpoint
    from export.errors import UserError
    from quantize.recipes import get_recipe
    from scripts.outputs import check_output
    from verify.cluster import connected
    from verify.data.selection import choose_utterances, usable
    from verify.data.sets import choose_manifest
    from verify.limits import Limits
    from verify.pipeline import verify_bundle
    from verify.report import Report
    from verify.scoring.normalization import DEFAULT_NORMALIZER, get_normalizer

    check_output("--report", report)
    files = _Files(report, _page_file(page, report, no_page), transcripts)
    check_output("--transcripts", transcripts, folder=True)
    if normalizer is not None:
        get_normalizer(normalizer).words("")  # also what it needs is there
    chosen_limits = None if limits is None else Limits.of_recipe(get_recipe(limits, "--limits"))
    if rescore is not None:
        _refuse_with_rescore(rescore, context)
        return _judged(Report.load(rescore, normalizer, chosen_limits), files, as_json)
    if directory is None:
        raise UserError("verify: no folder; give DIR with --reference, or --rescore with a stored report")
    if reference is None:
        raise UserError(f"{directory}: nothing to compare with; give --reference with a folder or a checkpoint")
    check_output("--cache", cache, folder=True)
    bundle = Bundle.open(directory, check="hashes")
    if language != "manifest":
        language = options.language_of(bundle, language)
    opened = _reference(reference, revision, options.layout_of(checkpoint_format))
    if run_by is not None and not isinstance(opened, Checkpoint):
        raise UserError(f"--run-by {run_by}: {reference} is no checkpoint; give one as --reference, or leave it out")
    with connected(ray) as machines:
        prompts = bundle.metadata.prompt_dictionary
        chosen_data = options.data_set(data, split)
        manifest = choose_manifest(manifest, chosen_data, prompts=prompts, text=not ignore_text)
        utterances = choose_utterances(manifest, limit, prompts=prompts, ignore_text=ignore_text)
        utterances, unusable = usable(utterances, bundle.metadata.sample_rate)
        if precision is options.Precision.f32 and _graphs(opened) == _graphs(bundle):
            raise UserError(
                f"{reference}: has the graphs of {directory}, so nothing would be compared; give the folder or the "
                "checkpoint that they were made from"
            )
        chosen: Runtime | None = None if runtime is None else runtime.value
        result = verify_bundle(
            bundle,
            opened,
            utterances,
            oracles=(run_by or options.RunBy.nemo).oracles,
            limits=chosen_limits,
            runtime=chosen,
            language=language,
            config=options.config_of(precision),
            nemo_start=nemo_start,
            cache=cache,
            divergence=divergence,
            normalizer=normalizer or DEFAULT_NORMALIZER,
            machines=machines,
        )
    return _judged(result.without(unusable), files, as_json)


def _graphs(side: Bundle | Checkpoint | Run) -> dict[str, str]:
    """Hashes of a folder's files without its metadata; empty where no folder ran."""
    from export.bundle import METADATA, Bundle
    from verify.runs import Run

    files = side.hashes if isinstance(side, Bundle) else side.side.files if isinstance(side, Run) else {}
    return {name: sha256 for name, sha256 in files.items() if name != METADATA}


_WITH_RESCORE = {"rescore", "report", "page", "no_page", "limits", "normalizer", "transcripts", "as_json"}


def _refuse_with_rescore(rescore: Path, context: typer.Context) -> None:
    """Refuse arguments that say what to transcribe and how, which a stored report has behind it."""
    from export.errors import UserError

    given = []
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        if each.name not in _WITH_RESCORE and source is not None and source.name == "COMMANDLINE":
            given.append(each.opts[0] if each.opts[0].startswith("-") else "DIR")
    if given:
        raise UserError(f"--rescore {rescore}: transcribes nothing; leave out {', '.join(given)}")


class _Files(NamedTuple):
    """What is kept of a report, and where."""

    report: Path | None
    page: Path | None
    transcripts: Path | None


def _page_file(page: Path | None, report: Path | None, no_page: bool) -> Path | None:
    """Where the page goes; checked before the work, so that nothing of somebody else's is in its place."""
    from export.errors import UserError
    from scripts.outputs import check_page

    if page is not None:
        if no_page:
            raise UserError(f"--page {page}: --no-page says that there is none; leave one of them out")
        if report is not None and page.resolve() == report.resolve():
            raise UserError(f"--page {page}: is the --report too; give another file")
        check_page("--page", page)
        return page
    if report is None or no_page or report.suffix == ".html":
        return None
    beside = report.with_suffix(".html")
    try:
        check_page("--report", beside)
    except UserError as error:
        raise UserError(f"{error}, or give --no-page or another --page") from error
    return beside


def _judged(result: Report, files: _Files, as_json: bool) -> Result:
    """What `verify` hands back of a report, which is kept in the files that are named."""
    from export.host import peak_rss_mb
    from export.progress import note
    from verify.transcripts import write_transcripts

    if files.report is not None:
        result.save(files.report)
    if files.transcripts is not None:
        note(f"transcripts: {len(write_transcripts(result, files.transcripts))} files in {files.transcripts}")
    if files.page is not None:
        from scripts.page.render import write_page
        from scripts.page.sources import of_report

        write_page(of_report(result, files.page.stem), files.page)
    data = result.model_dump(mode="json", exclude={"rows"}) | {"peak_rss_mb": peak_rss_mb()}
    return Result(data, lambda: comparison(result), as_json, exit_code=exit_status(result.passed))


def _reference(reference: str, revision: str | None, layout: Format | None) -> Bundle | Checkpoint | Run:
    """A folder, a recorded run (.json), or a checkpoint."""
    from export.bundle import Bundle
    from export.checkpoint import open_checkpoint
    from export.checkpoint.transformers_folder import is_transformers_folder
    from export.errors import UserError
    from export.remote_folder import local_folder
    from verify.runs import load_transcripts

    path = local_folder(reference)
    folder = path.is_dir() and not is_transformers_folder(path)
    given = {"--revision": revision, "--checkpoint-format": layout}
    refused = [f"{name} {value}" for name, value in given.items() if value is not None]
    if refused and (folder or path.suffix == ".json"):
        raise UserError(f"{', '.join(refused)}: {reference} is no checkpoint; leave the option out")
    if folder:
        return Bundle.open(path, check="hashes")
    if path.suffix == ".json":
        return load_transcripts(path)
    return open_checkpoint(reference, revision, layout)


@verb
def record(
    checkpoint: options.Source,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Where `verify --cache` will find it.")],
    lookahead: options.Lookahead = 0,
    chunk_ms: options.ChunkMs = None,
    manifest: options.Manifest = None,
    limit: options.Limit = None,
    run_by: options.RunByOption = None,
    revision: options.Revision = None,
    checkpoint_format: options.CheckpointFormatOption = None,
    as_json: options.Json = False,
) -> Result:
    """Run a checkpoint over a manifest and keep the transcripts, so that `verify` need not hold both models at once."""
    from export.checkpoint import open_checkpoint
    from export.errors import exit_status
    from export.host import peak_rss_mb
    from scripts.outputs import check_output
    from verify.data.selection import choose_utterances, usable
    from verify.runs import record_checkpoint

    check_output("--cache", cache, folder=True)
    opened = open_checkpoint(checkpoint, revision, options.layout_of(checkpoint_format))
    utterances, unusable = usable(choose_utterances(manifest, limit, prompts=opened.prompts), opened.sample_rate)
    geometry, _ = opened.geometry(lookahead, chunk_ms, force=True)
    for oracle in (run_by or options.RunBy.nemo).oracles:
        steps = geometry.clean_chunk_frames
        record_checkpoint(opened, lookahead, utterances, chunk_frames=steps, cache=cache, oracle=oracle)
    data = {"reference": opened.source, "utterances": len(utterances), "unusable": unusable}
    data |= {"peak_rss_mb": peak_rss_mb()}
    code = exit_status(None if unusable else True)
    return Result(data, lambda: [f"{data['utterances']} transcripts kept in {cache}"], as_json, exit_code=code)
