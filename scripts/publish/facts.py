"""What is known of a set of folders: their files, their checkpoint, and the reports about exactly these files.

A report counts for a folder where the SHA-256 of every file that it records is that of the folder's file. Reports of
other files, an earlier build's among them, are left out and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from export import demo
from export.bundle import METADATA, Bundle
from export.checkpoint.config import RANDOM_WEIGHTS, identity
from export.contract import folder_problems
from export.digest import file_facts
from export.errors import UserError
from export.languages import LANGUAGE_TAG
from export.vocabulary import parts_of
from scripts.publish.reports import Compatible, Contents, Measurement, Verification, read_report
from verify.runs import Side

FP32 = "fp32"

FOLDER_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Folder:
    """A folder that is to be published."""

    name: str
    bundle: Bundle
    hashes: dict[str, str]  # SHA-256 by file
    verifications: tuple[Verification, ...]
    measurements: tuple[Measurement, ...]
    runs: tuple[Compatible, ...]

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
        return folder_problems(self.bundle)


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
        passed = [each for each in folder.verifications if each.passed]
        if not folder.is_quantized:
            what, proven = "NeMo", any(each.by_nemo for each in passed)
        else:
            what = "a reference that itself passed against NeMo" if passed else "their reference"
            # What the clients' loop may differ from NeMo is far more than a recipe may lose.
            strict = [each for each in passed if not each.by_nemo or each.report.target.runtime == "streaming"]
            proven = any(each.by_nemo or self._is_good(each.report.reference) for each in strict)
        if not proven:
            found = [f"{each.file.name} {each.shortcoming}" for each in folder.verifications if each.shortcoming]
            beside = f" ({', '.join(found)})" if found else ""
            reasons.append(f"{place}no report in which exactly these files passed against {what}{beside}; run `verify`")
        enough = max((each.report.utterances for each in passed), default=0)
        reasons += [
            f"{place}{each.file.name} does not decide by {each.report.utterances} utterances, and no report of as many "
            "passed; run `verify` on more"
            for each in folder.verifications
            if passed and each.report.passed is None and each.report.utterances > enough
        ]
        if not self.origin.sha256:
            reasons.append(
                f"{place}records no SHA-256 of its checkpoint, so nobody knows which model it is; export it anew"
            )
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
        reports: files of `verify --report`, `regenerate`, `bench --json` and `scripts.compatibility` besides
            ``report.json`` and ``reports/*.json`` in ``root``.

    Raises:
        UserError: no folders, folders of several checkpoints, or a file is no report.
    """
    bundles = _bundles(root, names)
    checkpoints = {identity(bundle.metadata.checkpoint) for bundle in bundles.values()}
    if len(checkpoints) > 1:
        raise UserError(
            f"{root}: {', '.join(bundles)} come from different checkpoints; choose those of one with --precision"
        )
    found = [file for file in (root / "report.json", *sorted((root / "reports").glob("*.json"))) if file.is_file()]
    files = list(dict.fromkeys(file.resolve() for file in (*found, *reports)))
    every = [read_report(file) for file in files]
    folders = tuple(_folder(name, bundle, every) for name, bundle in bundles.items())
    beside = _unpublished_fp32(root, bundles) if names else None
    sibling = None if beside is None else _folder(beside.path.name, beside, every)
    used = {each.file for folder in folders for each in folder.verifications}
    used |= {each.file for folder in folders for each in folder.measurements}
    used |= {each.file for folder in folders for each in folder.runs}
    return Facts(
        root,
        folders,
        _origin(next(iter(bundles.values()))),
        tuple(each for contents in every for each in contents.verifications if each.file not in used),
        tuple(file for file in files if file not in used),
        sibling,
    )


def _folder(name: str, bundle: Bundle, reports: Sequence[Contents]) -> Folder:
    """A folder with the reports about exactly its files."""
    hashes = bundle.hashes
    return Folder(
        name,
        bundle,
        hashes,
        tuple(each for report in reports for each in report.verifications if each.report.target.files == hashes),
        tuple(each for report in reports for files, each in report.measurements if files == hashes),
        tuple(each for report in reports for files, each in report.runs if files == hashes),
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
    odd = [name for name in names or there if not FOLDER_NAME.fullmatch(name)]
    if odd:
        raise UserError(f"{root / odd[0]}: folders are published by names of letters, digits, '.', '_', '-'; rename it")
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
            if not metadata.recipe.get("hash") and identity(metadata.checkpoint) == identity(checkpoint):
                return bundle
    return None


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
