"""The output folder's state: whose it is, what is finished in it, and that one run at a time writes it.

``.regenerate.json`` records the inputs of the run. The next run with the same inputs keeps whole folders of the same
inputs and makes the others. Folders depend on no recordings, so that a run on others keeps them too; only a report that
is there is not replaced by another. ``--force`` makes all folders again; an old one stays until the new one takes its
place.
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
from export.removal import check_removable, clear_leftovers, remove_files, settle
from quantize.recipe import RECIPE_NAME
from scripts.claim import claimed_folder
from scripts.outputs import REGENERATE_REPORT, check_output, check_page, is_page
from scripts.regenerate.plan import Plan, check_disk

STATE = ".regenerate.json"
REPORTS = "reports"
STAGES = ".stages"
REPORT = "report.json"
PAGE = "report.html"


@dataclass
class State:
    """What ``.regenerate.json`` says."""

    output: Path
    inputs: dict[str, Any]
    folders: list[str]  # all that this output holds of ours, those of earlier runs too
    pending: list[str]  # what --force asked to be made again and was not yet
    finished: bool
    lock: int  # file descriptor; stages inherit it, so that a stage whose parent was killed still holds it

    def save(self) -> None:
        """Write the file at once or not at all."""
        content = {key: getattr(self, key) for key in ("inputs", "folders", "pending", "finished")}
        write_atomically(self.output / STATE, json.dumps(content, indent=2) + "\n")

    def made(self, name: str) -> None:
        """Record that a folder was made; what an earlier run reported of the output no longer holds."""
        self.pending = [other for other in self.pending if other != name]
        self.save()
        remove_files(self.output, {REPORT, *([PAGE] if is_page(self.output / PAGE) else [])})

    def finish(self) -> None:
        """Record that everything is there."""
        self.finished = True
        self.save()


@contextmanager
def claimed_output(plan: Plan) -> Iterator[State]:
    """Take the output folder for this run, and continue what an earlier one left.

    Raises:
        UserError: somebody else's folder, other inputs of its folders or of its report without ``--force``, another run
            at work, no room, or no permission; nothing was written.
    """
    output, force = plan.output, plan.options.force
    earlier = _check(plan) or {"inputs": {}, "folders": [], "pending": []}
    check_output("--output", output / REPORT, ours=REGENERATE_REPORT)
    check_page("--output", output / PAGE)
    pending = [name for name in plan.folders if force or name in earlier["pending"]]
    check_disk(plan, pending)
    with claimed_folder(output, "regenerate", "--output") as lock:
        _clear(plan, earlier["folders"])
        folders = [*plan.folders, *(name for name in earlier["folders"] if name not in plan.folders)]
        inputs = earlier["inputs"] | plan.made_from if plan.options.folders_only else plan.inputs
        state = State(output, inputs, folders, pending, finished=False, lock=lock)
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
    keeps_report = plan.options.folders_only or not (output / REPORT).exists()
    wanted = plan.made_from if keeps_report else plan.inputs
    different = [key for key in wanted if earlier["inputs"].get(key) != wanted[key]]
    if different and not force:
        keep = "" if {*different} & {*plan.made_from} else f"move its {REPORT} and {REPORTS} away to keep its folders, "
        raise UserError(
            f"{output}: {'a finished' if earlier['finished'] else 'an unfinished'} run with another "
            f"{', '.join(different)} is here; repeat it as it was, {keep}add --force to make its folders again, or "
            "choose another --output"
        )
    return earlier


def _clear(plan: Plan, earlier: list[str]) -> None:
    """Remove half-written folders and files, and with ``--force`` the results of stages; finished folders stay.

    Raises:
        UserError: a folder that may be replaced holds something of the user's; nothing was removed.
    """
    output = plan.output
    for place in (".", STAGES, REPORTS):
        clear_leftovers(output / place)
    for name in plan.folders:
        settle(output / name, BUNDLE)
    for name in plan.folders:
        check_removable(output / name, BUNDLE, output)
    if plan.options.force:
        remove_files(output / STAGES, _STAGE_FILES)
        for name in earlier:
            if name not in plan.folders:
                note(f"{output / name}: is no part of this run; it stays as an earlier run made it")


_STAGE_FILES = re.compile(r"(made|recorded|verified|measured|written)-[a-z0-9-]+\.json|[0-9a-f]{64}\.jsonl?")
"""Results of stages by name, and recorded runs by the hash of their inputs."""


def read_state(output: Path) -> dict[str, Any] | None:
    """The state file's content, or None where there is none that can be read."""
    try:
        content = json.loads((output / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not content.keys() >= {"inputs", "folders", "finished"}:
        return None
    content.setdefault("pending", [])  # state files of before have none, and knew no choice of an oracle
    names = [content["folders"], content["pending"]]
    if not all(isinstance(each, list) for each in names) or not isinstance(content["inputs"], dict):
        return None
    content["inputs"] = {"oracle": None, "run_by": ["nemo"], "run_by_tools": {}} | content["inputs"]
    ours = all(isinstance(name, str) and RECIPE_NAME.fullmatch(name) for each in names for name in each)
    return content if ours else None
