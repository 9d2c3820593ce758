"""The stages, each a process of its own: its peak memory is its own and goes back to the system with it."""

from __future__ import annotations

import ctypes
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.bundle import METADATA, Bundle
from export.errors import NemotronOVError, UserError
from export.folders import write_atomically
from export.progress import note
from scripts.regenerate.plan import FP32, Plan
from scripts.regenerate.state import REPORTS, STAGES, State

MEASURED_UTTERANCES, MEASURED_SECONDS = 12, 60.0
"""What the measured process of each folder transcribes, at most (but always one utterance)."""

Outcome = dict[str, Any]


class StageError(NemotronOVError):
    """A stage's process failed.

    Args:
        message: what happened, or nothing where the stage has printed its own ``error:`` line.
        exit_code: the stage's.
    """

    def __init__(self, message: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_stages(plan: Plan, state: State) -> dict[str, dict[str, Outcome]]:
    """Make, verify and measure every folder.

    Returns:
        For each folder: ``made`` (by export or quantize), ``recorded`` (NeMo's transcripts, for FP32), ``verified``
        and ``measured``; ``made`` is empty for a folder that an earlier run finished.
    """
    made = {name: make_folder(plan, state, name) for name in plan.folders}
    recorded = record_nemo(plan, state)
    return {
        name: {
            "made": made[name],
            "recorded": recorded if name == FP32 else {},
            "verified": verify_folder(plan, state, name),
            "measured": measure_folder(plan, state, name),
        }
        for name in plan.folders
    }


def make_folder(plan: Plan, state: State, name: str) -> Outcome:
    """Export or quantize one folder, unless it is there already, whole and of the same inputs."""
    folder = plan.output / name
    if is_finished(plan, name):
        note(f"keeping {folder}: finished by an earlier run")
        return {}
    options, settings = plan.options, plan.settings
    arguments = ["--force"] if folder.exists() else []
    if name == FP32:
        arguments += ["--encoder", options.encoder, "--cache", settings.cache, "--lookahead", str(settings.lookahead)]
        arguments += ["--chunk-ms", str(settings.chunk_ms)] if settings.chunk_ms is not None else []
        arguments += ["--force-lookahead"] if options.force_lookahead else []
        arguments += ["--languages", ",".join(options.languages)] if options.languages else []
        arguments += ["--scripts", ",".join(options.scripts)] if options.scripts else []
        return run_verb(state, "export", plan.checkpoint.path, folder, *arguments)
    return run_verb(state, "quantize", plan.output / FP32, folder, "--recipe", plan.recipe_argument(name), *arguments)


def is_finished(plan: Plan, name: str) -> bool:
    """Whether an earlier run left this folder whole, undamaged and made from the same inputs."""
    try:
        bundle = Bundle.open(plan.output / name)
    except UserError:
        return False
    recorded, options, settings = bundle.metadata, plan.options, plan.settings
    geometry, _ = plan.checkpoint.geometry(settings.lookahead, settings.chunk_ms, force=options.force_lookahead)
    wanted = {recipe.name: recipe.hash for recipe in plan.recipes}.get(name)  # the export has none
    same = (
        recorded.checkpoint.get("sha256") == plan.checkpoint.sha256
        and recorded.att_context_size == geometry.att_context_size
        and recorded.chunk_mel_frames == geometry.chunk_mel_frames
        and recorded.encoder == options.encoder
        and recorded.cache == settings.cache
        and recorded.vocabulary == plan.vocabulary
        and recorded.recipe.get("name") == name
        and recorded.recipe.get("hash") == wanted
    )
    return same and not bundle.damaged_files()


def record_nemo(plan: Plan, state: State) -> Outcome:
    """Keep NeMo's transcripts for FP32's comparison: at full size, both models in one process would take 11 GB."""
    arguments: list[str | Path] = ["--cache", plan.output / STAGES, "--lookahead", str(plan.settings.lookahead)]
    arguments += ["--chunk-ms", str(plan.settings.chunk_ms)] if plan.settings.chunk_ms is not None else []
    arguments += _audio(plan, FP32)
    return _cached(
        state, "recorded-nemo", _key(plan), lambda: run_verb(state, "record", plan.checkpoint.path, *arguments)
    )


def _audio(plan: Plan, name: str) -> list[str | Path]:
    """Options that say what a folder is compared on."""
    limit = plan.utterance_limit(name)
    return ["--manifest", plan.manifest, *(["--limit", str(limit)] if limit is not None else [])]


def verify_folder(plan: Plan, state: State, name: str) -> Outcome:
    """Compare a folder with its reference: FP32 with NeMo's own streaming, every other one with FP32."""
    folder = plan.output / name
    reference = plan.checkpoint.path if name == FP32 else plan.output / FP32
    arguments: list[str | Path] = ["--reference", reference, "--cache", plan.output / STAGES, *_audio(plan, name)]
    arguments += ["--report", plan.output / REPORTS / f"{name}.json"]
    arguments += [] if plan.score_text else ["--ignore-text"]
    files = [folder / METADATA] + ([reference / METADATA] if name != FP32 else [])
    return _cached(
        state,
        f"verified-{name}",
        _key(plan, *files),
        lambda: run_verb(state, "verify", folder, *arguments, may_fail=True),
    )


def measure_folder(plan: Plan, state: State, name: str) -> Outcome:
    """Transcribe a little in a fresh process: its encoder step time, speed and peak memory."""
    from verify.data.selection import choose_utterances, first_seconds

    folder = plan.output / name
    audio = first_seconds(
        choose_utterances(plan.manifest, MEASURED_UTTERANCES, prompts=plan.checkpoint.prompts), MEASURED_SECONDS
    )
    paths = [utterance.audio_filepath for utterance in audio]
    outcome = _cached(
        state,
        f"measured-{name}",
        _key(plan, folder / METADATA),
        lambda: run_verb(state, "transcribe", folder, *paths, "--runtime", "generation1"),
    )
    return {"peak_rss_mb": outcome["peak_rss_mb"], **outcome["speed"]}


def run_verb(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> Outcome:
    """Run ``nemotron-ov NAME … --json`` in a process of its own; its progress and errors go to our stderr.

    Args:
        state: holds the lock that the process inherits.
        name: the verb.
        arguments: its arguments.
        may_fail: take an exit status of 1 with a result as a result.

    Raises:
        StageError: it failed.
    """
    command = [sys.executable, "-m", "scripts.cli", name, *map(str, arguments), "--json"]
    start = time.monotonic()
    done = subprocess.run(  # noqa: S603  # our own verb
        command, stdout=subprocess.PIPE, text=True, check=False, pass_fds=(state.lock,), preexec_fn=die_with_parent
    )
    seconds = time.monotonic() - start
    if done.returncode < 0:
        cause = signal.Signals(-done.returncode).name
        remedy = "likely too little memory; close other programs" if cause == "SIGKILL" else "see above"
        raise StageError(f"{name} {' '.join(map(str, arguments[:2]))}: ended by {cause} ({remedy}), then run again")
    if done.returncode and not (may_fail and done.returncode == 1 and done.stdout.strip()):
        raise StageError(exit_code=done.returncode)
    outcome: Outcome = json.loads(done.stdout)
    return outcome | {"wall_seconds": round(seconds, 2)}


def die_with_parent() -> None:
    """On Linux, end this process when its parent is killed, so that no orphan goes on writing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _cached(state: State, name: str, key: str, compute: Callable[[], Outcome]) -> Outcome:
    """A stage's result from an earlier run of the same inputs, or computed now and kept for the next."""
    file = state.output / STAGES / f"{name}.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            outcome: Outcome = kept["outcome"]
            return outcome
    except (OSError, ValueError, KeyError, TypeError):
        pass
    outcome = compute()
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, json.dumps({"key": key, "outcome": outcome}))
    return outcome


def _key(plan: Plan, *files: Path) -> str:
    """Identity of a stage's inputs: the plan's and these files' content."""
    digest = hashlib.sha256(json.dumps(plan.inputs, sort_keys=True).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
