"""One recipe: make its folder, compare it with FP32, measure it beside FP32; each in processes of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle import BUNDLE, Bundle
from export.errors import NemotronOVError, UserError
from export.progress import note
from export.removal import remove_folder
from export.results import read_result, write_result
from quantize.recipe import Recipe
from scripts.bench import plan as bench_plan
from scripts.bench.report import load_average, make_report
from scripts.bench.rounds import measure_rounds
from scripts.processes import ChildError, Stderr, run_module
from scripts.sweep.identity import measured_audio, recipe_identity, reference_paths_identity, stage_identity
from scripts.sweep.options import Plan
from scripts.sweep.store import Store
from scripts.sweep.task import Task
from verify.runtimes.names import best_runtime

Outcome = dict[str, Any]

BASE = "fp32"

_FIGURES = ("encoder_step_ms", "pipeline_rtfx", "peak_rss_mb", "load_s", "folder_mb", "encoder_mb", "chunk_ms")


class TrialError(NemotronOVError):
    """A recipe could not be made or measured; the message says why."""


@dataclass
class Trial:
    """A recipe's way through the stages, results of earlier runs taken where they are.

    Attributes:
        plan: what it is compared on.
        store: where results go.
        name: for people.
        recipe: what is tried.
        computed: whether anything had to be computed in this run.
    """

    plan: Plan
    store: Store
    name: str
    recipe: Recipe
    computed: bool = False

    def __post_init__(self) -> None:
        self.address = recipe_identity(self.plan, self.recipe)
        self.folder = self.store.folder(self.recipe.name, self.address)

    def made(self) -> Outcome:
        """Sizes and counts of constants."""
        return self._stored("made", "", self._make)

    def verified(self) -> Outcome:
        """Tokens and text against FP32's on the manifest."""
        return self._stored("verified", stage_identity(self.plan, "verified"), self._verify, writes=self.report)

    @property
    def report(self) -> Path:
        """Where the comparison is kept with its rows."""
        return self.store.result_file("report", self.address, stage_identity(self.plan, "verified"))

    def measured(self) -> Outcome:
        """Times, memory and size, of the folder (``build``) and of FP32 beside it (``base``), and their ratios."""
        return self._stored("measured", stage_identity(self.plan, "measured"), self._measure)

    def diverged(self) -> Outcome:
        """Teacher-forced divergence from FP32."""
        return self._stored("diverged", stage_identity(self.plan, "diverged"), self._diverge)

    def ensure_folder(self) -> Path:
        """The folder, whole; made where it is not there."""
        if self.recipe.name == BASE:
            return self.plan.source.path
        if Bundle.whole(self.folder) is None:
            self._make()
        return self.folder

    def drop_folder(self) -> None:
        """Free its room, unless somebody keeps something in it."""
        if self.recipe.name == BASE:
            return
        try:
            remove_folder(self.folder, BUNDLE, self.folder.parent)
        except UserError as error:
            note(f"kept: {error}")

    def _stored(
        self, stage: str, address: str, compute: Callable[[], Outcome], *, writes: Path | None = None
    ) -> Outcome:
        file = self.store.result_file(stage, self.address, address)
        found = read_result(file, writes=writes)
        if found is None:
            self.computed = True
            try:
                found = compute()
            except ChildError as error:
                raise TrialError(str(error)) from error
            write_result(file, found, writes=writes)
        return found

    def _task(self, kind: str, folder: Path, **more: Any) -> Task:
        options = self.plan.options
        return Task.model_validate(
            {
                "kind": kind,
                "source": self.plan.source.path,
                "folder": folder,
                "manifest": options.manifest,
                "limit": options.limit,
                "left_out": list(self.plan.unusable),
                "runtime": options.runtime,
                "threads": self.plan.threads,
            }
            | more
        )

    def _make(self) -> Outcome:
        if self.recipe.name == BASE:
            encoder = self.plan.source.graph_path("encoder").with_suffix(".bin").stat().st_size
            constants = self.plan.source.metadata.constants
            return {"bytes": self.plan.source.size_bytes, "encoder_bytes": encoder, "constants": constants}
        calibration = self.plan.calibration.path if self.plan.calibration and self.recipe.needs_calibration else None
        table = self.recipe.as_table()
        start = time.monotonic()
        made = run_task(self._task("quantize", self.folder, recipe=table, calibration=calibration), stderr="show")
        return made | {"seconds": round(time.monotonic() - start, 2)}

    def _verify(self) -> Outcome:
        task = self._task(
            "verify",
            self.ensure_folder(),
            ignore_text=not self.plan.score_text,
            cache=self.store.transcripts,
            report=self.report,
            ray=self.plan.options.ray,
        )
        return run_task(task, stderr="show")

    def _diverge(self) -> Outcome:
        return run_task(
            self._task("diverge", self.ensure_folder(), reference_paths=ensure_reference_paths(self.plan, self.store))
        )

    def _measure(self) -> Outcome:
        runtime = self.plan.options.runtime or best_runtime(self.plan.source)
        paths = {BASE: self.plan.source.path, self.name: self.ensure_folder()}
        builds = tuple(bench_plan.Build(name, "openvino", runtime, folder=path) for name, path in paths.items())
        options = bench_plan.Options(folders=tuple(paths.values()), repeats=self.plan.options.repeats)
        audio, unusable = tuple(measured_audio(self.plan)), self.plan.unusable
        beside = bench_plan.Plan(options, builds, None, audio, unusable, self.plan.threads)
        load = load_average()
        measured, failed = measure_rounds(beside, paths)
        if failed:
            raise TrialError("; ".join(f"{name} {reason}" for name, reason in failed.items()))
        report = make_report(beside, paths, measured, failed, load)
        rows = report["builds"]
        return {
            "base": {figure: rows[BASE][figure] for figure in _FIGURES},
            "build": {figure: rows[self.name][figure] for figure in _FIGURES},
            "ratios": rows[self.name]["ratios"],
            "runtime": runtime,
            "other_cores": report["machine"]["other_cores"],
        }


def ensure_reference_paths(plan: Plan, store: Store) -> Path:
    """FP32's reference paths for teacher forcing, recorded where they are not there yet.

    Raises:
        TrialError: they cannot be.
    """
    folder = store.reference_paths(reference_paths_identity(plan))
    if not folder.is_dir():
        task = Task(
            kind="reference",
            source=plan.source.path,
            folder=folder,
            manifest=plan.options.manifest,
            limit=plan.options.limit,
            paths=plan.reference_path_limit,
            left_out=list(plan.unusable),
            threads=plan.threads,
        )
        try:
            note(f"{run_task(task, stderr='show')['cells']} cells of FP32's own decoding recorded")
        except ChildError as error:
            raise TrialError(f"fp32: {error}") from error
    return folder


def run_task(task: Task, *, stderr: Stderr = "keep") -> Outcome:
    """Do a task in a process of its own.

    Raises:
        ChildError: it failed.
    """
    outcome: Outcome = run_module("scripts.sweep.worker", [], text=task.model_dump_json(), stderr=stderr)
    return outcome
