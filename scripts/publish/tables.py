"""The page's sections as tables and lines of text, each number from the facts and none of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.bundle import GRAPHS, METADATA
from export.contract import expected_ports
from export.profiles import CUSTOM
from scripts.publish.facts import FP32, Facts, Folder, Measurement, Verification, machine_name
from scripts.publish.page import ANY_REPOSITORY, Page

if TYPE_CHECKING:
    from verify.runs import Side

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """A table: head, rows of cells, and a sentence above it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    figures: bool = False  # columns after the first hold numbers


def figure(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number, or the words for none."""
    return NOT_MEASURED if value is None else f"{value:{sign}.{digits}f}"


def sections(facts: Facts, page: Page) -> dict[str, Any]:
    """Everything that the template shows but the header."""
    metadata = facts.first.bundle.metadata
    shown = facts.first if page.in_root else facts.folders[-1]
    prefix = "" if page.in_root else f"{shown.name}/"
    repo_id = page.repo_id or ANY_REPOSITORY
    prompts = metadata.prompt_dictionary or {}
    return {
        "title": f"{facts.origin.name}: OpenVINO",
        "notice": _notice(facts),
        "described": _described(facts, page),
        "prompts": bool(prompts),
        "contents": _contents(facts, page),
        "verdicts": _verdicts(facts),
        "in_root": page.in_root,
        "files": _files(facts),
        "streaming": _streaming(facts),
        "ports": _ports(facts),
        "accuracy": _accuracy(facts, page),
        "throughput": _throughput(facts),
        "quantized": [_quantized(facts, folder, page) for folder in facts.folders if folder.is_quantized],
        "compatibility": _compatibility(facts),
        "clients": _clients(facts),
        "prefix": prefix,
        "cache_channel": metadata.cache_channel_shape,
        "cache_time": metadata.cache_time_shape,
        "repo_id": repo_id,
        "option": "" if page.in_root else f" --precision {shown.name}",
        "language": f" --language {next(iter(prompts))}" if prompts else "",
        "address": f"hf://{repo_id}" + ("" if page.in_root else f"/{shown.name}"),
        "prompt_input": ', "prompt_id": np.array([meta["default_prompt_id"]], "i4")' if prompts else "",
        "made": _made(facts, page),
        "commands_intro": "The commands that make such folders from that checkpoint:",
        "commands": _commands(facts),
        "parity": _parity(facts),
        "limitations": _limitations(facts, page),
        "licence": _licence(facts, page),
    }


def _notice(facts: Facts) -> str | None:
    """What a reader of a page that is not a model's must see first."""
    if facts.origin.kind == "demo":
        return (
            "This is nemotron-ov's demo checkpoint, a small model trained on synthetic speech to test the toolkit. "
            "Its numbers say nothing about any other model."
        )
    if facts.origin.kind == "random":
        return "These weights are random. The folders test clients; they recognize no speech."
    return None


def _described(facts: Facts, page: Page) -> str:
    base = page.base(facts)
    if base:
        return f"[{base}](https://huggingface.co/{base})"
    kind = {"demo": "the demo checkpoint", "random": "a checkpoint with random weights", "model": "the checkpoint"}
    return f"{kind[facts.origin.kind]} `{facts.origin.file or facts.origin.name}`"


def _contents(facts: Facts, page: Page) -> Table:
    rows = []
    for folder in facts.folders:
        place = "this repository" if page.in_root else f"`{folder.name}/`"
        size = figure(folder.bundle.size_bytes / 1e6, 1)
        rows.append([place, folder.bundle.metadata.precision, folder.recipe, size])
    return Table(["folder", "precision", "recipe", "MB"], rows)


def _verdicts(facts: Facts) -> list[str]:
    """What each report said of each folder."""
    words = {True: "passed", False: "FAILED", None: "not decided"}
    lines = []
    for folder in facts.folders:
        for each in folder.verifications:
            report = each.report
            reference = "NeMo" if each.by_nemo else report.reference.recipe.get("name", "its reference")
            lines.append(
                f"`{folder.name}` against {reference}, {report.utterances} utterances of {each.audio}, "
                f"{report.target.runtime} loop: {words[report.passed]}; {figure(100 * report.exact_match, 1)} % of the "
                f"utterances with identical tokens; limits: {report.limits_of}"
            )
        if not folder.verifications:
            lines.append(f"`{folder.name}`: not verified")
    return lines


def _files(facts: Facts) -> Table:
    metadata = facts.first.bundle.metadata
    prompt = ", with the language prompt" if metadata.has_prompt else ""
    return Table(
        ["file", "role"],
        [
            [
                "`nemotron_preprocessor.xml`, `.bin`",
                f"{metadata.sample_rate} Hz mono audio to log-mel of {metadata.mel_features} bins",
            ],
            [
                "`nemotron_encoder.xml`, `.bin`",
                f"one streaming step of the {metadata.cache_channel_shape[1]}-layer encoder{prompt}",
            ],
            [
                "`nemotron_decoder.xml`, `.bin`",
                f"prediction network, {metadata.decoder_layers} × LSTM({metadata.decoder_hidden}), one step",
            ],
            ["`nemotron_joint.xml`, `.bin`", f"joint network to {metadata.vocab_size + 1} logits, blank last"],
            ["`nemotron_vocab.json`", f"{metadata.vocab_size} pieces by id; `▁` marks the beginning of a word"],
            ["`metadata.json`", "shapes, prompts, tags, recipe, checkpoint, hashes of the other files"],
            ["`openvino_config.json`", "what was quantized, and how"],
        ],
    )


def _streaming(facts: Facts) -> list[str]:
    metadata = facts.first.bundle.metadata
    cache = "keys and values" if metadata.cache == "kv" else "the layers' inputs"
    lines = [
        f"Chunk: {metadata.chunk_mel_frames} mel frames, with {metadata.pre_encode_cache} carried ones before them "
        f"{metadata.total_mel_frames}; attention context {metadata.att_context_size}.",
        f"Caches: `cache_channel` {metadata.cache_channel_shape} ({cache}), `cache_time` {metadata.cache_time_shape}; "
        "zeros at first, then each output is the next step's input.",
    ]
    if metadata.prompt_dictionary:
        lines.append(
            f"Language: `prompt_id`, one of {len(metadata.prompt_dictionary)} entries of `prompt_dictionary`; "
            f"{metadata.default_prompt_id} where none fits."
        )
    if metadata.lang_tag_token_ids:
        lines.append(
            f"{len(metadata.lang_tag_token_ids)} language tags (`lang_tag_token_ids`) are stripped from the text; the "
            "first one is the detected language."
        )
    return lines


def _ports(facts: Facts) -> Table:
    rows = [
        [graph, side, f"`{port.name}`", str(list(port.shape)), port.dtype]
        for graph, ports in expected_ports(facts.first.bundle.metadata).items()
        for side, several in (("input", ports.inputs), ("output", ports.outputs))
        for port in several
    ]
    return Table(["graph", "", "tensor", "shape", "type"], rows)


@dataclass(frozen=True)
class _Column:
    """One folder's error rates in one evaluation."""

    folder: str
    rates: dict[str, float]
    average: float


def _accuracy(facts: Facts, page: Page) -> list[Table]:
    """A table for each audio, loop and precision: languages down, folders across."""
    columns: dict[tuple[str, ...], dict[str, _Column]] = {}
    examples: dict[tuple[str, ...], Verification] = {}
    by_files = {tuple(folder.hashes.items()): folder.name for folder in facts.folders}
    for each in (each for folder in facts.folders for each in folder.verifications if each.has_text):
        report = each.report
        for side, rate in ((report.reference, "reference_wer"), (report.target, "wer")):
            name = by_files.get(tuple(side.files.items()))
            if name is None:
                continue
            rates = {language: getattr(score, rate) for language, score in report.per_language.items()}
            where = (side.runtime, side.precision or "", f"{side.device} of {machine_name(side.machine)}")
            key = (report.manifest_sha256, report.language, *where)
            columns.setdefault(key, {})[name] = _Column(name, rates, getattr(report, rate))
            examples.setdefault(key, each)
    return [_error_rates(facts, page, examples[key], key, found) for key, found in columns.items()]


def _error_rates(
    facts: Facts, page: Page, example: Verification, key: tuple[str, ...], columns: dict[str, _Column]
) -> Table:
    _, prompt, loop, precision, machine = key
    report = example.report
    names = [folder.name for folder in facts.folders]
    counts = {language: score.utterances for language, score in report.per_language.items()}

    def cells(value: dict[str, float]) -> list[str]:
        return [figure(value.get(name)) for name in names]

    rows = [
        [
            language,
            score.metric.upper(),
            *cells({name: column.rates[language] for name, column in columns.items()}),
            str(score.utterances),
        ]
        for language, score in report.per_language.items()
    ]
    if len(rows) > 1:
        weighted = {
            name: sum(counts[language] * rate for language, rate in column.rates.items()) / sum(counts.values())
            for name, column in columns.items()
        }
        average = {name: column.average for name, column in columns.items()}
        rows.append([f"average of {len(report.languages)} languages", "", *cells(average), str(report.utterances)])
        rows.append(["weighted by utterances", "", *cells(weighted), str(report.utterances)])
    prompted = {"manifest": "each utterance prompted with its language"}.get(prompt, f"prompt {prompt}")
    return Table(
        ["language", "metric", *(f"{name} %" for name in names), "n"],
        rows,
        f"{_audio(example, page)}, {loop} loop, computed in {precision} on {machine}, greedy, {prompted}. Errors over "
        "words (WER) or characters (CER).",
        figures=True,
    )


def _audio(each: Verification, page: Page) -> str:
    named = f" ({page.dataset})" if page.dataset and not each.audio.startswith("the toolkit's") else ""
    return f"{each.audio[0].upper()}{each.audio[1:]}{named}"


def _throughput(facts: Facts) -> list[Table]:
    """A table for each machine."""
    machines = dict.fromkeys(each.machine for folder in facts.folders for each in folder.measurements)
    return [
        Table(
            ["folder", "loop", "precision", "encoder step ms", "× real time", "peak memory MB"],
            [
                [f"`{folder.name}`", each.loop, each.precision, *_costs(each)]
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
    return [figure(each.encoder_step_ms, 1), figure(each.times_real_time, 1), figure(each.peak_rss_mb, 0)]


def _quantized(facts: Facts, folder: Folder, page: Page) -> dict[str, Any]:
    from quantize.recipes import RECIPES

    recipe = dict(folder.bundle.metadata.recipe)
    known = RECIPES.get(folder.recipe)
    same = known is not None and known.hash == recipe.get("hash")
    description = str(recipe.get("description", "")) or (known.description if known and same else "")
    kind = "the built-in recipe" if same else "a recipe of the publisher's"
    return {
        "title": folder.bundle.metadata.precision + ("" if len(facts.folders) == 1 else f" (`{folder.name}/`)"),
        "suffix": f" of {folder.name}",
        "description": f"Made by {kind} `{folder.recipe}`: {description or 'without a description'}.",
        "comparisons": [_comparison(facts, each, folder, page) for each in folder.verifications if not each.by_nemo],
        "costs": _size_and_speed(facts, folder),
        "parameters": _parameters(recipe),
    }


def _comparison(facts: Facts, each: Verification, folder: Folder, page: Page) -> Table:
    report = each.report
    reference = str(report.reference.recipe.get("name", "reference"))
    if facts.full is None or report.reference.files != facts.full.hashes:
        reference += " of another build"
    rows = []
    scores = [*report.per_language.items(), *([("average", report)] if len(report.per_language) > 1 else [])]
    for language, score in scores:
        metric = getattr(score, "metric", "").upper()
        row = [language, metric, str(score.utterances), figure(100 * score.exact_match, 1)]
        if each.has_text:
            interval = score.wer_delta_interval
            between = NOT_MEASURED if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
            row += [figure(score.reference_wer), figure(score.wer), figure(score.wer_delta, sign="+"), between]
        else:
            row.append(figure(score.wer_between))
        rows.append(row)
    texts = [f"{reference} %", f"{folder.name} %", "points more", "95 % interval"]
    texts = texts if each.has_text else [f"differs from {reference} %"]
    target, other = report.target, report.reference
    return Table(
        ["language", "metric", "n", "identical tokens %", *texts],
        rows,
        f"{_audio(each, page)}, {target.runtime} loop, {folder.name} in {target.precision}, {reference} in "
        f"{other.precision}, on {target.device} of {machine_name(target.machine)}.",
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
    names = ("encoder step ms", "× real time", "peak memory MB")
    speeds = [list(row) for row in zip(names, _costs(beside), _costs(chosen), strict=True)]
    where = f"Speed and memory in the {chosen.loop} loop, in {chosen.precision}, on {chosen.machine}." if chosen else ""
    beside_it = FP32 if full in facts.folders else f"{FP32} (not in this repository)"
    return Table(["", beside_it, folder.name], [*sizes, *speeds], where, figures=True)


def _parameters(recipe: dict[str, Any]) -> str:
    """The recipe as TOML, without the hashes of calibration audio."""
    import tomli_w

    shown = {name: value for name, value in recipe.items() if name != "calibration_audio_sha256"}
    return tomli_w.dumps(json.loads(json.dumps(shown))).strip()


def _compatibility(facts: Facts) -> Table:
    found: dict[tuple[str, ...], list[str]] = {}
    for folder in facts.folders:
        for each in folder.verifications:
            side: Side = each.report.target
            version = side.versions.get("openvino", "unknown")
            key = (version, side.device, side.runtime, side.precision or "unknown", machine_name(side.machine))
            found.setdefault(key, []).append(folder.name)
    rows = [[*key, ", ".join(dict.fromkeys(names))] for key, names in found.items()]
    return Table(["OpenVINO", "device", "loop", "precision", "machine", "folders"], rows)


def _clients(facts: Facts) -> list[str]:
    metadata = facts.first.bundle.metadata
    lines = [
        "`generation1` and `generation2` are nemotron-ov's copies of the loops of the eddy-audio C++ runtime; "
        "`streaming` is its own.",
        "Names, types and ranks of all tensors, and the keys of `metadata.json`, are those that these clients read.",
    ]
    if metadata.cache == "kv":
        lines.append("`cache_channel` holds keys and values: a client must take its shape from `metadata.json`.")
    return lines


def _made(facts: Facts, page: Page) -> Table:
    origin, metadata = facts.origin, facts.first.bundle.metadata
    unknown = "not recorded"
    rows = [
        *([["base model", f"`{page.base_model}`, named by the publisher"]] if page.base_model else []),
        ["checkpoint", f"`{origin.source or unknown}`"],
        ["its file", f"`{origin.file or unknown}`"],
        ["its revision", f"`{origin.revision or unknown}`"],
        ["its SHA-256", f"`{origin.sha256 or unknown}`"],
        ["made with", ", ".join(f"{name} {version}" for name, version in metadata.tools.items()) or unknown],
        ["profile", metadata.profile],
        *([f"SHA-256 of {each.name}'s `{METADATA}`", f"`{each.hashes[METADATA]}`"] for each in facts.folders),
    ]
    return Table(["", ""], rows)


def _commands(facts: Facts) -> str:
    origin, metadata = facts.origin, facts.first.bundle.metadata
    source = "demo" if origin.kind == "demo" else origin.source if origin.revision else origin.file
    settings = (
        [f"--profile {metadata.profile}"]
        if metadata.profile != CUSTOM
        else [f"--lookahead {metadata.lookahead} --chunk-ms {metadata.chunk_ms:g} --cache {metadata.cache}"]
    )
    settings += [f"--encoder {metadata.encoder}"] if metadata.encoder != "rewritten" else []
    settings += [f"--revision {origin.revision}"] if origin.revision else []
    pruned = metadata.vocabulary
    if pruned:
        asked = pruned.get("languages")
        settings.append(f"--languages {','.join(asked)}" if asked else f"--scripts {','.join(pruned['scripts'])}")
    lines = [f"$ nemotron-ov export {source or 'CHECKPOINT'} {FP32} {' '.join(settings)}"]
    for folder in facts.folders:
        if folder.is_quantized:
            recipe = folder.bundle.metadata.recipe
            calibrated = " --calibration CALIBRATION" if recipe.get("calibration_audio_sha256") else ""
            lines.append(f"$ nemotron-ov quantize {FP32} {folder.name} --recipe {folder.recipe}{calibrated}")
    return "\n".join(lines)


def _parity(facts: Facts) -> Table:
    rows = []
    for graph in GRAPHS:
        result = facts.first.bundle.metadata.parity.get(graph)
        if result:
            worst = max(output["relative"] for output in result["outputs"].values())
            rows.append([graph, str(result["steps"]), f"{worst:.1g}", f"{result['limit']:g}"])
    return Table(["graph", "steps", "largest difference, of the output's scale", "limit"], rows, figures=True)


def _limitations(facts: Facts, page: Page) -> list[str]:
    metadata = facts.first.bundle.metadata
    frames = metadata.chunk_mel_frames // metadata.subsampling_factor
    return [
        f"Text comes {metadata.chunk_mel_frames * 10} ms of audio at a time, and a frame sees at most "
        f"{metadata.att_context_size[1]} of the {frames} frames of its chunk after it.",
        "The loop of the eddy-audio clients, generation 1, computes the log-mel of each chunk alone: its pre-emphasis "
        "and window begin anew at every border, so the frames there differ from those of the whole signal.",
        "That loop begins a stream with zero frames that the model was not trained with, and may lose a recording's "
        "last word: pad recordings with silence.",
        "Generation 2 carries a frame of zeros from chunk to chunk"
        + (
            "; these graphs take it out."
            if metadata.encoder == "rewritten"
            else ", which these graphs do not take out."
        ),
        "The clients set no precision: where the processor has bf16, OpenVINO computes in it, whatever the folder "
        "holds, and a few tokens change. `INFERENCE_PRECISION_HINT` set to `f32` keeps the folder's own.",
        "Greedy decoding only, one stream a step in the clients' loop.",
        *metadata.warnings,
        *(["Accuracy and limits of the base model are on its own page."] if page.base(facts) else []),
    ]


def _licence(facts: Facts, page: Page) -> str:
    identifier = page.licence_of(facts)
    if identifier is None:
        return "The licence of the weights is not recorded."
    whose = page.base(facts) or "the checkpoint"
    return f"The weights are under `{identifier}`, the licence of {whose}; its text is in `LICENSE`."


def openvino_config(folder: Folder) -> dict[str, Any]:
    """``openvino_config.json`` of a folder: versions, and its quantization as its recipe says it."""
    metadata = folder.bundle.metadata
    recipe = {name: value for name, value in metadata.recipe.items() if name != "calibration_audio_sha256"}
    return {
        "dtype": metadata.precision.lower(),
        "openvino_version": metadata.tools.get("openvino"),
        "nncf_version": metadata.tools.get("nncf"),
        "quantization_config": recipe if folder.is_quantized else None,
    }


def repository_config(facts: Facts) -> dict[str, Any]:
    """``config.json`` of the repository, which the Hub counts downloads by: what lies in which folder."""
    metadata = facts.first.bundle.metadata
    return {
        "architectures": [metadata.model_class],
        "library_name": "openvino",
        "model": metadata.model,
        "sample_rate": metadata.sample_rate,
        "vocab_size": metadata.vocab_size,
        "folders": {folder.name: folder.bundle.metadata.precision for folder in facts.folders},
    }
