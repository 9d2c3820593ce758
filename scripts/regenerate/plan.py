"""What is going to be done, from what, and whether it can be: every check before anything is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.archive import weights_place
from export.checkpoint.hub import Format
from export.digest import digest
from export.errors import UserError
from export.host import installed_version
from export.profiles import Asked, Settings
from export.vocabulary import prune_vocabulary
from scripts.disk import SLACK, checkpoint_weights, recipe_bytes, require_room

if TYPE_CHECKING:
    from quantize.recipe import Recipe
    from verify.data.sets import DataSet
    from verify.runs import Oracle

FP32 = "fp32"
"""The exported folder's name; every recipe is derived from it."""

DEFAULT_RECIPES = ("fp16", "int8")

STAND_IN_LIMIT = 60
"""Utterances of the demo set that stand in where a checkpoint other than the demo one comes without a manifest.

Identical tokens are a promise that fewer could not show, see :data:`verify.verdict.ENOUGH_ALIKE`.
"""

_TOOLS = ("nemotron-ov", "openvino", "nncf", "nemo-toolkit", "torch")


@dataclass(frozen=True)
class Options:
    """What the user asked for; names as on the command line.

    Attributes:
        oracles: who runs the checkpoint that FP32 is compared with; a second oracle, if any, after it (``--run-by``).
        folders_only: make the folders and transcribe nothing.
    """

    output: Path
    checkpoint: str | None = None
    revision: str | None = None
    layout: Format | None = None
    recipes: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)
    manifest: Path | None = None
    data: DataSet | None = None
    limit: int | None = None
    nemo_limit: int | None = None
    precision: str = "f32"
    oracles: tuple[Oracle, ...] = ("nemo",)
    folders_only: bool = False
    force: bool = False
    ray: str | None = None  # where folders transcribe for their verification


@dataclass(frozen=True)
class Plan:
    """Options with everything in them resolved and checked.

    Attributes:
        options: as given.
        settings: of the export: those of the profile, or the single ones given.
        checkpoint: the opened checkpoint.
        recipes: what is derived from the FP32 folder, in order.
        manifest: what is transcribed.
        limit: how many of its utterances, or None for all.
        score_text: whether the manifest's text means anything to this checkpoint.
        vocabulary: what the folders' metadata will say about pruned pieces.
        made_from: identity of everything the folders depend on.
        compared_on: identity of what only their verification depends on besides.
    """

    options: Options
    settings: Settings
    checkpoint: Checkpoint
    recipes: tuple[Recipe, ...]
    manifest: Path
    limit: int | None
    score_text: bool
    vocabulary: dict[str, Any]
    made_from: dict[str, Any]
    compared_on: dict[str, Any]

    @property
    def inputs(self) -> dict[str, Any]:
        """Identity of everything the results depend on."""
        return self.made_from | self.compared_on

    @property
    def output(self) -> Path:
        """The folder that everything goes to."""
        return self.options.output

    def recipe_argument(self, name: str) -> str:
        """How the user gave the recipe of a folder: its name, or the path of its file."""
        from quantize.recipes import get_recipe

        return next((given for given in self.options.recipes if get_recipe(given).name == name), name)

    def utterance_limit(self, name: str) -> int | None:
        """How many utterances a folder is compared on; NeMo, FP32's reference, may get fewer."""
        limits = [limit for limit in (self.limit, self.options.nemo_limit if name == FP32 else None) if limit]
        return min(limits, default=None)

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders to make, FP32 first."""
        return (FP32, *(recipe.name for recipe in self.recipes))


def make_plan(options: Options) -> Plan:
    """Resolve and check everything.

    Raises:
        UserError: checkpoint, lookahead, chunk, recipe or manifest cannot be used.
    """
    from quantize.recipes import get_recipe
    from verify.data.identity import manifest_sha256
    from verify.data.manifest import read_manifest

    wanted = dict.fromkeys(options.recipes or DEFAULT_RECIPES)  # each once, in the order given
    recipes = tuple(get_recipe(name) for name in wanted if name != FP32)
    for recipe in recipes:
        if recipe.needs_calibration:
            raise UserError(
                f"--recipe {recipe.name}: needs calibration data, which regenerate does not collect; run "
                "`nemotron-ov calibrate`, then `nemotron-ov quantize --calibration`"
            )
    if not options.folders_only:
        _require_oracles(options.oracles)
    checkpoint = open_checkpoint(options.checkpoint, options.revision, options.layout)
    settings = options.asked.settings(checkpoint)
    checkpoint.geometry(settings.lookahead, settings.chunk_ms, force=settings.force_lookahead)
    pruning = prune_vocabulary(checkpoint, languages=settings.languages, scripts=settings.scripts)
    manifest, limit, score_text = _manifest(options, checkpoint)
    utterances = read_manifest(manifest, text=score_text, prompts=checkpoint.prompts)
    made_from = {
        "checkpoint": checkpoint.sha256,
        **({"configuration": checkpoint.config_sha256} if checkpoint.config_sha256 else {}),
        "lookahead": settings.lookahead,
        "chunk_ms": settings.chunk_ms,
        "cache": settings.cache,
        "encoder": settings.encoder,
        "vocabulary": pruning.record,
        "recipes": {recipe.name: recipe.hash for recipe in recipes},
        "oracle": settings.oracle,
        "tools": {name: installed_version(name) for name in _TOOLS},
    }
    compared_on = {
        "limits": {recipe.name: recipe.tolerance.model_dump() for recipe in recipes},  # which hashes leave out
        "manifest": digest([manifest_sha256(utterances), [[each.text, each.sentence_id] for each in utterances]]),
        "limit": limit,
        "nemo_limit": options.nemo_limit,
        "precision": options.precision,
        "score_text": score_text,
        "run_by": list(options.oracles),
        "run_by_tools": {name: installed_version(name) for name in _packages(options.oracles)},
    }
    return Plan(
        options, settings, checkpoint, recipes, manifest, limit, score_text, pruning.record, made_from, compared_on
    )


def _packages(oracles: Sequence[Oracle]) -> list[str]:
    """Distributions of the oracles that are no tools of every run."""
    from verify.runs import ORACLE_PACKAGES

    return [name for oracle in oracles if oracle != "nemo" for name in ORACLE_PACKAGES[oracle]]


def _require_oracles(oracles: Sequence[Oracle]) -> None:
    """Refuse what could only fail once the folders are made.

    Raises:
        UserError: an oracle is not installed.
    """
    from verify.runs import ORACLE_NAMES, ORACLE_PACKAGES

    for oracle in oracles:
        if any(installed_version(name) is None for name in ORACLE_PACKAGES[oracle]):
            other = next(name for name in ORACLE_PACKAGES if name != oracle)
            raise UserError(
                f"{ORACLE_NAMES[oracle]}, which {FP32} is compared with, is not installed; pip install "
                f"'nemotron-ov[{oracle}]', or add --run-by {other} or --folders-only"
            )


def _manifest(options: Options, checkpoint: Checkpoint) -> tuple[Path, int | None, bool]:
    """Manifest, limit, and whether its text can be scored: the demo set means nothing to another model."""
    from export import demo
    from verify.data.manifest import default_manifest
    from verify.data.sets import choose_manifest

    manifest = choose_manifest(options.manifest, options.data, prompts=checkpoint.prompts)
    if manifest is not None:
        return manifest, options.limit, True
    if demo.CHECKPOINT.exists() and os.path.samefile(checkpoint.path, demo.CHECKPOINT):
        return default_manifest(), options.limit, True
    return default_manifest(), options.limit or STAND_IN_LIMIT, False


def check_disk(plan: Plan, again: Collection[str] = ()) -> None:
    """Compare the room for the folders, and for the unpacked checkpoint, with what is free.

    Args:
        plan: what is going to be made.
        again: folders that are made again; each old folder stays until the new one is whole.

    Raises:
        UserError: too little, naming the need, what is there and the remedy.
    """
    size = plan.checkpoint.weights_bytes
    weights = checkpoint_weights(size)
    folders = {FP32: float(sum(weights.values()))} | {each.name: recipe_bytes(each, weights) for each in plan.recipes}
    need = taken = 0.0
    for name, bytes_ in folders.items():
        folder = plan.output / name
        if folder.is_dir() and name not in again:
            continue
        need = max(need, taken + bytes_)
        taken += bytes_ - sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    temporary = Path(tempfile.gettempdir())  # a compressed .nemo file is unpacked there
    mapped = plan.checkpoint.shards or weights_place(plan.checkpoint.path)
    needs = [(plan.output, need + SLACK), (temporary, 0.0 if mapped else float(size))]
    require_room(needs, "choose another --output, or set TMPDIR")
