"""What counts as lost: a file of the user's, a whole folder, a final name, a word about what happened."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.bundle import Bundle
from export.digest import file_facts
from tests.bad_days.warm import Run

SCRATCH = re.compile(r"\..+\.nemotron-ov\.(tmp|old)")
"""Names of what is half-written or set aside."""

_BESIDE = ("mine.txt", ".out.mine", "out.old", ".out.mine.nemotron-ov.tmp", "photos/one.jpg")
_INSIDE = ("notes.txt", "talks/lecture.txt", ".fp32.draft", ".fp32.mine.nemotron-ov.tmp")


@dataclass
class Figures:
    """What one kind of bad day cost.

    Attributes:
        title: the kind.
        tried: how often.
        lost: what was lost, a line each.
        where: how often it struck at what.
        failed: in how many tries something was lost.
    """

    title: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def count(self, where: str, problems: Iterable[str]) -> None:
        """Add one try and what was lost in it."""
        found = list(problems)
        self.tried += 1
        self.where[where] += 1
        self.failed += bool(found)
        self.lost += [f"{where}: {each}" for each in found]

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        survived = self.tried - self.failed
        return {"tried": self.tried, "survived": survived, "lost": self.lost, "where": dict(self.where.most_common())}


class Planted:
    """Files of the user's beside an output and, once it is ours, in it."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._files: dict[Path, bytes] = {}
        self._plant(output.parent, _BESIDE)

    def inside(self) -> None:
        """Plant those in the output, unless they are there."""
        if self._output.joinpath(".regenerate.json").exists() and self._output / _INSIDE[0] not in self._files:
            self._plant(self._output, _INSIDE)

    def lost(self) -> list[str]:
        """Those that are gone or changed."""
        return [
            f"the user's {file.relative_to(self._output.parent)} is gone or changed"
            for file, content in self._files.items()
            if not file.is_file() or file.read_bytes() != content
        ]

    def __contains__(self, path: Path) -> bool:
        return path in self._files

    def _plant(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"mine: {name}\n")
            self._files[file] = file.read_bytes()


def half_written(output: Path) -> list[str]:
    """Final names that stand on something that is not whole."""
    found = []
    folders = [output] if (output / "metadata.json").exists() else sorted(output.glob("[a-z]*"))
    for folder in folders:
        is_ours = folder.is_dir() and any(file.name.startswith("nemotron_") for file in folder.iterdir())
        if is_ours and Bundle.whole(folder) is None:
            found.append(f"{folder.name}/ is half-written")
    for file in [
        *output.glob("*.json"),
        *output.glob(".*.json"),
        *output.glob(".stages/*.json"),
        *output.glob("reports/*"),
    ]:
        if SCRATCH.fullmatch(file.name):
            continue
        try:
            json.loads(file.read_text())
        except ValueError:
            found.append(f"{file.name} is half-written")
    return found


def scratch(*places: Path, planted: Planted | None = None) -> list[str]:
    """What is half-written or set aside and was not cleared, below these places; of a TMPDIR, anything."""
    found = []
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else ():
            if planted is not None and path in planted:
                continue
            if SCRATCH.fullmatch(path.name) or (place.name == "tmp" and path.parent == place):
                found.append(f"{path.relative_to(place.parent)} stays behind")
    return found


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {file.name: file_facts(file)["sha256"] for file in sorted(folder.iterdir())}


def differences(output: Path, undisturbed: Path) -> list[str]:
    """How a resumed output differs from that of a run that nothing disturbed; times and memory may."""
    found = []
    for folder in sorted(path for path in undisturbed.iterdir() if (path / "metadata.json").is_file()):
        other = output / folder.name
        if not other.is_dir():
            found.append(f"{folder.name}/ is missing")
        elif hashes(folder) != hashes(other):
            found.append(f"{folder.name}/ has other hashes")
    if (undisturbed / "report.json").exists():
        try:
            if _judgement(output) != _judgement(undisturbed):
                found.append("report.json says something else")
        except OSError:
            found.append("report.json is missing")
    return found


_JUDGED = ("recipe", "files", "bytes", "passed", "utterances", "exact_match", "wer_between", "runtime", "precision")


def _judgement(output: Path) -> list[list[Any]]:
    rows = json.loads((output / "report.json").read_text())["folders"]
    return [[row[key] for key in _JUDGED] for row in rows]


def told(run: Run, *statuses: int, lines: int | None = None) -> list[str]:
    """How a run's end differs from what it should be: exit status, lines of error, no traceback."""
    found = []
    if run.status not in statuses:
        found.append(f"exit status {run.status}, wanted {' or '.join(map(str, statuses))}: {run.stderr[-300:]!r}")
    if "Traceback" in run.stderr:
        found.append(f"a traceback: {run.stderr[-600:]!r}")
    if lines is not None and len(run.error_lines) != lines:
        found.append(f"{len(run.error_lines)} lines of error, wanted {lines}: {run.error_lines}")
    return found
