"""The published tables from stored reports: FP32 by language, a smaller build beside it, and what that buys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ValidationError

from export.digest import digest
from export.errors import UserError
from export.json_files import read_json
from verify.report import Report, Speed
from verify.runs import Side
from verify.scoring.intervals import between
from verify.scoring.models import Row
from verify.scoring.rows import weighted_interval

FP32 = "fp32"
BUILD = "int8"
PUBLISHED = "published"
"""The normalizer of the published tables."""

NOT_MEASURED = "not measured"

_SETTINGS = ("runtime", "encoder", "lookahead", "chunk_ms", "precision", "device", "nemo_start")
"""Of a side: what all reports of a table have in common."""


class LanguageRow(BaseModel):
    """A language's rates in percent, and points between them; None where nothing was measured."""

    language: str
    metric: str
    utterances: int
    fp32: float | None
    build: float | None = None
    delta: float | None = None
    delta_interval: tuple[float, float] | None = None


class Cost(BaseModel):
    """What a build takes; None where that was not measured."""

    encoder_bytes: int | None = None
    bytes: int | None = None
    peak_rss_mb: float | None = None
    rtfx: float | None = None


class Tables(BaseModel):
    """Everything that is shown."""

    build: str
    normalizer: str
    rate: str
    languages: list[LanguageRow]
    weighted: LanguageRow  # the languages' mean, weighted by utterances
    fp32_cost: Cost
    build_cost: Cost
    settings: dict[str, Any]  # of FP32
    build_settings: dict[str, Any]  # empty where the build was not measured
    prompt: str  # "manifest", "auto", or the language that was forced
    machine: dict[str, Any]
    reports: list[str]


def make_tables(paths: Sequence[Path], *, build: str = BUILD, normalizer: str = PUBLISHED) -> Tables:
    """The tables of a build, from everything that lies in these places.

    Args:
        paths: outputs of `regenerate`, folders of reports, or reports.
        build: recipe of the build beside FP32.
        normalizer: see :mod:`verify.scoring.normalization`.

    Raises:
        UserError: there is no report of FP32, or reports contradict each other.
    """
    found = {file: document for path in paths for file, document in _documents(path).items()}
    build = build.lower()
    reports = {file: Report.load(file, normalizer) for file, document in found.items() if _is_report(document)}
    chosen = {file: report for file, report in reports.items() if _is_of(report, build)}
    alone = {file: report for file, report in reports.items() if _recipe(report.target) == FP32}
    shown = chosen or alone
    known = {_recipe(report.target) for report in reports.values()} - {None}
    if not shown or (not chosen and build not in (BUILD, FP32)):
        raise UserError(
            f"{', '.join(map(str, paths))}: no report of {FP32}, or of {build} against {FP32} (there are reports of "
            f"{', '.join(sorted(map(str, known))) or 'nothing'}); give the output of regenerate, or a folder with what "
            "`verify --report` wrote"
        )
    _check_alike(shown)
    languages = _languages(shown, beside=bool(chosen))
    folders = [row for file, document in found.items() for row in _folders(file, document)]
    first = next(iter(shown.values()))
    ours = first.reference if chosen else first.target
    return Tables(
        build=build,
        normalizer=first.normalizer,
        rate=first.rate,
        languages=languages,
        weighted=_weighted(
            languages, [row for report in shown.values() for row in report.rows] if chosen else [], first.normalizer
        ),
        fp32_cost=_cost(folders, FP32, [_fp32_side(each, beside=bool(chosen)) for each in shown.values()]),
        build_cost=_cost(folders, build, [(each.target, each.speed) for each in chosen.values()]),
        settings=_settings(ours),
        build_settings=_settings(first.target) if chosen else {},
        prompt=first.language,
        machine=ours.machine,
        reports=[str(file) for file in shown],
    )


def _settings(side: Side) -> dict[str, Any]:
    return {name: getattr(side, name) for name in _SETTINGS}


def _documents(path: Path) -> dict[Path, Any]:
    """JSON files of a place by their paths."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give the output of regenerate, or a folder of reports")
    files = sorted([*path.glob("*.json"), *path.glob("reports/*.json")]) if path.is_dir() else [path]
    documents = {}
    for file in files:
        documents[file.resolve()] = read_json(file, "move it away, or make it again")
    return documents


def _is_report(document: Any) -> bool:
    return isinstance(document, dict) and {"rows", "target", "reference", "limits"} <= document.keys()


class _Folder(BaseModel, allow_inf_nan=False):
    """A row of the ``report.json`` that `regenerate` writes."""

    recipe: str
    bytes: int | None = None
    encoder_bytes: int | None = None
    peak_rss_mb: float | None = None


def _folders(file: Path, document: Any) -> list[_Folder]:
    folders = document.get("folders") if isinstance(document, dict) else None
    try:
        return [_Folder.model_validate(row) for row in folders or ()]
    except (ValidationError, TypeError) as error:
        raise UserError(f"{file}: is no report of regenerate; move it away, or make it again") from error


def _recipe(side: Side) -> str | None:
    """A folder's recipe, fp32 of an export; None where none is recorded."""
    name = side.recipe.get("name")
    return None if side.oracle is not None or name is None else str(name)


def _is_of(report: Report, build: str) -> bool:
    return _recipe(report.target) == build and _recipe(report.reference) == FP32


def _fp32_side(report: Report, *, beside: bool) -> tuple[Side, Speed]:
    return (report.reference, report.reference_speed) if beside else (report.target, report.speed)


def _check_alike(reports: dict[Path, Report]) -> None:
    """Refuse to put numbers of different settings into one table."""
    first_file, first = next(iter(reports.items()))
    for file, report in reports.items():
        for side in ("target", "reference"):
            ours, theirs = getattr(first, side), getattr(report, side)
            facts = [(name, value, getattr(theirs, name)) for name, value in _settings(ours).items()]
            facts.append(("recipe hash", ours.recipe.get("hash"), theirs.recipe.get("hash")))
            if ours.files and theirs.files:
                facts.append(("files", digest(ours.files)[:12], digest(theirs.files)[:12]))
            facts.append(("checkpoint", ours.checkpoint.get("sha256"), theirs.checkpoint.get("sha256")))
            for name, one, other in [*facts, ("prompt", first.language, report.language)]:
                if one != other:
                    raise UserError(f"{file}: {side} has {name} {other}, {first_file} {one}; give reports of the same")


def _languages(reports: dict[Path, Report], *, beside: bool) -> list[LanguageRow]:
    rows: dict[str, LanguageRow] = {}
    source: dict[str, Path] = {}
    for file, report in reports.items():
        for name, score in report.per_language.items():
            if name in rows:
                raise UserError(f"{file}: holds {name}, which {source[name]} holds too; give one of them")
            row = LanguageRow(language=name, metric=score.metric.upper(), utterances=score.utterances, fp32=None)
            if score.rates and beside:
                row.fp32, row.build = score.reference_wer, score.wer
                row.delta, row.delta_interval = score.wer_delta, score.wer_delta_interval
            elif score.rates:
                row.fp32 = score.wer
            rows[name], source[name] = row, file
    return sorted(rows.values(), key=lambda row: (row.metric != "WER", row.language))


def _weighted(rows: Sequence[LanguageRow], compared: Sequence[Row], normalizer: str) -> LanguageRow:
    """The languages' mean; its interval is resampled from the utterances of both builds, where there are two."""
    weights = [row.utterances for row in rows]

    def mean(name: str) -> float | None:
        values = [getattr(row, name) for row in rows]
        return None if None in values else fmean(values, weights)

    return LanguageRow(
        language="weighted", metric="", utterances=sum(weights), fp32=mean("fp32"), build=mean("build"),
        delta=mean("delta"), delta_interval=weighted_interval(compared, normalizer),
    )  # fmt: skip


def _cost(folders: Iterable[_Folder], name: str, sides: Sequence[tuple[Side, Speed]]) -> Cost:
    """Sizes and memory as regenerate measured them; the speed of everything that the table's rates are of.

    Speeds of several machines have no common number.

    Raises:
        UserError: two folders of this name have other sizes.
    """
    rows = [row for row in folders if row.recipe == name]
    audio, wall = sum(speed.audio_seconds for _, speed in sides), sum(speed.wall_seconds for _, speed in sides)
    sizes: set[int] = {row.bytes or 0 for row in rows} | {side.size_bytes for side, _ in sides}
    sizes.discard(0)
    if len(sizes) > 1:
        listed = ", ".join(str(size) for size in sorted(sizes))
        raise UserError(f"{name}: folders of {listed} bytes go by this name; give reports of one of them")
    machines = {json.dumps(side.machine, sort_keys=True) for side, _ in sides}
    peaks = [row.peak_rss_mb for row in rows if row.peak_rss_mb is not None]
    return Cost(
        encoder_bytes=next((row.encoder_bytes for row in rows if row.encoder_bytes), None),
        bytes=next(iter(sizes), None),
        peak_rss_mb=max(peaks, default=None),
        rtfx=audio / wall if wall and len(machines) == 1 else None,
    )


def markdown(tables: Tables) -> list[str]:
    """The tables as lines of Markdown."""
    ours = tables.build.upper()
    rows = [*tables.languages, tables.weighted]
    lines = ["### FP32 by language", "", "| language | metric | n | FP32 % |", "| --- | --- | ---: | ---: |"]
    lines += [f"| {row.language} | {row.metric} | {row.utterances:,} | {_percent(row.fp32)} |" for row in rows]
    lines += ["", f"### {ours} beside FP32", "", f"| language | n | FP32 % | {ours} % | Δ points | 95 % |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        lines.append(
            f"| {row.language} | {row.utterances:,} | {_percent(row.fp32)} | {_percent(row.build)} | "
            f"{NOT_MEASURED if row.delta is None else f'{row.delta:+.2f}'} | "
            f"{between(row.delta_interval)} |"
        )
    lines += ["", f"### What {ours} buys", "", f"| | FP32 | {ours} |", "| --- | ---: | ---: |"]
    for label, name, scale, form in (
        ("encoder .bin, MB", "encoder_bytes", 1e-6, ",.0f"), ("folder, MB", "bytes", 1e-6, ",.0f"),
        ("peak RSS, MB", "peak_rss_mb", 1.0, ",.0f"), ("RTFx", "rtfx", 1.0, ".2f"),
    ):  # fmt: skip
        values = [getattr(cost, name) for cost in (tables.fp32_cost, tables.build_cost)]
        shown = [NOT_MEASURED if value is None else format(scale * value, form) for value in values]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return [*lines, "", _footnote(tables)]


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}"


def _footnote(tables: Tables) -> str:
    """What a reader must know to read the numbers."""
    rate = "the mean of its utterances' rates" if tables.rate == "mean" else "all errors over all words or characters"
    cpu = tables.machine.get("cpu")
    line = (
        f"Normalizer {tables.normalizer}; a language's number is {rate}; weighted by n. {_described(tables.settings)}; "
        f"prompt: {tables.prompt}"
    )
    if tables.build_settings not in ({}, tables.settings):
        line += f"; {tables.build.upper()}: {_described(tables.build_settings)}"
    return line + (f"; {cpu}." if cpu else ".")


def _described(settings: dict[str, Any]) -> str:
    """How a folder was run."""
    chunk = "" if settings["chunk_ms"] is None else f", chunks of {settings['chunk_ms']:g} ms"
    precision = "" if settings["precision"] is None else f", {settings['precision']}"
    return f"Loop {settings['runtime']}, lookahead {settings['lookahead']}{chunk}{precision}, {settings['device']}"
