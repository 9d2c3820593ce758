"""Reports of `verify`, `regenerate`, `bench` and `scripts.compatibility`: what they say, and about which files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from export.errors import UserError
from export.json_files import read_json
from export.languages import DEFAULT_LANGUAGE
from quantize.recipe import Tolerance
from quantize.recipes import RECIPES
from scripts.publish.table import plain
from verify.limits import Limits, limits_for
from verify.report import Report
from verify.runs import Side

DEMO_AUDIO = "the toolkit's demo recordings (synthetic speech)"


@dataclass(frozen=True)
class Verification:
    """A `verify` report about a folder, and where it lies."""

    file: Path
    report: Report

    @property
    def has_text(self) -> bool:
        """Whether error rates against the manifest's text are known."""
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
    def shortcoming(self) -> str | None:
        """Why it does not let a folder be published though nothing failed; None where it does, or it failed."""
        return "has too few utterances to decide" if self.report.passed is None else None

    @property
    def passed(self) -> bool:
        """Whether the report lets a folder be published."""
        return self.report.passed is True


Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
"""Of OpenVINO."""

Figure = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
"""What can have been measured."""


class Measurement(BaseModel, frozen=True):
    """Speed and memory of a folder on one machine; None where a report does not say."""

    file: Path
    machine: str
    loop: str
    precision: str
    encoder_step_ms: Figure | None
    times_real_time: Figure | None
    peak_rss_mb: Figure | None
    batch: Annotated[int, Field(ge=1, strict=True)] = 1

    @property
    def chunk_ms(self) -> float | None:
        """The encoder's time for a chunk of one stream, as `bench` shows it."""
        return None if self.encoder_step_ms is None else self.encoder_step_ms / self.batch


class Compatible(BaseModel, frozen=True):
    """A folder under one version of OpenVINO; ``identical`` recordings as under ``reference``.

    Where it did not run, ``error`` says why; ``identical`` is None there, and where the reference did not run.
    """

    file: Path
    machine: str
    openvino: Version
    reference: Version
    device: Literal["CPU"]
    runtime: Literal["generation1"]
    precision: Literal["f32", "default"]
    utterances: Annotated[int, Field(gt=0, strict=True)]
    identical: Annotated[int, Field(ge=0, strict=True)] | None
    error: str | None = None

    @property
    def tokens(self) -> str:
        """What the page says of its tokens."""
        if self.error is not None:
            return "does not run"
        if self.identical is None:
            return f"not compared: does not run under {self.reference}"
        return f"as under {self.reference} in {self.identical} of {self.utterances} recordings"


@dataclass(frozen=True)
class Contents:
    """What a report holds; measurements and runs with the SHA-256 of the files that they are about."""

    verifications: Sequence[Verification] = ()
    measurements: Sequence[tuple[dict[str, str], Measurement]] = ()
    runs: Sequence[tuple[dict[str, str], Compatible]] = ()


def read_report(file: Path) -> Contents:
    """A report of any kind.

    Raises:
        UserError: it is none.
    """
    remedy = "give another report, or move it away"  # `card` and `publish` find some by themselves
    content = read_json(file, remedy)
    try:
        if isinstance(content, dict) and "rows" in content:
            return Contents([_verified(file, content)])
        if isinstance(content, dict) and "folders" in content:
            return Contents(measurements=list(_regenerated(file, content)))
        if isinstance(content, dict) and "builds" in content:
            return Contents(measurements=list(_benched(file, content)))
        if isinstance(content, dict) and "compatibility" in content:
            return Contents(runs=list(_ran(file, content)))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be used ({found}); make the report again") from error
    raise UserError(f"{file}: is no report of verify, regenerate, bench or scripts.compatibility; {remedy}")


def _verified(file: Path, content: dict[str, Any]) -> Verification:
    """A comparison, judged anew: what a report says of its own limits is not believed."""
    target, reference = (Side.model_validate(content[side]) for side in ("target", "reference"))
    machine_name(target.machine), machine_name(reference.machine)
    stored = Tolerance.model_validate(content["limits"])
    return Verification(file, Report.load(file, limits=_limits(target, reference, stored)))


def _limits(target: Side, reference: Side, stored: Tolerance) -> Limits:
    """This toolkit's; the stored ones of a recipe that is not built-in, where they are not wider than int4's."""
    name, made_by = target.recipe.get("name"), target.recipe.get("hash")
    ours = limits_for(target, reference)
    is_ours = not made_by or made_by in {recipe.hash for recipe in RECIPES.values()}
    if is_ours or reference.oracle is not None or is_wider(stored, RECIPES["int4"].tolerance):
        return ours
    return Limits(stored, f"the publisher's recipe {name}")


def is_wider(one: Tolerance, other: Tolerance) -> bool:
    """Whether limits let anything pass that others do not."""

    def beyond(value: float | None, limit: float | None) -> bool:
        return value is not None and (limit is None or value > limit)

    language, limit = (
        each.wer_delta if each.language_wer_delta is None else each.language_wer_delta for each in (one, other)
    )
    return (
        one.exact_match < other.exact_match
        or one.wer_delta > other.wer_delta
        or language > limit
        or beyond(one.wer_between, other.wer_between)
    )


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
                loop=_loop(row, content["machine"].get("threads")),
                precision=row["precision"],
                encoder_step_ms=row["encoder_step_ms"],
                times_real_time=row["pipeline_rtfx"],
                peak_rss_mb=row["peak_rss_mb"],
                batch=row["batch"],
            ),
        )


def _ran(file: Path, content: dict[str, Any]) -> Iterable[tuple[dict[str, str], Compatible]]:
    more = {"file": file, "machine": machine_name(content["machine"]), "reference": content["reference"]}
    for row in content["compatibility"]:
        ran = Compatible.model_validate(row | more)
        if ran.identical is not None and ran.identical > ran.utterances:
            raise ValueError(f"{ran.identical} of {ran.utterances} recordings")
        yield row["files"], ran


def _loop(row: dict[str, Any], threads: int | None) -> str:
    """How a build ran, with what is not so in all reports: batch, device, threads."""
    device = row.get("device", "CPU")
    threads = row.get("threads", threads)
    more = [f"batch {row['batch']}"] if row["batch"] > 1 else []
    more += [str(device)] if device != "CPU" else []
    more += [f"threads {int(threads)}"] if threads is not None else []
    return ", ".join([row["runtime"], *more])


@functools.cache
def _demo_sha256(count: int, languages: frozenset[str]) -> str:
    """Hash of so many demo recordings, as a model that has these languages is given them."""
    from verify.data.identity import manifest_sha256
    from verify.data.selection import choose_utterances

    prompts = dict.fromkeys((*sorted(languages), DEFAULT_LANGUAGE), 0)
    return manifest_sha256(choose_utterances(None, count, prompts=prompts))


class _Machine(BaseModel, strict=True):
    cpu: Annotated[str, Field(min_length=1)]
    cores: Annotated[int, Field(gt=0)]
    flags: list[str]


def machine_name(facts: dict[str, Any]) -> str:
    """A machine as the card names it.

    Raises:
        ValueError: it has no name, or what it has is no machine's.
    """
    machine = _Machine.model_validate(facts)
    return plain(f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)})")
