"""Reports of `verify`, `regenerate` and `bench`: what they say, and about which files."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE
from quantize.recipes import RECIPES
from verify.limits import limits_for
from verify.report import Report

DEMO_AUDIO = "the toolkit's demo recordings (synthetic speech)"


@dataclass(frozen=True)
class Verification:
    """A `verify` report about a folder, and where it lies."""

    file: Path
    report: Report

    @property
    def has_text(self) -> bool:
        """Whether error rates against what was said are known."""
        return any(row.text for row in self.report.rows)

    @cached_property
    def audio(self) -> str:
        """What was transcribed: the demo recordings by their hash, else the set's hash."""
        languages = frozenset(row.language for row in self.report.rows)
        if _demo_sha256(len(self.report.rows), languages) == self.report.manifest_sha256:
            return DEMO_AUDIO
        return f"the audio set {self.report.manifest_sha256[:12]}"

    @property
    def by_nemo(self) -> bool:
        """Whether the reference is NeMo itself."""
        return self.report.reference.runtime == "nemo-streaming"

    @property
    def by_other_limits(self) -> bool:
        """Whether a built-in recipe, or FP32, was judged by limits that are not its own."""
        target, own = self.report.target, {recipe.hash for recipe in RECIPES.values()}
        is_ours = target.recipe.get("hash") in {None, *own}
        return is_ours and self.report.limits != limits_for(target, self.report.reference).tolerance

    @property
    def shortcoming(self) -> str | None:
        """Why it does not let a folder be published though nothing failed; None where it does, or it failed."""
        if self.report.passed is None:
            return "has too few utterances to decide"
        return "passed by other limits than the recipe's" if self.report.passed and self.by_other_limits else None

    @property
    def passed(self) -> bool:
        """Whether the report lets a folder be published."""
        return self.report.passed is True and not self.by_other_limits


class Measurement(BaseModel, frozen=True):
    """Speed and memory of a folder on one machine; None where a report does not say."""

    file: Path
    machine: str
    loop: str
    precision: str
    encoder_step_ms: float | None
    times_real_time: float | None
    peak_rss_mb: float | None


def read_report(file: Path) -> tuple[list[Verification], list[tuple[dict[str, str], Measurement]]]:
    """A report of any kind: comparisons, and measurements with the files that they are about.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); give a report of verify, regenerate or bench"
        ) from error
    except ValueError:
        content = None
    try:
        if isinstance(content, dict) and "rows" in content:
            return [Verification(file, Report.load(file))], []
        if isinstance(content, dict) and "folders" in content:
            return [], list(_regenerated(file, content))
        if isinstance(content, dict) and "builds" in content:
            return [], list(_benched(file, content))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be used ({found}); make the report again") from error
    raise UserError(f"{file}: is no report of verify, regenerate or bench; move it away, or give another")


def _regenerated(file: Path, content: dict[str, Any]) -> Iterable[tuple[dict[str, str], Measurement]]:
    for row in content["folders"]:
        yield (
            row.get("files", {}),
            Measurement(
                file=file,
                machine=machine_name(content["machine"]),
                loop="generation1",
                precision="f32",
                encoder_step_ms=row["encoder_step_ms"],
                times_real_time=row["times_real_time"],
                peak_rss_mb=row["peak_rss_mb"],
            ),
        )


def _benched(file: Path, content: dict[str, Any]) -> Iterable[tuple[dict[str, str], Measurement]]:
    for row in content["builds"].values():
        yield (
            row.get("files", {}),
            Measurement(
                file=file,
                machine=machine_name(content["machine"]),
                loop=row["runtime"] + (f", batch {row['batch']}" if row["batch"] > 1 else ""),
                precision=row["precision"],
                encoder_step_ms=row["encoder_step_ms"],
                times_real_time=row["pipeline_rtfx"],
                peak_rss_mb=row["peak_rss_mb"],
            ),
        )


@functools.cache
def _demo_sha256(count: int, languages: frozenset[str]) -> str:
    """Hash of so many demo recordings, as a model that has these languages is given them."""
    from verify.data.selection import choose_utterances
    from verify.runs import manifest_sha256

    prompts = dict.fromkeys((*sorted(languages), DEFAULT_LANGUAGE), 0)
    return manifest_sha256(choose_utterances(None, count, prompts=prompts))


def machine_name(facts: dict[str, Any]) -> str:
    """A machine as the card names it."""
    return f"{facts['cpu']}, {facts['cores']} cores ({' '.join(facts['flags'])})"
