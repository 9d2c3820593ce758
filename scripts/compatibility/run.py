"""The whole run: environments, workers, comparison."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import Bundle
from export.digest import ROOT
from export.errors import UserError
from export.host import machine
from export.languages import prompt_language
from export.progress import note, task
from export.removal import scratch_folder
from scripts.compatibility.environments import NEWEST, check_version, environment
from scripts.compatibility.table import Compatibility, Ran
from verify.data.identity import manifest_sha256
from verify.data.manifest import load_utterance
from verify.data.selection import choose_utterances

PRECISIONS = ("f32", "default")


def run(folders: Sequence[Path], output: Path, versions: Sequence[str], limit: int) -> Compatibility:
    """Run folders under versions of OpenVINO.

    Args:
        folders: finished folders of one checkpoint; a folder's own name stands for it.
        output: where the environments are made.
        versions: see :func:`scripts.compatibility.environments.environment`; the newest is added, since tokens are
            compared with its.
        limit: demo recordings, spread over the set.

    Raises:
        UserError: a folder is damaged, two have one name, their prompts differ, or pip fails.
    """
    for version in versions:
        check_version(version)
    bundles = [Bundle.open(folder, check="hashes") for folder in folders]
    names = [bundle.path.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(map(str, folders))}: two have one name; rename a folder")
    facts = [(bundle.metadata.sample_rate, bundle.metadata.prompt_dictionary) for bundle in bundles]
    if any(each != facts[0] for each in facts):
        raise UserError(
            f"{', '.join(map(str, folders))}: take other languages or rates; give folders of one checkpoint"
        )
    rate, prompts = facts[0]
    chosen = choose_utterances(None, limit, prompts=prompts)
    output.mkdir(parents=True, exist_ok=True)
    order = [NEWEST, *(version for version in dict.fromkeys(versions) if version != NEWEST)]
    results: dict[tuple[str, str], dict[str, Any]] = {}  # by name of version and folder
    with scratch_folder(output / "audio") as scratch, task("versions of OpenVINO", len(order)) as progress:
        audio = scratch / "audio.npz"
        np.savez(audio, **{str(i): load_utterance(each, rate) for i, each in enumerate(chosen)})  # type: ignore[arg-type]
        languages = [prompt_language(each.target_lang, prompts) for each in chosen]
        for version in order:
            note(f"OpenVINO {version}")
            python = environment(version, output / "environments")
            for name, bundle in zip(names, bundles, strict=True):
                work = {"folder": str(bundle.path.resolve()), "audio": str(audio.resolve()), "languages": languages}
                result = results[version, name] = transcribe(python, work | {"precisions": PRECISIONS})
                if version != NEWEST and not f"{result['openvino']}.".startswith(f"{version}."):
                    raise UserError(
                        f"{python}: runs OpenVINO {result['openvino']} and not {version}; start the script in a "
                        "checkout, so that no other environment's packages are found first"
                    )
            progress.advance()
    reference = results[NEWEST, names[0]]["openvino"]
    found = {}
    for (_, name), result in results.items():
        bundle = bundles[names.index(name)]
        for precision in PRECISIONS:
            ran = _compared(result["runs"][precision], results[NEWEST, name]["runs"][precision])
            key = (result["openvino"], name, precision)  # the newest may also be asked for by its number
            found[key] = Ran(
                folder=name, files=bundle.hashes, openvino=key[0], precision=precision, utterances=len(chosen), **ran
            )
    return Compatibility(
        compatibility=list(found.values()),
        reference=reference,
        manifest_sha256=manifest_sha256(chosen),
        machine=machine(),
    )


def transcribe(python: Path, work: dict[str, Any]) -> dict[str, Any]:
    """What the worker says under an interpreter; a worker that dies is an error of every precision.

    Raises:
        UserError: not even OpenVINO's version can be found.
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command: list[str | Path] = [python, "-m", "scripts.compatibility.worker"]
    done = subprocess.run(  # noqa: S603  # our own module
        command, input=json.dumps(work), capture_output=True, text=True, check=False, env=environ
    )
    if not done.returncode:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    asked: list[str | Path] = [python, "-c", "import openvino; print(openvino.get_version().split('-')[0])"]
    version = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    if version.returncode:
        raise UserError(f"{python}: cannot import OpenVINO; remove the environment {python.parents[1]} and try again")
    return {"openvino": version.stdout.strip(), "runs": {each: {"error": reason} for each in work["precisions"]}}


def _compared(run: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Recordings with the reference's tokens, or why it did not run; nothing where only the reference did not."""
    if "error" in run:
        return {"error": run["error"]}
    if "error" in reference:
        return {}
    return {"identical": sum(one == other for one, other in zip(run["tokens"], reference["tokens"], strict=True))}
