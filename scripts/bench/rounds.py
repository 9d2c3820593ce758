"""Every build in turn, again and again, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from export.progress import note
from scripts.bench.plan import Build, Plan
from scripts.bench.worker import Measurement, Task
from scripts.processes import ChildError, run_module

Measured = dict[str, list[Measurement]]


def measure_rounds(plan: Plan, paths: Mapping[str, Path]) -> tuple[Measured, dict[str, str]]:
    """Measure the builds at ``paths``, ``repeats`` times each, taking turns.

    Returns:
        Each build's measurements, and why some could not be measured; those are left out of later rounds.
    """
    builds = [build for build in plan.builds if build.name in paths]
    measured: Measured = {build.name: [] for build in builds}
    seconds: dict[str, list[float]] = {build.name: [] for build in builds}
    failed: dict[str, str] = {}
    for turn in range(plan.options.repeats):
        for build in builds:
            if build.name in failed:
                continue
            start = time.monotonic()
            try:
                measured[build.name].append(_measure(plan, build, paths[build.name]))
            except ChildError as error:
                failed[build.name] = f"could not be measured: {error}"
                note(f"{build.name}: {failed[build.name]}")
                continue
            seconds[build.name].append(time.monotonic() - start)
            left = time_left(seconds, [each for each in seconds if each not in failed], plan.options.repeats)
            note(f"round {turn + 1} of {plan.options.repeats}, {build.name}: {seconds[build.name][-1]:.1f} s{left}")
    return {name: found for name, found in measured.items() if name not in failed}, failed


def time_left(seconds: Mapping[str, list[float]], names: list[str], repeats: int) -> str:
    """``, about 3 min left``, from what measurements have taken so far; nothing at the end."""
    done = [each for taken in seconds.values() for each in taken]
    left = 0.0
    for name in names:
        known = seconds[name] or done
        left += (repeats - len(seconds[name])) * sum(known) / len(known)
    if not left:
        return ""
    return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"


def _measure(plan: Plan, build: Build, path: Path) -> Measurement:
    task = Task(
        engine=build.engine,
        runtime=build.runtime,
        path=path,
        threads=plan.threads,
        utterances=list(plan.utterances),
        batch=build.batch,
        precision=build.precision,
        dtype=build.recipe,
        lookahead=build.lookahead,
        tokens_per_second=plan.options.tokens_per_second,
    )
    return Measurement.model_validate(run_module("scripts.bench.worker", [], text=task.model_dump_json()))
