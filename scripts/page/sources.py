"""Reports of `verify`, `regenerate` and `sweep` as what the page shows: builds, and comparisons with their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from export.errors import UserError
from export.json_files import read_json, read_json_as
from export.progress import task
from scripts.outputs import REGENERATE_REPORT, SWEEP_REPORT, VERIFY_REPORT
from verify.report import Latency, Report, Speed, agreement_summary
from verify.runs import ORACLE_NAMES, Side
from verify.scoring.intervals import Interval
from verify.verdict import verdict_word

_OUTPUTS = ("report.json", "sweep.json")
"""What `regenerate` and `sweep` write into their outputs."""


@dataclass(frozen=True)
class Comparison:
    """A report with the names of its two sides, which no other side on the page has."""

    build: str
    reference: str
    report: Report


@dataclass(frozen=True)
class Build:
    """A line of the headline table; what was not measured is None.

    ``mb`` and ``peak_mb`` are 10⁶ bytes, rates percent, differences points, times ms.
    """

    name: str
    against: str | None  # None: it is a reference only
    part: str = ""  # which of several comparisons of this build
    utterances: int = 0
    exact_match: float | None = None
    wer: float | None = None
    delta: float | None = None
    delta_interval: Interval = None
    between: float | None = None
    between_interval: Interval = None
    mb: float | None = None
    peak_mb: float | None = None
    step_ms: float | None = None
    rtfx: float | None = None
    latency: Latency | None = None
    verdict: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its name, and what tells its comparison from others of the same build."""
        return f"{self.name} – {self.part}" if self.part else self.name


@dataclass
class Sources:
    """Everything that the reports say."""

    title: str
    builds: list[Build] = field(default_factory=list)  # references come before what was compared with them
    comparisons: list[Comparison] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Row(BaseModel, allow_inf_nan=False):
    """A folder of `regenerate`'s report or a recipe of `sweep`'s."""

    recipe: str | dict[str, Any] | None = None  # regenerate: its name; sweep: its content
    name: str | None = None
    report: Annotated[str, Field(pattern=r"^[^\x00]*$")] | None = None
    reference: str | None = None
    bytes: float | None = None
    mb: float | None = None
    utterances: int | None = None
    exact_match: float | None = None
    wer: float | None = None
    wer_delta: float | None = None
    wer_delta_interval: tuple[float, float] | None = None
    wer_between: float | None = None
    encoder_step_ms: float | None = None
    times_real_time: float | None = None
    peak_rss_mb: float | None = None
    passed: bool | None = None
    judged: bool = True
    within_limits: bool | None = None
    reasons: list[str] = Field(default_factory=list)

    @property
    def called(self) -> str:
        return self.name or (self.recipe if isinstance(self.recipe, str) else "") or "unnamed"

    @property
    def megabytes(self) -> float | None:
        return self.mb if self.bytes is None else self.bytes / 1e6


class _Document(BaseModel):
    """What `regenerate` or `sweep` wrote."""

    folders: list[_Row] = Field(default_factory=list)
    rows: list[_Row] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    machine: dict[str, Any] = Field(default_factory=dict)
    checkpoint: dict[str, Any] = Field(default_factory=dict)
    utterances: int | None = None


def read_sources(paths: Sequence[Path], normalizer: str | None = None) -> Sources:
    """What these reports say; every number that follows from stored rows is computed again.

    Args:
        paths: reports of `verify`, `regenerate` or `sweep`, and folders that hold such.
        normalizer: see :mod:`verify.scoring.normalization`; None for each report's own.

    Raises:
        UserError: a file is missing or no such report, a folder holds none, or reports compare texts in several ways.
    """
    files = [file for path in paths for file in _files(path)]
    reports: dict[Path, Report] = {}
    documents: list[tuple[Path, _Document]] = []
    missing = []
    rows: dict[Path, _Row] = {}
    with task("reading reports") as progress:
        for file in dict.fromkeys(files):
            progress.rename(f"reading {file.name}")
            keys = _keys(file)
            if keys >= VERIFY_REPORT:
                reports[file.resolve()] = Report.load(file, normalizer)
            elif keys >= SWEEP_REPORT or keys >= REGENERATE_REPORT:
                documents.append((file, read_json_as(_Document, file, "give a report as it was written")))
            else:
                raise UserError(f"{file}: is no report of verify, regenerate or sweep; give one of them")
        for file, document in documents:
            for row in (*document.folders, *document.rows):
                if row.report is None:
                    continue
                stored = (file.parent / row.report).resolve()
                rows[stored] = row
                progress.rename(f"reading the report of {row.called}")
                try:
                    if stored not in reports:
                        reports[stored] = Report.load(stored, normalizer)
                except UserError as error:
                    missing.append(f"{row.called}: its utterances are not shown: {error}")
    _check_alike(reports)
    sources = _of_reports(reports, rows)
    sources.title = ", ".join(dict.fromkeys(_titled(file) for file in files))
    compared = {
        id(rows[file]): comparison.reference
        for file, comparison in zip(reports, sources.comparisons, strict=True)
        if file in rows
    }
    for file, document in documents:
        _add_document(sources, file, document, compared)
    sources.notes += missing
    return sources


def _check_alike(reports: dict[Path, Report]) -> None:
    """Refuse to put errors that were counted in different ways into one table."""
    first = next(iter(reports.items()), None)
    for file, report in reports.items():
        if first and report.normalizer != first[1].normalizer:
            raise UserError(
                f"{file}: has normalizer {report.normalizer}, {first[0]} {first[1].normalizer}; give --normalizer"
            )


def of_report(report: Report, title: str) -> Sources:
    """What a report in memory says."""
    sources = _of_reports({Path(title): report}, {})
    sources.title = title
    return sources


def _titled(file: Path) -> str:
    return file.absolute().parent.name if file.name in _OUTPUTS else file.stem


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for name in _OUTPUTS:
        if (path / name).is_file():
            return [path / name]
    found = [file for file in sorted(path.glob("*.json")) if _keys(file) >= VERIFY_REPORT]
    if not found:
        raise UserError(f"{path}: holds no {_OUTPUTS[0]}, {_OUTPUTS[1]} or report of verify; give a report")
    return found


def _keys(file: Path) -> frozenset[str]:
    content = read_json(file, "give a report of verify, regenerate or sweep")
    return frozenset(content) if isinstance(content, dict) else frozenset()


def _of_reports(reports: dict[Path, Report], rows: dict[Path, _Row]) -> Sources:
    """Comparisons with names, each side's own, and a line for each build and each reference."""
    sides = [
        (side, rows[file].called if file in rows and side is report.target else "")
        for file, report in reports.items()
        for side in (report.target, report.reference)
    ]
    names = _names(sides)
    sources = Sources("")
    compared = Counter(names[_identity(report.target)] for report in reports.values())
    for file, report in reports.items():
        build, reference = names[_identity(report.target)], names[_identity(report.reference)]
        sources.comparisons.append(Comparison(build, reference, report))
        known = {line.name for line in sources.builds}
        if reference not in known:
            sources.builds.append(_reference_line(reference, report))
        line = _line(build, report.target, report.speed)
        line = replace(
            line, against=reference, part=file.stem if compared[build] > 1 else "",
            utterances=report.utterances, exact_match=report.exact_match, wer=report.wer,
            delta=report.wer_delta, delta_interval=report.wer_delta_interval, between=report.wer_between,
            between_interval=report.wer_between_interval, verdict=verdict_word(report.passed),
            reasons=tuple(report.reasons),
        )  # fmt: skip
        if file in rows:
            line = _with_row(line, rows[file])
        sources.builds.append(line)
        sources.notes += [f"{build}: {each}" for each in report.notes]
        sources.notes += [f"{build}: same tokens: {agreement_summary(report)}"] if report.agreement else []
        sources.notes += [f"{build}: {Path(name).name} was left out: {why}" for name, why in report.unusable.items()]
    sources.facts = _facts([each.report for each in sources.comparisons])
    return sources


def _identity(side: Side) -> tuple[object, ...]:
    return (side.name, side.runtime, side.precision, side.nemo_start, side.lookahead, side.chunk_ms)


def _names(sides: Iterable[tuple[Side, str]]) -> dict[tuple[object, ...], str]:
    """A name for each side that says as little as tells it from the others."""
    short: dict[tuple[object, ...], list[str]] = {}
    for side, given in sides:
        base = ORACLE_NAMES[side.oracle] if side.oracle else given or Path(side.name).name or side.name
        parts = [base, side.runtime, side.precision or "", f"{side.chunk_ms or 0:g} ms", side.name]
        if _identity(side) not in short or given:
            short[_identity(side)] = parts
    chosen = {}
    for identity, parts in short.items():
        others = [other for each, other in short.items() if each != identity]
        shown: list[str] = []
        for part in parts:
            same = [other for other in others if part in other]
            if not shown or (part and len(same) < len(others)):
                shown.append(part)
            others = same
        chosen[identity] = shown
    texts = {identity: base + (f" ({', '.join(more)})" if more else "") for identity, (base, *more) in chosen.items()}
    counts = Counter(texts.values())
    numbered: Counter[str] = Counter()
    for identity, text in texts.items():
        if counts[text] > 1:
            numbered[text] += 1
            texts[identity] = f"{text} #{numbered[text]}"
    return texts


def _line(name: str, side: Side, speed: Speed) -> Build:
    return Build(
        name,
        None,
        mb=side.size_bytes / 1e6 if side.size_bytes else None,
        rtfx=speed.rtfx or None,
        step_ms=speed.encoder_ms or None,
        latency=speed.latency,
    )


def _reference_line(name: str, report: Report) -> Build:
    line = _line(name, report.reference, report.reference_speed)
    return replace(line, utterances=report.utterances, wer=report.reference_wer, verdict="the reference")


def _with_row(line: Build, row: _Row) -> Build:
    """With what was measured in a process of its own, and as it was judged."""
    return replace(_measured(line, row), verdict=_verdict(row), reasons=tuple(row.reasons))


def _measured(line: Build, row: _Row) -> Build:
    measured: dict[str, Any] = {"mb": row.megabytes, "peak_mb": row.peak_rss_mb, "step_ms": row.encoder_step_ms}
    measured["rtfx"] = line.rtfx or row.times_real_time  # of the comparison, as its reference's
    return replace(line, **{name: value for name, value in measured.items() if value is not None})


def _verdict(row: _Row) -> str:
    """A sweep's row has a name and was judged by its recipe's limits."""
    if not row.judged:
        return "not judged"
    return verdict_word(row.passed if row.name is None else row.within_limits)


def _add_document(sources: Sources, file: Path, document: _Document, compared: Mapping[int, str]) -> None:
    """Rows without a stored comparison, what failed, and where it was measured.

    Args:
        sources: what is added to.
        file: the document, which stands beside a name that another line has already.
        document: its content.
        compared: of each row with a stored comparison, by :func:`id`, the name of the reference.
    """
    rows = [*document.folders, *document.rows]
    references = {compared[id(row)] for row in rows if id(row) in compared}
    for row in rows:
        if id(row) in compared:
            continue
        lines = {line.name: number for number, line in enumerate(sources.builds)}
        if row.called in references:
            number = lines[row.called]
            sources.builds[number] = _measured(sources.builds[number], row)
            continue
        line = Build(
            f"{row.called} ({file})" if row.called in lines else row.called,
            row.reference,
            utterances=row.utterances or document.utterances or 0,
            exact_match=row.exact_match,
            wer=row.wer,
            delta=row.wer_delta,
            delta_interval=row.wer_delta_interval,
            between=row.wer_between,
        )
        sources.builds.append(_with_row(line, row))
    sources.notes += document.notes + [f"{name} failed: {why}" for name, why in document.failed.items()]
    if document.rows:  # a sweep's comparisons are stored without limits
        sources.facts = [(label, "each recipe's" if label == "limits" else value) for label, value in sources.facts]
    for label, value in (("checkpoint", document.checkpoint.get("source")), ("machine", document.machine.get("cpu"))):
        if value:
            sources.facts = _with_fact(sources.facts, label, str(value))


def _with_fact(facts: list[tuple[str, str]], label: str, value: str) -> list[tuple[str, str]]:
    """The facts with one value more, unless it is among a label's already."""
    known = dict(facts).get(label)
    if known is None:
        return [*facts, (label, value)]
    more = known if value in known.split(", ") else f"{known}, {value}"
    return [(each, more if each == label else old) for each, old in facts]


def _facts(reports: Sequence[Report]) -> list[tuple[str, str]]:
    """What all comparisons have in common, or each of the values that they have."""

    def values(found: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(str(each) for each in found if each not in (None, "")))

    sides = [side for report in reports for side in (report.target, report.reference)]
    facts = [
        ("checkpoint", values(side.checkpoint.get("source") for side in sides)),
        ("utterances", values(report.utterances for report in reports)),
        ("normalizer", values(report.normalizer for report in reports)),
        (
            "a language's number",
            values(
                "mean of its utterances' rates" if report.rate == "mean" else "all errors over all words or characters"
                for report in reports
            ),
        ),
        ("prompt", values(report.language for report in reports)),
        ("loop", values(side.runtime for side in sides)),
        ("lookahead", values(side.lookahead for side in sides)),
        ("chunk, ms", values(f"{side.chunk_ms:g}" for side in sides if side.chunk_ms is not None)),
        ("precision", values(side.precision for side in sides)),
        ("limits", values(report.limits_of for report in reports)),
        ("machine", values(side.machine.get("cpu") for side in sides)),
    ]
    return [(label, value) for label, value in facts if value]
