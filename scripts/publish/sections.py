"""The page's sections: what the folders say of themselves; their results are in :mod:`.results`."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import quote

from export.bundle import GRAPHS, METADATA
from export.contract import expected_ports
from export.profiles import CUSTOM
from scripts.publish.facts import FP32, Facts
from scripts.publish.page import ANY_REPOSITORY, Page
from scripts.publish.results import accuracy, compatibility, quantized, throughput, verdicts
from scripts.publish.table import Table, code, figure, plain


def sections(facts: Facts, page: Page) -> dict[str, Any]:
    """Everything that the template shows but the header."""
    metadata = facts.first.bundle.metadata
    shown = facts.first if page.in_root else facts.folders[-1]
    prefix = "" if page.in_root else f"{shown.name}/"
    repo_id = page.repo_id or ANY_REPOSITORY
    prompts = metadata.prompt_dictionary or {}
    return {
        "title": f"{plain(facts.origin.name)}: OpenVINO",
        "notice": _notice(facts),
        "described": _described(facts, page),
        "prompts": bool(prompts),
        "contents": _contents(facts, page),
        "verdicts": verdicts(facts),
        "in_root": page.in_root,
        "files": _files(facts),
        "streaming": _streaming(facts),
        "ports": _ports(facts),
        "accuracy": accuracy(facts, page),
        "throughput": throughput(facts),
        "quantized": [quantized(facts, folder, page) for folder in facts.folders if folder.is_quantized],
        "compatibility": compatibility(facts),
        "clients": _clients(facts),
        "prefix": prefix,
        "cache_channel": metadata.cache_channel_shape,
        "cache_time": metadata.cache_time_shape,
        "repo_id": repo_id,
        "option": "" if page.in_root else f" --precision {shown.name}",
        "language": f" --language {_word(next(iter(prompts)))}" if prompts else "",
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
        return f"[{plain(base)}](https://huggingface.co/{quote(base)})"
    kind = {"demo": "the demo checkpoint", "random": "a checkpoint with random weights", "model": "the checkpoint"}
    return f"{kind[facts.origin.kind]} {code(facts.origin.file or facts.origin.name)}"


def _contents(facts: Facts, page: Page) -> Table:
    rows = []
    for folder in facts.folders:
        place = "this repository" if page.in_root else f"`{folder.name}/`"
        size = figure(folder.bundle.size_bytes / 1e6, 1)
        rows.append([place, plain(folder.bundle.metadata.precision), plain(folder.recipe), size])
    return Table(["folder", "precision", "recipe", "MB"], rows)


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
        *([["base model", f"{code(page.base_model)}, named by the publisher"]] if page.base_model else []),
        ["checkpoint", code(origin.source or unknown)],
        ["its file", code(origin.file or unknown)],
        ["its revision", code(origin.revision or unknown)],
        ["its SHA-256", code(origin.sha256 or unknown)],
        ["made with", ", ".join(plain(f"{name} {version}") for name, version in metadata.tools.items()) or unknown],
        ["profile", plain(metadata.profile)],
        *([f"SHA-256 of {each.name}'s `{METADATA}`", f"`{each.hashes[METADATA]}`"] for each in facts.folders),
    ]
    return Table(["", ""], rows)


def _commands(facts: Facts) -> str:
    origin, metadata = facts.origin, facts.first.bundle.metadata
    source = "demo" if origin.kind == "demo" else origin.source if origin.revision else origin.file
    settings = (
        [f"--profile {_word(metadata.profile)}"]
        if metadata.profile != CUSTOM
        else [f"--lookahead {metadata.lookahead} --chunk-ms {metadata.chunk_ms:g} --cache {_word(metadata.cache)}"]
    )
    settings += [f"--encoder {_word(metadata.encoder)}"] if metadata.encoder != "rewritten" else []
    settings += [f"--revision {_word(origin.revision)}"] if origin.revision else []
    pruned = metadata.vocabulary
    if pruned:
        asked = pruned.get("languages")
        option, names = ("languages", asked) if asked else ("scripts", pruned["scripts"])
        settings.append(f"--{option} {_word(','.join(names))}")
    lines = [f"$ nemotron-ov export {_word(source or 'CHECKPOINT')} {FP32} {' '.join(settings)}"]
    for folder in facts.folders:
        if folder.is_quantized:
            recipe = folder.bundle.metadata.recipe
            calibrated = " --calibration CALIBRATION" if recipe.get("calibration_audio_sha256") else ""
            lines.append(f"$ nemotron-ov quantize {FP32} {folder.name} --recipe {_word(folder.recipe)}{calibrated}")
    return "\n".join(lines)


def _word(value: object) -> str:
    """A value that somebody else wrote, as one word of a command."""
    return shlex.quote(" ".join(str(value).split()))


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
        *map(plain, metadata.warnings),
        *(["Accuracy and limits of the base model are on its own page."] if page.base(facts) else []),
    ]


def _licence(facts: Facts, page: Page) -> str:
    identifier = page.licence_of(facts)
    if identifier is None:
        return "The licence of the weights is not recorded."
    whose = plain(page.base(facts) or "the checkpoint")
    return f"The weights are under {code(identifier)}, the licence of {whose}; its text is in `LICENSE`."
