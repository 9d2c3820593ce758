"""The stages, each a process of its own: its peak memory is its own and goes back to the system with it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scripts.page
from export.bundle import METADATA, Bundle
from export.checkpoint.config import identity
from export.digest import code_sha256, digest, file_facts
from export.profiles import Settings
from export.progress import note
from export.removal import scratch_folder
from export.results import read_result, write_result
from scripts.processes import ChildError, run_module
from scripts.regenerate.plan import FP32, Plan
from scripts.regenerate.state import PAGE, REPORT, REPORTS, STAGES, State
from verify.runs import RUNTIME_CODE

if TYPE_CHECKING:
    from verify.data.manifest import Utterance

MEASURED_UTTERANCES, MEASURED_SECONDS = 12, 60.0
"""What the measured process of each folder transcribes, at most (but always one utterance)."""

Outcome = dict[str, Any]


def make_folders(plan: Plan, state: State) -> dict[str, Outcome]:
    """Export the FP32 folder and derive the others; for each, the result of export or quantize."""
    return {name: make_folder(plan, state, name) for name in plan.folders}


def judge_folders(plan: Plan, state: State, made: dict[str, Outcome]) -> dict[str, dict[str, Outcome]]:
    """Verify and measure every folder.

    Returns:
        For each folder: ``made``, ``recorded`` (the oracle's transcripts, for FP32), ``verified`` and ``measured``.
    """
    recorded = record_oracle(plan, state)
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
    if name not in state.pending and is_finished(plan, name):
        note(f"keeping {folder}: finished by an earlier run")
        return read_result(_result_file(state, f"made-{name}"), _made_key(plan, name)) or {}
    force = ["--force"] if folder.exists() else []
    if name == FP32:
        outcome = run_verb(state, "export", plan.checkpoint.path, folder, *plan.settings.arguments(), *force)
        plan.checkpoint.require_unchanged()  # the folder is of the file whose hash the state records
    else:
        source, recipe = plan.output / FP32, plan.recipe_argument(name)
        outcome = run_verb(state, "quantize", source, folder, "--recipe", recipe, *force)
    state.made(name)
    write_result(_result_file(state, f"made-{name}"), outcome, _made_key(plan, name))
    return outcome


def is_finished(plan: Plan, name: str) -> bool:
    """Whether an earlier run left this folder whole, undamaged and made from the same inputs."""
    bundle = Bundle.whole(plan.output / name)
    if bundle is None:
        return False
    recorded, settings = bundle.metadata, plan.settings
    geometry, _ = plan.checkpoint.geometry(settings.lookahead, settings.chunk_ms, force=settings.force_lookahead)
    wanted = {recipe.name: recipe.hash for recipe in plan.recipes}.get(name)  # the export has none
    return (
        identity(recorded.checkpoint) == plan.checkpoint.identity
        and recorded.att_context_size == geometry.att_context_size
        and recorded.chunk_mel_frames == geometry.chunk_mel_frames
        and recorded.encoder == settings.encoder
        and recorded.cache == settings.cache
        and recorded.knows_short_leads == (settings.encoder == "rewritten")  # else by an earlier version
        and "longer_steps" in recorded.model_fields_set  # and here
        and recorded.vocabulary == plan.vocabulary
        and recorded.recipe.get("name") == name
        and recorded.recipe.get("hash") == wanted
    )


def record_oracle(plan: Plan, state: State) -> Outcome:
    """Keep the oracle's transcripts for FP32's comparison: at full size, both models in one process take 11 GB."""
    steps = Settings(plan.settings.lookahead, plan.settings.chunk_ms).arguments()
    arguments = ["--cache", plan.output / STAGES, *steps, *_audio(plan, FP32), *_run_by(plan)]
    return _cached(
        state,
        "recorded-oracle",
        _key(plan),
        lambda: run_verb(state, "record", plan.checkpoint.path, *arguments, may_fail=True),
    )


def _audio(plan: Plan, name: str) -> list[str | Path]:
    """Options that say what a folder is compared on."""
    limit = plan.utterance_limit(name)
    return ["--manifest", plan.manifest, *(["--limit", str(limit)] if limit is not None else [])]


def _run_by(plan: Plan) -> list[str]:
    """Option that says who runs the checkpoint."""
    oracles = plan.options.oracles
    return ["--run-by", "both" if len(oracles) > 1 else oracles[0]]


def verify_folder(plan: Plan, state: State, name: str) -> Outcome:
    """Compare a folder with its reference: FP32 with the oracle's own streaming, every other one with FP32."""
    folder = plan.output / name
    reference = plan.checkpoint.path if name == FP32 else plan.output / FP32
    arguments: list[str | Path] = ["--reference", reference, "--cache", plan.output / STAGES, *_audio(plan, name)]
    report = plan.output / REPORTS / f"{name}.json"
    arguments += ["--report", report, "--no-page"]  # one page at the end shows all
    arguments += [] if plan.options.ray is None else ["--ray", plan.options.ray]
    arguments += [] if plan.score_text else ["--ignore-text"]
    if name == FP32:
        arguments += _run_by(plan)
    else:  # FP32's proof against the oracle is in f32
        arguments += ["--limits", plan.recipe_argument(name), "--precision", plan.options.precision]
    files = [folder / METADATA] + ([reference / METADATA] if name != FP32 else [])
    return _cached(
        state,
        f"verified-{name}",
        _key(plan, *files),
        lambda: run_verb(state, "verify", folder, *arguments, may_fail=True),
        writes=report,
    )


def measure_folder(plan: Plan, state: State, name: str) -> Outcome:
    """Transcribe a little in a fresh process: its encoder step time, speed and peak memory."""
    from verify.data.selection import choose_utterances, first_seconds, usable

    chosen = choose_utterances(plan.manifest, MEASURED_UTTERANCES, prompts=plan.checkpoint.prompts)
    folder, options = plan.output / name, ["--runtime", "generation1", "--precision", plan.options.precision]

    def measure() -> Outcome:
        with scratch_folder(state.output / STAGES / "measured") as scratch:
            good, _ = usable(chosen, plan.checkpoint.sample_rate)
            audio = _files(first_seconds(good, MEASURED_SECONDS), plan.checkpoint.sample_rate, scratch)
            return run_verb(state, "transcribe", folder, *audio, *options)

    outcome = _cached(state, f"measured-{name}", _key(plan, folder / METADATA), measure)
    return {"peak_rss_mb": outcome["peak_rss_mb"], **outcome["speed"]}


def _files(utterances: Sequence[Utterance], sample_rate: int, scratch: Path) -> list[Path]:
    """Audio files of utterances; of one that is a part of its file, a file of its own."""
    import soundfile

    from verify.data.manifest import load_utterance

    files = []
    for number, utterance in enumerate(utterances):
        file = utterance.audio_filepath
        if utterance.cut:
            file, content = scratch / f"{number}.wav", io.BytesIO()
            soundfile.write(content, load_utterance(utterance, sample_rate), sample_rate, "FLOAT", format="WAV")
            file.write_bytes(content.getvalue())  # libsndfile does not say that a disk is full
        files.append(file)
    return files


def write_page(plan: Plan, state: State) -> None:
    """Show what `report.json` and the comparisons say."""
    report, page = plan.output / REPORT, plan.output / PAGE
    compared = [plan.output / REPORTS / f"{name}.json" for name in plan.folders]
    code = sorted(each for each in Path(scripts.page.__file__).parent.iterdir() if each.is_file())
    file, key = _result_file(state, "written-page"), _key(plan, report, *compared, *code)
    if not page.exists() or read_result(file, key) is None:  # a page that somebody edited stays
        write_result(file, run_verb(state, "page", report, "--output", page), key)


def run_verb(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> Outcome:
    """Run ``nemotron-ov NAME … --json`` in a process of its own; its progress and errors go to our stderr.

    Args:
        state: holds the lock that the process inherits.
        name: the verb.
        arguments: its arguments.
        may_fail: take the exit status of a verdict with a result as a result.

    Raises:
        ChildError: it failed.
    """
    start = time.monotonic()
    try:
        outcome: Outcome = run_module(
            "scripts.cli", [name, *arguments, "--json"], stderr="ours", may_fail=may_fail, inherited=(state.lock,)
        )
    except ChildError as error:
        where = f"{name} {' '.join(map(str, arguments[:2]))}: "
        message = f"{where}{error}, then run again" if str(error) else ""
        raise ChildError(message, error.exit_code) from error
    return outcome | {"wall_seconds": round(time.monotonic() - start, 2)}


def _cached(
    state: State, name: str, key: str, compute: Callable[[], Outcome], *, writes: Path | None = None
) -> Outcome:
    """A stage's result from an earlier run of the same inputs whose file is as it was, or computed now and kept."""
    file = _result_file(state, name)
    outcome = read_result(file, key, writes=writes)
    if outcome is None:
        outcome = compute()
        write_result(file, outcome, key, writes=writes)
    return outcome


def _result_file(state: State, name: str) -> Path:
    return state.output / STAGES / f"{name}.json"


def _made_key(plan: Plan, name: str) -> str:
    """Identity of a folder and of what it was made from, whatever it is compared on."""
    return digest([plan.made_from, file_facts(plan.output / name / METADATA)])


def _key(plan: Plan, *files: Path) -> str:
    """Identity of a stage's inputs: the plan's, what transcribes and judges, and these files' content."""
    return digest([plan.inputs, code_sha256(*RUNTIME_CODE), [file_facts(file) for file in files]])
