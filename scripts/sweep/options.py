"""What a sweep or a ranking is asked for, and what its plan holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.bundle import Bundle
from quantize.grid import Variant
from quantize.recipe import Recipe
from quantize.samples import CalibrationData
from verify.data.manifest import Utterance
from verify.data.sets import DataSet
from verify.runtimes.names import Runtime

Keep = Literal["all", "front", "none"]

REFERENCE_PATHS = 8
"""Utterances of teacher-forced decoding, by default."""


@dataclass(frozen=True)
class Options:
    """What the user asked for; names as on the command line."""

    source: Path
    output: Path
    recipes: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    manifest: Path | None = None
    data: DataSet | None = None
    limit: int | None = None
    ignore_text: bool = False
    calibration: Path | None = None
    keep: Keep = "front"
    kl: bool = False
    repeats: int = 2
    threads: int | None = None
    runtime: Runtime | None = None
    ray: str | None = None  # where folders transcribe for their comparison
    # rank
    reference_paths: int | None = None
    keep_worst: int | None = None
    kl_budget: float | None = None
    extra_mb: float | None = None


@dataclass(frozen=True)
class Plan:
    """Options with everything in them resolved and checked.

    Attributes:
        options: as given.
        source: the FP32 folder.
        recipes: as chosen, in order.
        variants: rows of a sweep; of a ranking, the recipe itself.
        utterances: what WER is measured on; those that can be used, once the recordings are decoded.
        unusable: recordings that cannot be used, and why; none before they are decoded.
        score_text: whether the manifest's text means anything to this model.
        calibration: for recipes that need it; None also where the default set is still to be collected.
        threads: CPU threads of everything.
        identity: of everything that all results depend on.
    """

    options: Options
    source: Bundle
    recipes: tuple[Recipe, ...]
    variants: tuple[Variant, ...]
    utterances: tuple[Utterance, ...]
    unusable: dict[str, str]
    score_text: bool
    calibration: CalibrationData | None
    threads: int
    identity: dict[str, Any]

    @property
    def output(self) -> Path:
        """The folder that everything goes to."""
        return self.options.output

    @property
    def needs_calibration(self) -> bool:
        """Whether some recipe reads a calibration set."""
        return any(variant.recipe is not None and variant.recipe.needs_calibration for variant in self.variants)

    @property
    def reference_path_limit(self) -> int:
        """Utterances of teacher-forced decoding."""
        return min(self.options.reference_paths or REFERENCE_PATHS, len(self.utterances))
