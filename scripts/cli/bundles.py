"""``quantize`` and ``inspect``: finished folders and what can be made of them, without torch or NeMo."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb

if TYPE_CHECKING:
    from export.bundle import Metadata
    from export.devices import Finding


class Device(StrEnum):
    """Of :data:`export.devices.DEVICES`."""

    CPU = "CPU"
    GPU = "GPU"
    NPU = "NPU"


@verb
def quantize(
    source: options.Fp32,
    directory: options.Folder,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="A name that `recipes` prints, or a recipe's .toml file.")
    ],
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What `calibrate` collected; some recipes need it.")
    ] = None,
    runtime_options: Annotated[
        bool,
        typer.Option(
            "--runtime-options/--no-runtime-options", help="Write OpenVINO's run-time options into the graphs."
        ),
    ] = True,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Derive a smaller folder from an FP32 one by a recipe."""
    from export.bundle import BUNDLE, Bundle
    from export.folders import refuse_existing
    from export.host import peak_rss_mb
    from quantize.pipeline import quantize_bundle
    from quantize.recipes import get_recipe
    from quantize.samples import CalibrationData

    start = time.monotonic()
    chosen = get_recipe(recipe)
    refuse_existing(directory, kind=BUNDLE, force=force)
    bundle = quantize_bundle(
        Bundle.open(source),
        directory,
        chosen,
        calibration=CalibrationData.open(calibration) if calibration else None,
        runtime_options=runtime_options,
        force=force,
    )
    data: dict[str, Any] = {
        "folder": str(bundle.path),
        "recipe": chosen.name,
        "bytes": bundle.size_bytes,
        "constants": bundle.metadata.constants,
        "wall_s": round(time.monotonic() - start, 2),
        "processor_s": round(time.process_time(), 2),
        "peak_rss_mb": peak_rss_mb(),
    }
    facts = {"recipe": chosen.name, "size": megabytes(bundle.size_bytes)}
    facts |= {f"{graph} constants": text for graph, text in constants_text(bundle.metadata.constants).items()}
    return Result(data, lambda: [facts_table(str(bundle.path), facts)], as_json)


@verb
def inspect(
    directory: options.Finished,
    device: Annotated[
        Device | None,
        typer.Option(
            case_sensitive=False,
            help="Only this device's lints; exit status 1 where they say that it cannot run the folder.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> Result:
    """Show what a folder holds and check it: file hashes, tensor names, shapes, metadata, vocabulary, devices."""
    from export.bundle import Bundle
    from export.contract import folder_problems
    from export.devices import NOT_RUN, device_findings

    bundle = Bundle.open(directory)
    metadata = bundle.metadata
    problems = folder_problems(bundle)
    found = device_findings(bundle)
    devices = {name: found[name] for name in ([device.value] if device else found)}
    blocked = {name: any(finding.blocks for finding in findings) for name, findings in devices.items()}
    data: dict[str, Any] = {
        "folder": str(bundle.path),
        "bytes": bundle.size_bytes,
        "problems": problems,
        "devices": {
            name: {"blocked": blocked[name], "checked": NOT_RUN, "findings": [vars(each) for each in findings]}
            for name, findings in devices.items()
        },
        "metadata": metadata.model_dump(),
    }

    def render() -> list[Any]:
        facts = {
            "model": f"{metadata.model} ({metadata.model_class})",
            "precision": metadata.precision,
            "recipe": metadata.recipe.get("name", "none"),
            "size": megabytes(bundle.size_bytes),
            "profile": metadata.profile,
            "encoder": metadata.encoder,
            "attention cache": metadata.cache,
            "attention context": metadata.att_context_size,
            "chunk": f"{metadata.chunk_ms:g} ms, {metadata.chunk_samples} samples",
            "chunks a step": "1; for recordings any number" if metadata.longer_steps else "1",
            "vocabulary": vocabulary_text(metadata),
            "prompts": ", ".join(metadata.prompt_dictionary or {}) or "none",
            **{f"{graph} constants": text for graph, text in constants_text(metadata.constants).items()},
            "checkpoint": metadata.checkpoint.get("sha256", "unknown"),
            "made with": ", ".join(f"{name} {version}" for name, version in metadata.tools.items()),
            "warnings": "; ".join(metadata.warnings) or "none",
            "problems": "; ".join(problems) or "none",
            **{f"{name} ({NOT_RUN})": findings_text(name, findings) for name, findings in devices.items()},
        }
        return [facts_table(str(bundle.path), facts)]

    return Result(data, render, as_json, exit_code=1 if problems or (device and blocked[device.value]) else 0)


def findings_text(device: str, findings: list[Finding]) -> str:
    """Findings of one device, those that block it first."""
    from export.devices import LINTS

    ordered = sorted(findings, key=lambda finding: not finding.blocks)
    texts = [f"{'' if each.blocks else 'note: '}{each.graph}: {each.text}" for each in ordered]
    return "; ".join(texts) or ("nothing found" if LINTS[device] else "no lints; the toolkit runs folders there")


def vocabulary_text(metadata: Metadata) -> str:
    """How many pieces and tags there are, and what was pruned."""
    pruned = metadata.vocabulary
    kept = f" of {pruned['checkpoint_pieces']} ({', '.join(pruned['scripts'])})" if pruned else ""
    return f"{metadata.vocab_size}{kept} pieces, {len(metadata.lang_tag_token_ids)} language tags"


def constants_text(constants: dict[str, dict[str, dict[str, int]]]) -> dict[str, str]:
    """Per graph, its constants' dtypes with their sizes, the largest first."""
    return {
        graph: ", ".join(
            f"{dtype} {megabytes(facts.get('bytes', 0))}"
            for dtype, facts in sorted(dtypes.items(), key=lambda item: -item[1].get("bytes", 0))
        )
        for graph, dtypes in constants.items()
    }
