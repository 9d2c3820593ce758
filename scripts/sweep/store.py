"""The output folder: whose it is, that one run at a time writes it, and results by the address of their inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.digest import digest
from export.errors import UserError
from export.folders import write_atomically
from export.removal import clear_leftovers
from export.results import read_result, write_result
from quantize.recipe import Recipe
from quantize.recipe_file import keep_recipe, text_sha256
from scripts.claim import claimed_folder
from scripts.sweep.options import Options, Plan

FOLDERS = "folders"
_STATE, _LOCK = ".sweep.json", ".sweep.lock"
_WRITTEN = ".recipes.json"
_HIDDEN, _PATHS, _TRANSCRIPTS = ".results", ".reference-paths", ".transcripts"


@dataclass(frozen=True)
class Store:
    """An output folder that this run holds."""

    output: Path

    def folder(self, name: str, address: str) -> Path:
        """Where a recipe's folder lies."""
        return self.output / FOLDERS / f"{name}-{address[:8]}"

    def reference_paths(self, address: str) -> Path:
        """Where reference paths of this address lie."""
        return self.output / _PATHS / address[:16]

    @property
    def transcripts(self) -> Path:
        """Recorded runs, FP32's among them."""
        return self.output / _TRANSCRIPTS

    def result_file(self, stage: str, *addresses: str) -> Path:
        """The file of a stage's result for these inputs."""
        return self.output / _HIDDEN / f"{stage}-{digest(addresses)[:24]}.json"

    def keep_recipe(self, recipe: Recipe, file: Path) -> None:
        """Write a recipe that this run found, also over one that an earlier run wrote here and nobody has edited.

        Raises:
            UserError: a file with another text is there, or it cannot be written.
        """
        record = self.output / _WRITTEN
        found = (read_result(record) or {}).get("sha256")
        earlier = [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
        write_result(record, {"sha256": sorted({*earlier, text_sha256(recipe)})})  # first: a kill may come between
        keep_recipe(recipe, file, earlier)


@contextmanager
def claimed(plan: Plan) -> Iterator[Store]:
    """Take the output folder for this run, and clear what a killed one left half-written.

    Raises:
        UserError: somebody else's folder, another source's, another run at work, or no permission; nothing was written.
    """
    output, source = plan.output, plan.identity["source"]
    check_output(plan.options, plan.identity)  # again: the recordings may have taken minutes since
    with claimed_folder(output, "sweep", "--output", own=(_STATE,)):
        for place in (".", FOLDERS, _HIDDEN, _PATHS, _TRANSCRIPTS):
            clear_leftovers(output / place)
        write_atomically(output / _STATE, json.dumps({"source": source}) + "\n")
        yield Store(output)


def check_output(options: Options, identity: Mapping[str, Any]) -> None:
    """Refuse an output folder that is somebody else's.

    Raises:
        UserError: it is a file, or holds other files or another source's results.
    """
    output = options.output
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: exists and is a file; choose another --output")
    if not output.exists() or not any(output.iterdir()) or {file.name for file in output.iterdir()} == {_LOCK}:
        return
    try:
        earlier = json.loads((output / _STATE).read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{output}: holds files that sweep did not write; choose another --output") from None
    if earlier != identity["source"]:
        raise UserError(
            f"{output}: holds results of another FP32 folder than {options.source}; choose another --output"
        )
