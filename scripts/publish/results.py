"""Results on the page: verdicts, error rates, speed, and what each recipe costs; each number from a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.publish.facts import FP32, Facts, Folder
from scripts.publish.page import Page
from scripts.publish.reports import DEMO_AUDIO, Measurement, Verification, machine_name
from scripts.publish.table import NOT_MEASURED, Table, code, figure, plain
from verify.scoring.intervals import between

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from verify.report import Report
    from verify.runs import Side


def verdicts(facts: Facts) -> list[str]:
    """Each report's verdict on each folder."""
    from verify.runs import ORACLE_NAMES

    words = {True: "passed", False: "FAILED", None: "not decided"}
    lines = []
    for folder in facts.folders:
        for each in folder.verifications:
            report = each.report
            oracle = report.reference.oracle
            reference = ORACLE_NAMES[oracle] if oracle else plain(report.reference.recipe.get("name", "its reference"))
            lines.append(
                f"`{folder.name}` against {reference}, {report.utterances} utterances of {each.audio}, "
                f"{report.target.runtime} loop: {words[report.passed]}; {figure(100 * report.exact_match, 1)} % of the "
                f"utterances with identical tokens; limits: {_limits(report)}"
            )
        if not folder.verifications:
            lines.append(f"`{folder.name}`: not verified")
    return lines


def _limits(report: Report) -> str:
    """Whose the limits are, and what they are."""
    limits = report.limits
    language = limits.wer_delta if limits.language_wer_delta is None else limits.language_wer_delta
    text = "" if limits.wer_between is None else f", {limits.wer_between:g} % of text that differs"
    return (
        f"{plain(report.limits_of)} ({100 * limits.exact_match:g} % identical, {limits.wer_delta:g} points more, "
        f"{language:g} in one language{text})"
    )


@dataclass(frozen=True)
class Column:
    """One folder's error rates in one evaluation, in percent."""

    rates: dict[str, float]  # by language
    average: float


@dataclass(frozen=True)
class Evaluation:
    """Folders that transcribed the same audio in the same way: their error rates against the manifest's text.

    Attributes:
        example: one of the reports; its counts are those of all.
        side: how the folders ran, and where.
        columns: by folder.
    """

    example: Verification
    side: Side
    columns: dict[str, Column]


def evaluations(facts: Facts) -> list[Evaluation]:
    """One for each audio, prompt, loop, precision, device and machine; that of the most folders first."""
    names = {frozenset(folder.hashes.items()): folder.name for folder in facts.folders}
    found: dict[tuple[str, ...], Evaluation] = {}
    for each in (each for folder in facts.folders for each in folder.verifications if each.has_text):
        report = each.report
        for side, rate in ((report.reference, "reference_wer"), (report.target, "wer")):
            name = names.get(frozenset(side.files.items()))
            if name is None:
                continue
            rates = {language: getattr(score, rate) for language, score in report.per_language.items() if score.rates}
            ran = (side.runtime, str(side.precision), side.device, machine_name(side.machine))
            key = (report.manifest_sha256, report.language, *ran)
            found.setdefault(key, Evaluation(each, side, {})).columns[name] = Column(rates, getattr(report, rate))
    return sorted(found.values(), key=lambda evaluation: -len(evaluation.columns))


def accuracy(facts: Facts, page: Page) -> list[Table]:
    """A table for each evaluation: languages down, folders across."""
    return [_error_rates(facts, page, evaluation) for evaluation in evaluations(facts)]


def _error_rates(facts: Facts, page: Page, evaluation: Evaluation) -> Table:
    report, side, columns = evaluation.example.report, evaluation.side, evaluation.columns
    names = [folder.name for folder in facts.folders]
    counts = {language: score.utterances for language, score in report.per_language.items() if score.rates}

    def cells(value: dict[str, float]) -> list[str]:
        return [figure(value.get(name)) for name in names]

    rows = []
    for language, score in report.per_language.items():
        rates = cells({name: column.rates[language] for name, column in columns.items() if language in column.rates})
        rows.append([plain(language), score.metric.upper(), *rates, str(score.utterances)])
    if len(rows) > 1:
        weighted = {
            name: sum(counts[language] * rate for language, rate in column.rates.items()) / sum(counts.values())
            for name, column in columns.items()
        }
        average = cells({name: column.average for name, column in columns.items()})
        rows.append([f"average of {len(report.languages)} languages", "", *average, str(report.utterances)])
        rows.append(["weighted by utterances", "", *cells(weighted), str(report.utterances)])
    own = report.language == "manifest"
    prompted = "each utterance prompted with its language" if own else f"prompt {plain(report.language)}"
    return Table(
        ["language", "metric", *(f"{name} %" for name in names), "n"],
        rows,
        f"{_audio(evaluation.example, page)}, {side.runtime} loop, computed in {plain(side.precision)} on "
        f"{plain(side.device)} of {machine_name(side.machine)}, greedy, {prompted}. "
        "Errors over words (WER) or characters (CER).",
        figures=True,
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """The same rates for the page's header, on the demo recordings: reports name no other audio."""
    from huggingface_hub import EvalResult

    found = []
    for evaluation in evaluations(facts):
        side = evaluation.side
        if evaluation.example.audio != DEMO_AUDIO:
            continue
        for name, column in evaluation.columns.items():
            for language, score in evaluation.example.report.per_language.items():
                if language not in column.rates:
                    continue
                found.append(
                    EvalResult(
                        task_type="automatic-speech-recognition",
                        dataset_type="nemotron-ov-demo",
                        dataset_name=DEMO_AUDIO,
                        dataset_config=language,
                        metric_type=score.metric,
                        metric_value=round(column.rates[language], 2),
                        metric_name=f"{score.metric.upper()} of {name}, {side.runtime} loop, {side.precision}",
                    )
                )
    return found


def _audio(each: Verification, page: Page) -> str:
    named = (
        f" ({plain(page.dataset)}, named by the publisher)"
        if page.dataset and not each.audio.startswith("the toolkit's")
        else ""
    )
    return f"{each.audio[0].upper()}{each.audio[1:]}{named}"


def throughput(facts: Facts) -> list[Table]:
    """A table for each machine."""
    machines = dict.fromkeys(each.machine for folder in facts.folders for each in folder.measurements)
    return [
        Table(
            ["folder", "loop", "precision", "encoder, ms a chunk", "× real time", "peak memory MB"],
            [
                [f"`{folder.name}`", plain(each.loop), plain(each.precision), *_costs(each)]
                for folder in facts.folders
                for each in folder.measurements
                if each.machine == machine
            ],
            f"Measured on {machine}:",
        )
        for machine in machines
    ]


def _costs(each: Measurement | None) -> list[str]:
    if each is None:
        return [NOT_MEASURED] * 3
    return [figure(each.chunk_ms, 1), figure(each.times_real_time, 1), figure(each.peak_rss_mb, 0)]


def quantized(facts: Facts, folder: Folder, page: Page) -> dict[str, Any]:
    """A quantized folder's section: its recipe, error rates against FP32, size and speed beside FP32, parameters."""
    from quantize.recipes import RECIPES

    recipe = dict(folder.bundle.metadata.recipe)
    known = RECIPES.get(folder.recipe)
    same = known is not None and known.hash == recipe.get("hash")
    if known and same:
        made = f"Made by the built-in recipe {code(known.name)}: {known.description}."
    else:
        description = plain(recipe.get("description", ""))
        made = f"Made by a recipe of the publisher's, {code(folder.recipe)}"
        made += f", who says of it: “{description}”" if description else ", without a description."
    return {
        "title": plain(folder.bundle.metadata.precision) + ("" if len(facts.folders) == 1 else f" (`{folder.name}/`)"),
        "suffix": f" of {folder.name}",
        "description": made,
        "comparisons": [
            _comparison(facts, each, folder, page) for each in folder.verifications if not each.report.reference.oracle
        ],
        "costs": _size_and_speed(facts, folder),
        "parameters": _parameters(recipe),
    }


def _comparison(facts: Facts, each: Verification, folder: Folder, page: Page) -> Table:
    report = each.report
    reference = plain(report.reference.recipe.get("name", "reference"))
    if facts.full is None or report.reference.files != facts.full.hashes:
        reference += " of another build"
    rows = []
    scores = [*report.per_language.items(), *([("average", report)] if len(report.per_language) > 1 else [])]
    for language, score in scores:
        metric = getattr(score, "metric", "").upper()
        row = [plain(language), metric, str(score.utterances), figure(100 * score.exact_match, 1)]
        if each.has_text:
            row += [figure(score.reference_wer), figure(score.wer), figure(score.wer_delta, sign="+")]
            row.append(between(score.wer_delta_interval) or NOT_MEASURED)
        else:
            row.append(figure(score.wer_between))
        rows.append(row)
    texts = [f"{reference} %", f"{folder.name} %", "points more", "95 % interval"]
    texts = texts if each.has_text else [f"differs from {reference} %"]
    target, other = report.target, report.reference
    ran = [f"{plain(side.device)} of {machine_name(side.machine)}" for side in (target, other)]
    where = f"on {ran[0]}" if ran[0] == ran[1] else f"{folder.name} on {ran[0]}, {reference} on {ran[1]}"
    return Table(
        ["language", "metric", "n", "identical tokens %", *texts],
        rows,
        f"{_audio(each, page)}, {target.runtime} loop, {folder.name} in {plain(target.precision)}, {reference} in "
        f"{plain(other.precision)}, {where}.",
        figures=True,
    )


def _size_and_speed(facts: Facts, folder: Folder) -> Table:
    """The folder beside FP32: sizes from the files, speeds of one machine, loop and precision."""
    full = facts.full
    chosen: Measurement | None = None
    beside: Measurement | None = None
    for each in folder.measurements:
        same = (each.machine, each.loop, each.precision)
        beside = next(
            (one for one in (full.measurements if full else ()) if (one.machine, one.loop, one.precision) == same), None
        )
        chosen = each
        if beside is not None:
            break
    both = (full, folder)
    sizes = [
        ["folder MB", *(figure(each.bundle.size_bytes / 1e6 if each else None, 1) for each in both)],
        ["encoder weights MB", *(figure(each.encoder_bytes / 1e6 if each else None, 1) for each in both)],
    ]
    names = ("encoder, ms a chunk", "× real time", "peak memory MB")
    speeds = [list(row) for row in zip(names, _costs(beside), _costs(chosen), strict=True)]
    where = (
        f"Speed and memory in the {plain(chosen.loop)} loop, in {plain(chosen.precision)}, on {chosen.machine}."
        if chosen
        else ""
    )
    beside_it = FP32 if full in facts.folders else f"{FP32} (not in this repository)"
    return Table(["", beside_it, folder.name], [*sizes, *speeds], where, figures=True)


def _parameters(recipe: dict[str, Any]) -> str:
    """The recipe as TOML, without the hashes of calibration audio."""
    import tomli_w

    shown = {name: value for name, value in recipe.items() if name != "calibration_audio_sha256"}
    return tomli_w.dumps(json.loads(json.dumps(shown))).strip()


def compatibility(facts: Facts) -> Table:
    """What ran: OpenVINO, device, loop, precision, machine, tokens where versions were compared, folders."""
    found: dict[tuple[str, ...], list[str]] = {}
    for folder in facts.folders:
        for each in folder.verifications:
            side: Side = each.report.target
            version = side.versions.get("openvino", "unknown")
            ran = (plain(version), plain(side.device), side.runtime, plain(side.precision or "unknown"))
            key = (*ran, machine_name(side.machine), "")
            found.setdefault(key, []).append(folder.name)
        for run in folder.runs:
            key = (run.openvino, run.device, run.runtime, run.precision, run.machine, run.tokens)
            found.setdefault(key, []).append(folder.name)
    rows = [[*key, ", ".join(dict.fromkeys(names))] for key, names in found.items()]
    return Table(["OpenVINO", "device", "loop", "precision", "machine", "tokens", "folders"], rows)
