"""What a process of its own is told to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from quantize.groups import Group
from quantize.steps import WeightCompression


class Task(BaseModel):
    """One piece of work on an FP32 folder."""

    kind: Literal["quantize", "verify", "reference", "diverge", "layers"]
    source: Path
    folder: Path  # to write (quantize, teach), to judge (verify, diverge), or where results go (layers)
    recipe: dict[str, Any] = Field(default_factory=dict)
    calibration: Path | None = None
    manifest: Path | None = None
    limit: int | None = None
    paths: int | None = None  # reference: so many of the utterances
    ignore_text: bool = False
    left_out: list[str] = Field(default_factory=list)  # places of what cannot be used; see usable
    runtime: str | None = None
    threads: int | None = None
    cache: Path | None = None
    ray: str | None = None  # where folders transcribe
    report: Path | None = None  # where a comparison is kept with its rows
    reference_paths: Path | None = None
    step: WeightCompression | None = None
    groups: list[Group] = Field(default_factory=list)  # all of the folder
    wanted: dict[str, str] = Field(default_factory=dict)  # file of the result by name of the group
