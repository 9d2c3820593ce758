"""What was found, as one JSON object and as a table in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from export.folders import write_atomically
from scripts.docs import with_content

BEGIN, END = "<!-- compatibility: made by python -m scripts.compatibility -->", "<!-- /compatibility -->"


class Ran(BaseModel, frozen=True):
    """One folder under one version in one precision.

    Attributes:
        identical: recordings with the newest version's tokens; None where it or the newest did not run.
        error: why it did not.
    """

    folder: str
    files: dict[str, str]  # SHA-256 by name
    openvino: str
    precision: str
    utterances: int
    identical: int | None = None
    error: str | None = None
    runtime: str = "generation1"
    device: str = "CPU"


class Compatibility(BaseModel, frozen=True):
    """All runs, what they were compared with, and where they ran."""

    compatibility: list[Ran]
    reference: str  # version of OpenVINO
    manifest_sha256: str
    machine: dict[str, Any]

    def lowest(self, folder: str) -> str | None:
        """The lowest version from which on a folder ran under all that were tried."""
        found = None
        versions = sorted({ran.openvino for ran in self.compatibility}, key=_numbers, reverse=True)
        for version in versions:
            runs = [ran for ran in self.compatibility if (ran.folder, ran.openvino) == (folder, version)]
            if not runs or any(ran.error is not None for ran in runs):
                break
            found = version
        return found


def table(found: Compatibility) -> str:
    """A row for each version, a column for each folder and precision, and what it says in words."""
    columns = list(dict.fromkeys((ran.folder, ran.precision) for ran in found.compatibility))
    runs = {(ran.openvino, ran.folder, ran.precision): ran for ran in found.compatibility}
    lines = [
        "| OpenVINO | " + " | ".join(f"{folder}, {precision}" for folder, precision in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    lines += [
        f"| {version} | " + " | ".join(_cell(runs.get((version, *column))) for column in columns) + " |"
        for version in sorted({ran.openvino for ran in found.compatibility}, key=_numbers)
    ]
    machine = found.machine
    count = max(ran.utterances for ran in found.compatibility)
    flags = " ".join(machine.get("flags", []))
    sentences = [
        f"Of {count} recordings, as many gave the tokens of OpenVINO {found.reference} in the same precision. "
        f"Clients' loop (generation 1), CPU: {machine.get('cpu')}, {machine.get('cores')} cores ({flags})."
    ]
    for folder in dict.fromkeys(folder for folder, _ in columns):
        lowest = found.lowest(folder)
        runs_from = f"Lowest version that runs `{folder}`: {lowest}."
        sentences.append(runs_from if lowest else f"`{folder}` does not run under {found.reference}.")
    failures = {
        f"{ran.folder} under {ran.openvino}: {ran.error}" for ran in found.compatibility if ran.error is not None
    }
    return "\n".join([*lines, "", *sentences, *sorted(failures)])


def updated(text: str, content: str) -> str:
    """A document with the table between its two comments.

    Raises:
        ValueError: it has no place for it.
    """
    return with_content(text, content, BEGIN, END)


def write(found: Compatibility, file: Path) -> None:
    """The JSON object."""
    write_atomically(file, found.model_dump_json(indent=2) + "\n")


def _cell(ran: Ran | None) -> str:
    if ran is None:
        return ""
    if ran.error is not None:
        return "does not run"
    return "runs" if ran.identical is None else str(ran.identical)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
