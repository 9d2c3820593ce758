"""Addresses of results: the hash of everything that one depends on, code and machine among them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import Bundle
from export.digest import ROOT, code_sha256, digest
from export.host import machine
from quantize.groups import Group, step_for
from quantize.recipe import Recipe, Tolerance
from quantize.samples import graph_hashes
from quantize.steps import WeightCompression
from verify.data.identity import manifest_sha256
from verify.data.manifest import Utterance
from verify.data.selection import first_seconds, spread

if TYPE_CHECKING:
    from scripts.sweep.options import Plan

CODE = (
    *(f"{package}/**/*.py" for package in ("export", "quantize", "verify")),
    *(f"scripts/bench/{name}.py" for name in ("encoders", "plan", "report", "rounds", "worker")),
    *(f"scripts/sweep/{name}.py" for name in ("probe", "trial", "worker")),
)
"""The code that makes and measures; recipes have hashes of their own."""


def source_identity(source: Bundle) -> dict[str, Any]:
    """What all results depend on: the FP32 graphs, the tools and the code."""
    tools = ("nemotron-ov", "openvino", "nncf")
    return {
        "source": graph_hashes(source),
        "tools": {name: version(name) for name in tools},
        "code": code_identity(),
    }


def code_identity(root: Path = ROOT) -> str:
    """Identity of :data:`CODE`."""
    return code_sha256(*CODE, but="recipes.py", root=root)


def recipe_identity(plan: Plan, recipe: Recipe) -> str:
    """Address of a recipe's folder: what it does to which graphs, by which tools, with which calibration.

    The recipe's name and limits do not count, so that whatever does the same has the same results.
    """
    limits = Tolerance(exact_match=0.0, wer_delta=0.0)
    content = recipe.model_copy(update={"name": "x", "tolerance": limits}).hash
    return digest([plan.identity, content, _calibration(plan, recipe.needs_calibration)])


def stage_identity(plan: Plan, stage: str) -> str:
    """What a stage's result depends on beside the folder; integer kernels make the machine a part of every one."""
    options = plan.options
    facts: dict[str, Any] = {"machine": machine(), "threads": plan.threads, "runtime": options.runtime}
    if stage == "verified":
        facts["audio"] = manifest_sha256(plan.utterances)
        facts["names"] = [each.place for each in plan.utterances]  # its rows have them
        facts["texts"] = [[each.text, each.sentence_id] for each in plan.utterances] if plan.score_text else None
    elif stage == "measured":
        facts["repeats"] = options.repeats
        facts["audio"] = manifest_sha256(measured_audio(plan))
    elif stage == "diverged":
        facts["reference_paths"] = reference_paths_identity(plan)
    return digest([stage, facts])


def reference_paths_identity(plan: Plan) -> str:
    """Address of the reference paths: FP32's graphs, the utterances and the machine."""
    chosen = spread(plan.utterances, plan.reference_path_limit)
    return digest([plan.identity, manifest_sha256(chosen), plan.threads, machine()])


def probe_identity(plan: Plan, group: Group | None, groups: Sequence[Group], step: WeightCompression) -> str:
    """Address of a group's divergence: the paths, which operations are compressed and how; None for no group."""
    done: list[Any] = []
    if group is not None:
        alone = step_for(group, groups, step)
        done = [
            group.graph,
            group.operations,
            alone.model_dump(mode="json"),
            _calibration(plan, alone.needs_calibration),
        ]
    return digest([reference_paths_identity(plan), done])


def measured_audio(plan: Plan) -> list[Utterance]:
    """What the pipeline's time is taken on: utterances from all over the manifest, 20 seconds of them at most."""
    return first_seconds(spread(plan.utterances, 8), 20.0)


def _calibration(plan: Plan, needed: bool) -> str | None:
    return plan.calibration.sha256 if plan.calibration and needed else None
