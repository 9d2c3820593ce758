"""``calibrate``: real inputs of a folder's graphs, stored once for every recipe that wants them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.errors import UserError
from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb

if TYPE_CHECKING:
    from verify.data.manifest import Utterance
    from verify.data.sets import DataSet


@verb
def calibrate(
    source: options.Fp32,
    directory: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The calibration set to write.")],
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="NeMo manifest to run. (default: the set beside the demo checkpoint)"),
    ] = None,
    data: options.Data = None,
    split: options.CalibrationSplit = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of recordings instead, prompted with 'auto'.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Encoder steps to keep, 6 MB each at full size. (default: 96)"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of what is kept.")] = 0,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(metavar="MANIFEST", help="Never use audio of this evaluation manifest. (always: the demo set)"),
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Add noise of 5 to 30 dB SNR to one stream in four.")
    ] = True,
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Collect calibration samples: audio through an FP32 folder, and what its graphs were given on the way.

    Exit status 3: some recording could not be used.
    """
    from export.bundle import Bundle
    from export.errors import exit_status
    from export.host import peak_rss_mb
    from quantize.samples import CALIBRATED
    from verify.collect import ENOUGH, SAMPLES, collect

    if split is options.SplitName.test:
        raise UserError("--split test: results are measured on it; calibrate on train or validation")
    bundle = Bundle.open(source)
    chosen = options.data_set(data, split)
    if chosen is not None:  # of the Hub no more than can be used, where each recording gives one step
        chosen = replace(chosen, default_split="validation", enough=ENOUGH * (samples or SAMPLES))
    utterances = _utterances(manifest, chosen, audio, bundle.metadata.prompt_dictionary)
    data_set = collect(
        bundle,
        utterances,
        directory,
        samples=samples or SAMPLES,
        seed=seed,
        exclude=exclude or [],
        noise=noise,
        force=force,
    )
    steps = data_set.origins("encoder")
    languages = {
        graph: dict(sorted(Counter(origin.language for origin in data_set.origins(graph)).items()))
        for graph in CALIBRATED
    }
    outcome: dict[str, Any] = {
        "folder": str(data_set.path),
        "sha256": data_set.sha256,
        "bytes": data_set.size_bytes,
        "samples": {graph: data_set.size(graph) for graph in CALIBRATED},
        "languages": languages,
        "warm": sum(origin.call > 0 for origin in steps),
        "noisy": sum(origin.snr_db is not None for origin in steps),
        "recordings": len(data_set.index.audio),
        "excluded": data_set.index.excluded,
        "unusable": data_set.unusable,
        "seed": seed,
        "peak_rss_mb": peak_rss_mb(),
    }
    facts: dict[str, object] = {
        f"{graph} samples": f"{data_set.size(graph)}: "
        + ", ".join(f"{language} {count}" for language, count in languages[graph].items())
        for graph in CALIBRATED
    }
    facts |= {
        "encoder samples after a stream's first": f"{outcome['warm']}; with noise added: {outcome['noisy']}",
        "recordings": outcome["recordings"],
        "left out, evaluation audio": outcome["excluded"],
        "size": megabytes(data_set.size_bytes),
        "sha256": data_set.sha256,
    }
    if data_set.unusable:
        facts["could not be used"] = "; ".join(data_set.unusable.values())
    code = exit_status(None if data_set.unusable else True)
    return Result(outcome, lambda: [facts_table(str(data_set.path), facts)], as_json, exit_code=code)


def _utterances(
    manifest: Path | None, data: DataSet | None, audio: Path | None, prompts: dict[str, int] | None
) -> list[Utterance]:
    from export.languages import DEFAULT_LANGUAGE
    from verify.collect import default_utterances
    from verify.data.layouts import folder_utterances
    from verify.data.manifest import read_manifest
    from verify.data.sets import choose_manifest, refuse_test_manifest

    if audio and (manifest or data):
        other = f"--manifest {manifest}" if manifest else f"--data {data.given if data else ''}"
        raise UserError(f"{other} and --audio {audio}: both given; choose one")
    if audio:
        return folder_utterances(audio, language=DEFAULT_LANGUAGE, text=False)
    if manifest:
        refuse_test_manifest(manifest)
    manifest = choose_manifest(manifest, data, prompts=prompts, text=False)
    return read_manifest(manifest, text=False, prompts=prompts) if manifest else default_utterances()
