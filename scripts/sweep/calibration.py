"""The calibration set of a sweep: the user's, kept apart from what WER is measured on, or one that is collected once.

A collected set lies in the output under the hash of what it came from. One is kept: results go by the samples'
hash, and the same inputs give the same samples again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import Bundle
from export.contract import expected_ports
from export.digest import digest
from export.errors import UserError
from export.progress import note
from export.removal import remove_files, remove_folder
from quantize.samples import CalibrationData
from scripts.processes import ChildError, run_module
from verify.collect import CALIBRATION_SET, SAMPLES, default_utterances, matching_recordings
from verify.data.identity import manifest_sha256
from verify.data.manifest import Utterance, read_manifest

if TYPE_CHECKING:
    from scripts.sweep.options import Options, Plan

COLLECTED = ".calibration"


def open_given(options: Options, source: Bundle) -> CalibrationData | None:
    """The set of ``--calibration``, or None.

    Raises:
        UserError: it is no calibration set, or one of another folder.
    """
    if options.calibration is None:
        return None
    given = CalibrationData.open(options.calibration)
    given.check_fits(source)
    return given


def check_apart(given: CalibrationData, source: Bundle, utterances: Sequence[Utterance], manifest: Path | None) -> None:
    """Refuse a set that saw audio on which WER is measured, in whatever file it lies.

    Raises:
        UserError: naming the recordings.
    """
    seen = matching_recordings({each["sha256"] for each in given.index.audio}, utterances, source.metadata.sample_rate)
    if seen:
        remedy = f"nemotron-ov calibrate {source.path} DIR" + (f" --exclude {manifest}" if manifest else "")
        raise UserError(
            f"--calibration {given.path}: was collected from audio that WER is measured on, "
            f"{seen}; collect another with `{remedy}`"
        )


def open_collected(options: Options, identity: dict[str, Any]) -> CalibrationData | None:
    """The set that an earlier run collected from the same inputs, or None."""
    folder = _folder(options, identity)
    try:
        return CalibrationData.open(folder) if folder.is_dir() else None
    except UserError:
        return None


def with_calibration(plan: Plan) -> Plan:
    """The plan with a calibration set; the default one is collected where there is none yet.

    Raises:
        UserError: it cannot be collected.
    """
    if plan.calibration is not None:
        return plan
    folder, manifest = _folder(plan.options, plan.identity), plan.options.manifest
    note(f"no --calibration is given: collecting the default set, which {plan.output} keeps")
    for earlier in folder.parent.glob("[0-9a-f]" * 16):
        remove_folder(earlier, CALIBRATION_SET, folder.parent)
    command = ["calibrate", plan.source.path, folder, "--json", *(["--exclude", manifest] if manifest else [])]
    try:
        run_module("scripts.cli", command, stderr="show", may_fail=True)
    except ChildError as error:
        remove_files(folder.parent, ())
        raise UserError(
            f"the default calibration set could not be collected ({error}); give --calibration DIR, made by "
            f"`nemotron-ov calibrate {plan.source.path} DIR`, or leave out recipes that need it"
        ) from error
    return replace(plan, calibration=CalibrationData.open(folder))


def collected_bytes(source: Bundle) -> int:
    """Upper estimate of a collected set's size: encoder steps, and a tenth for everything else."""
    inputs = expected_ports(source.metadata)["encoder"].inputs
    return int(1.1 * SAMPLES * 4 * sum(prod(port.shape) for port in inputs))


def _folder(options: Options, identity: dict[str, Any]) -> Path:
    """Where the default set for these graphs, this code and this evaluation manifest is kept."""
    excluded = manifest_sha256(read_manifest(options.manifest, text=False)) if options.manifest else None
    address = digest([identity, manifest_sha256(default_utterances()), excluded])
    return options.output / COLLECTED / address[:16]
