"""What is going to be tried, on what, and whether it can be: every check before anything is written."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from export.bundle import GRAPHS, Bundle, file_facts
from export.errors import UserError
from quantize.calibration import CalibrationData, graph_hashes
from quantize.recipe import GraphRecipe, Recipe, Tolerance
from quantize.recipes import RECIPES, get_recipe
from scripts.bench.plan import default_threads
from scripts.regenerate.plan import existing_parent
from scripts.selection import choose_utterances
from scripts.sweep.grid import Variant, expand, parse_axis
from verify.manifest import Utterance
from verify.runs import Runtime, manifest_sha256

Keep = Literal["all", "front", "none"]

LESSONS = 8
"""Utterances of teacher-forced decoding, where nothing is said."""

_SLACK = 32_000_000  # bytes: results, lessons, transcripts
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What the user asked for; names as on the command line."""

    source: Path
    output: Path
    recipes: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    manifest: Path | None = None
    limit: int | None = None
    ignore_text: bool = False
    calibration: Path | None = None
    keep: Keep = "front"
    kl: bool = False
    repeats: int = 2
    threads: int | None = None
    runtime: Runtime | None = None
    # --per-layer
    lessons: int | None = None
    draw: int | None = None
    kl_budget: float | None = None
    # --search
    budget: float = 0.3
    trials: int = 20
    objective: Literal["size", "step"] = "size"
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """Options with everything in them resolved and checked.

    Attributes:
        options: as given.
        source: the FP32 folder.
        recipes: as chosen, in order.
        variants: rows of a sweep; none in the other modes.
        utterances: what WER is measured on.
        score_text: whether the manifest's text means anything to this model.
        calibration: for recipes that need it.
        threads: CPU threads of everything.
        identity: of everything that all results depend on.
    """

    options: Options
    source: Bundle
    recipes: tuple[Recipe, ...]
    variants: tuple[Variant, ...]
    utterances: tuple[Utterance, ...]
    score_text: bool
    calibration: CalibrationData | None
    threads: int
    identity: dict[str, Any]

    @property
    def output(self) -> Path:
        """The folder that everything goes to."""
        return self.options.output

    @property
    def lesson_limit(self) -> int:
        """Utterances of teacher-forced decoding."""
        return min(self.options.lessons or LESSONS, len(self.utterances))


def make_plan(options: Options, *, default: Sequence[str] | None = None, extra: str = "matplotlib") -> Plan:
    """Resolve and check everything.

    Args:
        options: as given.
        default: recipes where none is given; None for every one that can be made.
        extra: a module that the mode needs beyond the toolkit's own.

    Raises:
        UserError: folder, recipe, grid, manifest or calibration cannot be used, or a library is missing.
    """
    if find_spec(extra) is None:
        raise UserError(f"sweep: {extra} is not installed; pip install 'nemotron-ov[sweep]'")
    source = _source(options.source)
    calibration = CalibrationData.open(options.calibration) if options.calibration else None
    if calibration is not None:
        calibration.check_fits(source)
    recipes = _recipes(options, default, calibration)
    variants = expand(recipes, [parse_axis(text) for text in options.grid])
    _check_calibration(variants, options, calibration)
    utterances = choose_utterances(options.manifest, options.limit)
    score_text = not options.ignore_text and _text_counts(options, source, utterances)
    return Plan(
        options,
        source,
        tuple(recipes),
        tuple(variants),
        tuple(utterances),
        score_text,
        calibration,
        options.threads or default_threads(),
        _identity(source),
    )


def _source(path: Path) -> Bundle:
    bundle = Bundle.open(path)
    name = bundle.metadata.recipe.get("name", bundle.metadata.precision.lower())
    if name != "fp32":
        raise UserError(f"{path}: was made by recipe {name}; give the fp32 folder, every recipe starts from it")
    damaged = bundle.damaged_files()
    if damaged:
        raise UserError(f"{path / damaged[0]}: differs from what was written; export the folder again")
    return bundle


def _recipes(options: Options, default: Sequence[str] | None, calibration: CalibrationData | None) -> list[Recipe]:
    if default is None:
        able = [name for name, recipe in RECIPES.items() if calibration is not None or not recipe.needs_calibration]
        default = [name for name in able if name != "fp32"]
    recipes = [get_recipe(name) for name in dict.fromkeys(options.recipes or default)]
    for index, recipe in enumerate(recipes):
        if any(other.name == recipe.name for other in recipes[:index]):
            raise UserError(f"--recipe {recipe.name}: two recipes have this name; rename one in its file")
    return recipes


def _check_calibration(variants: Sequence[Variant], options: Options, calibration: CalibrationData | None) -> None:
    for variant in variants:
        if variant.recipe is not None and variant.recipe.needs_calibration and calibration is None:
            raise UserError(
                f"recipe {variant.name}: needs calibration data; add --calibration DIR, made by "
                f"`nemotron-ov calibrate {options.source} DIR`, or leave the recipe out"
            )


def _text_counts(options: Options, source: Bundle, utterances: Sequence[Utterance]) -> bool:
    """Whether text can be scored: there is some, and the demo set's means nothing to another model."""
    from export import demo

    if options.manifest is None and demo.CHECKPOINT.exists():
        return bool(source.metadata.checkpoint.get("sha256") == file_facts(demo.CHECKPOINT)["sha256"])
    return any(utterance.text.strip() for utterance in utterances)


def _identity(source: Bundle) -> dict[str, Any]:
    tools = ("nemotron-ov", "openvino", "nncf")
    return {
        "source": graph_hashes(source),
        "tools": {name: version(name) for name in tools},
        "code": _code_sha256(),
    }


@functools.cache
def _code_sha256() -> str:
    """Identity of the code that makes and measures; recipes have hashes of their own."""
    files = [file for package in ("quantize", "verify") for file in sorted((_ROOT / package).rglob("*.py"))]
    files += [_ROOT / "scripts" / "bench" / "worker.py", _ROOT / "scripts" / "sweep" / "teacher.py"]
    digest = hashlib.sha256()
    for file in files:
        if file.name != "recipes.py":
            digest.update(file.read_bytes())
    return digest.hexdigest()


def recipe_identity(plan: Plan, recipe: Recipe) -> str:
    """Address of a recipe's folder: what it does to which graphs, by which tools, with which calibration.

    The recipe's name and limits do not count, so that a grid's value which a recipe has anyway is the recipe itself.
    """
    limits = Tolerance(exact_match=0.0, wer_delta=0.0)
    content = recipe.model_copy(update={"name": "x", "tolerance": limits}).hash
    used = plan.calibration.sha256 if plan.calibration and recipe.needs_calibration else None
    return digest([plan.identity, content, used])


def stage_identity(plan: Plan, stage: str) -> str:
    """What a stage's result depends on beside the folder."""
    options = plan.options
    facts: dict[str, Any] = {"threads": plan.threads, "runtime": options.runtime}
    if stage == "verified":
        facts["audio"] = manifest_sha256(plan.utterances)
        facts["texts"] = [utterance.text for utterance in plan.utterances] if plan.score_text else None
    elif stage == "measured":
        from verify.resources import machine

        facts |= {"machine": machine(), "repeats": options.repeats}
        facts["audio"] = [file_facts(each.audio_filepath)["sha256"] for each in measured_audio(plan)]
    elif stage == "diverged":
        facts["lessons"] = lessons_identity(plan)
    return digest([stage, facts])


def lessons_identity(plan: Plan) -> str:
    """Address of the lessons: FP32's graphs and the utterances."""
    chosen = choose_utterances(plan.options.manifest, plan.lesson_limit)
    return digest([plan.identity, manifest_sha256(chosen), plan.threads])


def measured_audio(plan: Plan) -> list[Utterance]:
    """What the pipeline's time is taken on: utterances from all over the manifest, 20 seconds of them at most."""
    from scripts.selection import first_seconds, spread

    return first_seconds(spread(plan.utterances, 8), 20.0)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def check_room(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """Compare the room that folders can take at most with what is free.

    ``--keep none`` holds one at a time; the others may end with all, because nobody knows the front before.

    Raises:
        UserError: too little, naming the need, what is there and the remedy.
    """
    sizes = {graph: plan.source.graph_path(graph).with_suffix(".bin").stat().st_size for graph in GRAPHS}
    estimates = [
        sum(_share(part) * sizes[graph] for graph, part in recipe.graphs.items()) + _SLACK / 4 for recipe in recipes
    ]
    if not estimates:
        return
    kept = max(estimates) if plan.options.keep == "none" else sum(estimates)
    need = kept + 0.5 * max(sizes.values()) + _SLACK  # half-precision copy of the graph at work
    free = shutil.disk_usage(existing_parent(plan.output)).free
    if free < need:
        remedy = "choose another --output" if plan.options.keep == "none" else "use --keep none, another --output"
        raise UserError(
            f"{plan.output}: up to {need / 1e9:.2f} GB of disk are needed and {free / 1e9:.2f} GB are free; "
            f"free some, {remedy}, or fewer recipes"
        )


def _share(part: GraphRecipe) -> float:
    """Upper estimate of a graph's size as a share of FP32's."""
    bits = 32 if part.precision == "f32" else 16
    if part.kinds:
        backups = [step.backup.bits for step in part.compression if step.backup is not None]
        bits = max([kind.bits for kind in part.kinds] + backups)
    return bits / 32 + (0.05 if bits < 16 else 0.0)
