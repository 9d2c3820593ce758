"""What runs in a process of its own: ``python -m scripts.sweep.worker`` reads a
:class:`scripts.sweep.task.Task` and prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from export.bundle import Bundle
from quantize.recipe import Recipe
from scripts.processes import result_of_a_child
from scripts.sweep.task import Task


def work(task: Task) -> dict[str, Any]:
    """Do it."""
    return {"quantize": _quantize, "verify": _verify, "reference": _reference, "diverge": _diverge, "layers": _layers}[
        task.kind
    ](task)


def _quantize(task: Task) -> dict[str, Any]:
    from quantize.pipeline import quantize_bundle
    from quantize.samples import CalibrationData

    bundle = quantize_bundle(
        Bundle.open(task.source),
        task.folder,
        Recipe.model_validate(task.recipe),
        calibration=CalibrationData.open(task.calibration) if task.calibration else None,
        force=True,
    )
    encoder = bundle.graph_path("encoder").with_suffix(".bin").stat().st_size
    return {"bytes": bundle.size_bytes, "encoder_bytes": encoder, "constants": bundle.metadata.constants}


VERIFIED = {
    "utterances", "exact_match", "wer", "reference_wer", "wer_delta", "wer_delta_interval", "wer_between",
    "wer_between_interval", "between_errors", "checks", "per_language",
}  # fmt: skip
"""What a sweep keeps of a report; the checks are repeated with each recipe's own limits."""


def _verify(task: Task) -> dict[str, Any]:
    from verify.cluster import connected
    from verify.data.selection import choose_utterances
    from verify.limits import IDENTICAL, Limits
    from verify.pipeline import verify_bundle

    with connected(task.ray) as machines:
        source = Bundle.open(task.source)
        report = verify_bundle(
            Bundle.open(task.folder),
            source,
            choose_utterances(
                task.manifest,
                task.limit,
                prompts=source.metadata.prompt_dictionary,
                ignore_text=task.ignore_text,
                left_out=task.left_out,
            ),
            runtime=task.runtime,  # type: ignore[arg-type]  # one of Runtime
            threads=task.threads,
            cache=task.cache,
            limits=Limits(IDENTICAL, "those of each recipe, later"),
            machines=machines,
        )
    if task.report is not None:
        report.save(task.report)
    return report.model_dump(mode="json", include=VERIFIED) | {"runtime": report.target.runtime}


def _reference(task: Task) -> dict[str, Any]:
    from verify.data.selection import choose_utterances, spread
    from verify.scoring.divergence import record_reference_paths

    source = Bundle.open(task.source)
    prompts = source.metadata.prompt_dictionary
    left_out = task.left_out
    utterances = choose_utterances(task.manifest, task.limit, prompts=prompts, ignore_text=True, left_out=left_out)
    utterances = spread(utterances, task.paths)
    return {"cells": record_reference_paths(source, utterances, task.folder, threads=task.threads)}


def _diverge(task: Task) -> dict[str, Any]:
    from verify.scoring.divergence import diverge, encode, open_encoder, open_transducer, read_reference_paths

    bundle = Bundle.open(task.folder)
    encoder = open_encoder(bundle, task.threads)
    paths = list(read_reference_paths(task.reference_paths or task.folder))
    encoded = [encode(encoder, path) for path in paths]
    return vars(diverge(paths, encoded, open_transducer(bundle, task.threads)))


def _layers(task: Task) -> dict[str, Any]:
    from scripts.sweep.probe import probe

    return {"probed": probe(task)}


def main() -> None:
    """Read the task from stdin, print the result."""
    with result_of_a_child() as output:
        output.write(json.dumps(work(Task.model_validate_json(sys.stdin.read()))))


if __name__ == "__main__":
    main()
