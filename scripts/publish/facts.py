"""What is known of a set of folders: their files, their checkpoint, and the reports about exactly these files.

A report counts for a folder where the SHA-256 of every file that it records is that of the folder's file. Reports of
other files, an earlier build's among them, are left out and named.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from export import demo
from export.bundle import METADATA, Bundle
from export.checkpoint.config import RANDOM_WEIGHTS
from export.contract import contract_problems
from export.digest import file_facts
from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE, LANGUAGE_TAG
from export.vocabulary import parts_of
from quantize.recipes import RECIPES
from verify.limits import limits_for
from verify.report import Report
from verify.runs import Side

FP32 = "fp32"

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


@dataclass(frozen=True)
class Folder:
    """A folder that is to be published."""

    name: str
    bundle: Bundle
    hashes: dict[str, str]  # SHA-256 by file
    verifications: tuple[Verification, ...]
    measurements: tuple[Measurement, ...]

    @property
    def recipe(self) -> str:
        """Name of its recipe."""
        return str(self.bundle.metadata.recipe.get("name", self.name))

    @property
    def is_quantized(self) -> bool:
        """Whether a recipe changed it."""
        return bool(self.bundle.metadata.recipe.get("hash"))

    @property
    def encoder_bytes(self) -> int:
        """Size of the encoder's weights."""
        return self.bundle.graph_path("encoder").with_suffix(".bin").stat().st_size

    @cached_property
    def problems(self) -> list[str]:
        """What `inspect` says of it."""
        damaged = [f"{name}: differs from what was written" for name in self.bundle.damaged_files()]
        return damaged or contract_problems(self.bundle)


@dataclass(frozen=True)
class Origin:
    """The checkpoint of all folders."""

    name: str
    source: str | None
    file: str | None
    revision: str | None
    sha256: str | None
    kind: Literal["model", "demo", "random"]


@dataclass(frozen=True)
class Facts:
    """Folders, their checkpoint, the reports that count, and those that do not."""

    root: Path
    folders: tuple[Folder, ...]
    origin: Origin
    others: tuple[Verification, ...]  # about folders that are not published, which references may be
    unused: tuple[Path, ...]  # reports about no file of these folders
    sibling: Folder | None = None  # FP32, where it is not published, or in another repository

    @property
    def full(self) -> Folder | None:
        """FP32, published here or not."""
        return self.sibling if self.first.is_quantized else self.first

    @property
    def first(self) -> Folder:
        """The folder that speaks for what all have in common: FP32 where it is there."""
        return next((folder for folder in self.folders if not folder.is_quantized), self.folders[0])

    @cached_property
    def languages(self) -> list[str]:
        """ISO 639 codes that the model writes tags for, without those that a pruned vocabulary cannot write."""
        import langcodes

        metadata, pieces = self.first.bundle.metadata, self.first.bundle.vocabulary
        tags = [pieces[index][1:-1] for index in metadata.lang_tag_token_ids if LANGUAGE_TAG.fullmatch(pieces[index])]
        kept = metadata.vocabulary.get("scripts")
        found = {
            str(language.language)
            for language in map(langcodes.get, tags)
            if kept is None or set(parts_of(str(language.maximize().script))) <= set(kept)
        }
        return sorted(found)

    def reasons_against(self, folder: Folder) -> list[str]:
        """Why a folder may not be published; empty where a report passed it, and nothing failed it."""
        place = f"{self.root / folder.name}: "
        reasons = [place + problem for problem in folder.problems]
        failed = [each for each in folder.verifications if each.report.passed is False]
        reasons += [f"{place}{each.file.name}: FAILED, {'; '.join(each.report.reasons)}" for each in failed]
        lax = [each.file.name for each in folder.verifications if each.by_other_limits and each.report.passed]
        reasons += [f"{place}{name}: passed by other limits than the recipe's; run `verify` without" for name in lax]
        passed = [each for each in folder.verifications if each.passed]
        if not folder.is_quantized:
            if not any(each.by_nemo for each in passed):
                reasons.append(f"{place}no report in which exactly these files passed against NeMo; run `verify`")
        elif not any(each.by_nemo or self._is_good(each.report.reference) for each in passed):
            what = "a reference that itself passed against NeMo" if passed else "their reference"
            reasons.append(f"{place}no report in which exactly these files passed against {what}; run `verify`")
        if self.origin.kind == "random":
            reasons.append(f"{place}comes from random weights, whose tokens say nothing")
        return reasons

    def _is_good(self, side: Side) -> bool:
        """Whether the folder of this side is FP32 and passed against NeMo."""
        known = [each for folder in self.folders for each in folder.verifications] + list(self.others)
        candidates = [each for each in known if each.by_nemo and each.passed and each.report.target.files]
        return not side.recipe.get("hash") and any(each.report.target.files == side.files for each in candidates)


def gather(root: Path, names: Sequence[str] = (), reports: Sequence[Path] = ()) -> Facts:
    """Read folders and reports.

    Args:
        root: what `regenerate` wrote, or any folder that holds finished ones.
        names: of the folders in it; empty for all.
        reports: files of `verify --report`, `regenerate` and `bench --json` besides ``report.json`` and
            ``reports/*.json`` in ``root``.

    Raises:
        UserError: no folders, folders of several checkpoints, or a file is no report.
    """
    bundles = _bundles(root, names)
    checkpoints = {bundle.metadata.checkpoint.get("sha256") for bundle in bundles.values()}
    if len(checkpoints) > 1:
        raise UserError(
            f"{root}: {', '.join(bundles)} come from different checkpoints; choose those of one with --precision"
        )
    found = [file for file in (root / "report.json", *sorted((root / "reports").glob("*.json"))) if file.is_file()]
    verifications: list[Verification] = []
    measurements: list[tuple[dict[str, str], Measurement]] = []
    files = list(dict.fromkeys(file.resolve() for file in (*found, *reports)))
    for file in files:
        one, several = _read(file)
        verifications += one
        measurements += several
    folders = tuple(_folder(name, bundle, verifications, measurements) for name, bundle in bundles.items())
    beside = _unpublished_fp32(root, bundles) if names else None
    sibling = None if beside is None else _folder(beside.path.name, beside, verifications, measurements)
    used = {each.file for folder in folders for each in folder.verifications}
    used |= {each.file for folder in folders for each in folder.measurements}
    return Facts(
        root,
        folders,
        _origin(next(iter(bundles.values()))),
        tuple(each for each in verifications if each.file not in used),
        tuple(file for file in files if file not in used),
        sibling,
    )


def _folder(
    name: str, bundle: Bundle, verifications: list[Verification], measurements: list[tuple[dict[str, str], Measurement]]
) -> Folder:
    """A folder with the reports about exactly its files."""
    hashes = bundle.hashes
    return Folder(
        name,
        bundle,
        hashes,
        tuple(each for each in verifications if each.report.target.files == hashes),
        tuple(each for files, each in measurements if files == hashes),
    )


def _bundles(root: Path, names: Sequence[str]) -> dict[str, Bundle]:
    """The folders in a folder, FP32 first, then the largest first."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give what `regenerate` wrote")
    if (root / METADATA).is_file():
        raise UserError(
            f"{root}: is one folder; give the folder that holds it, {root.absolute().parent}, and "
            f"--precision {root.absolute().name}"
        )
    there = _names(root)
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(f"{root}: has no folder {', '.join(missing)}; it has {', '.join(there) or 'none'}")
    bundles = {name: Bundle.open(root / name) for name in names or there}
    if not bundles:
        raise UserError(f"{root}: holds no finished folders; give what `regenerate` wrote")
    quantized = {name: bool(bundle.metadata.recipe.get("hash")) for name, bundle in bundles.items()}
    return dict(sorted(bundles.items(), key=lambda item: (quantized[item[0]], -item[1].size_bytes)))


def _names(root: Path) -> list[str]:
    """Names of the finished folders in a folder."""
    return [each.name for each in sorted(root.iterdir()) if (each / METADATA).is_file() and each.name[0] != "."]


def _unpublished_fp32(root: Path, chosen: Mapping[str, Bundle]) -> Bundle | None:
    """The FP32 folder that the chosen ones come from, where it lies beside them and is not chosen itself."""
    checkpoint = next(iter(chosen.values())).metadata.checkpoint
    for name in _names(root):
        if name not in chosen and (bundle := Bundle.whole(root / name)) is not None:
            metadata = bundle.metadata
            if not metadata.recipe.get("hash") and metadata.checkpoint.get("sha256") == checkpoint.get("sha256"):
                return bundle
    return None


def _read(file: Path) -> tuple[list[Verification], list[tuple[dict[str, str], Measurement]]]:
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


def _origin(bundle: Bundle) -> Origin:
    recorded = bundle.metadata.checkpoint
    sha256 = recorded.get("sha256")
    kind: Literal["model", "demo", "random"] = "model"
    if recorded.get(RANDOM_WEIGHTS):
        kind = "random"
    elif demo.CHECKPOINT.is_file() and sha256 == file_facts(demo.CHECKPOINT)["sha256"]:
        kind = "demo"
    return Origin(
        bundle.metadata.model, recorded.get("source"), recorded.get("file"), recorded.get("revision"), sha256, kind
    )
