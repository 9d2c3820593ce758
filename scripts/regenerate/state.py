"""The output folder's state: whose it is, what is finished in it, and that one run at a time writes it.

``.regenerate.json`` records the inputs of the run. A run that was killed is continued by the next one with the same
inputs: whole folders of the same inputs are kept, everything else of ours is removed and made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle import BUNDLE
from export.errors import UserError
from export.folders import write_atomically
from export.progress import note
from export.removal import check_removable, clear_leftovers, remove_files, remove_folder, settle
from quantize.recipe import RECIPE_NAME
from scripts.claim import claimed_folder
from scripts.regenerate.plan import Plan, check_disk

STATE = ".regenerate.json"
REPORTS = "reports"
STAGES = ".stages"
REPORT = "report.json"


@dataclass
class State:
    """What ``.regenerate.json`` says."""

    output: Path
    inputs: dict[str, Any]
    folders: list[str]
    finished: bool
    lock: int  # file descriptor; stages inherit it, so that a stage whose parent was killed still holds it

    def save(self) -> None:
        """Write the file at once or not at all."""
        content = {"inputs": self.inputs, "folders": self.folders, "finished": self.finished}
        write_atomically(self.output / STATE, json.dumps(content, indent=2) + "\n")

    def finish(self) -> None:
        """Record that everything is there."""
        self.finished = True
        self.save()


@contextmanager
def claimed_output(plan: Plan) -> Iterator[State]:
    """Take the output folder for this run, continue or clear what an earlier one left.

    Raises:
        UserError: somebody else's folder, other inputs without ``--force``, another run at
            work, no room, or no permission; nothing was written.
    """
    output = plan.output
    earlier = _check(plan)
    check_disk(plan, freed=_bytes_to_clear(plan, earlier))
    with claimed_folder(output, "regenerate", "--output") as lock:
        if earlier is not None:
            _clear(plan, earlier)
        state = State(output, plan.inputs, list(plan.folders), finished=False, lock=lock)
        state.save()
        yield state


def _check(plan: Plan) -> dict[str, Any] | None:
    """The earlier run's state, or None in a new or empty folder."""
    output, force = plan.output, plan.options.force
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: exists and is a file; choose another --output")
    if not output.exists() or not any(not file.name.startswith(".") or file.name == STATE for file in output.iterdir()):
        return None
    earlier = read_state(output)
    if earlier is None:
        raise UserError(f"{output}: holds files that regenerate did not write; choose another --output")
    if force:
        return earlier
    if earlier["inputs"] != plan.inputs:
        different = ", ".join(key for key in plan.inputs if earlier["inputs"].get(key) != plan.inputs[key])
        run = "a finished run" if earlier["finished"] else "an unfinished run"
        raise UserError(
            f"{output}: {run} with another {different} is here; repeat it as it was, "
            "add --force to start over, or choose another --output"
        )
    return earlier


def _clear(plan: Plan, earlier: dict[str, Any]) -> None:
    """Remove half-written folders; with ``--force`` also everything that the earlier run finished.

    Raises:
        UserError: a folder that would be replaced holds something of the user's; nothing was removed.
    """
    output = plan.output
    names = sorted({*earlier["folders"], *plan.folders})
    clear_leftovers(output)
    for name in names:
        settle(output / name, BUNDLE)
    for name in names:
        check_removable(output / name, BUNDLE, output)
    if not plan.options.force:
        return
    note(f"removing what an earlier run wrote in {output}")
    remove_files(output / REPORTS, {f"{name}.json" for name in names})
    remove_files(output / STAGES, _STAGE_FILES)
    for name in names:
        remove_folder(output / name, BUNDLE, output)
    for file in (REPORT, STATE):
        (output / file).unlink(missing_ok=True)


_STAGE_FILES = re.compile(r"(recorded|verified|measured)-[a-z0-9-]+\.json|[0-9a-f]{64}\.json")
"""Results of stages by name, and recorded runs by the hash of their inputs."""


def _bytes_to_clear(plan: Plan, earlier: dict[str, Any] | None) -> int:
    """Bytes of the earlier run's folders that ``--force`` will remove."""
    if earlier is None or not plan.options.force:
        return 0
    folders = [plan.output / name for name in {*earlier["folders"], *plan.folders}]
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*") if file.is_file())


def read_state(output: Path) -> dict[str, Any] | None:
    """The state file's content, or None where there is none that can be read."""
    try:
        content = json.loads((output / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not content.keys() >= {"inputs", "folders", "finished"}:
        return None
    folders = content["folders"]
    ours = isinstance(folders, list) and all(isinstance(name, str) and RECIPE_NAME.fullmatch(name) for name in folders)
    return content if ours else None
