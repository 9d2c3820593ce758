"""A tiny fp32/ and int8/ that passed, with their reports by the real `verify`: made in a second, from seeded graphs."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile

from export.bundle import Bundle
from quantize.recipes import RECIPES
from tests.helpers.tiny_bundle import speechlike, tiny_bundle
from verify.data.manifest import read_manifest
from verify.pipeline import verify_bundle
from verify.report import Output, Report
from verify.runs import ORACLE_PACKAGES, record_bundle

WORDS = " ".join(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"] * 3)
CHECKPOINT = {"source": "model.nemo", "file": "model.nemo", "sha256": "c" * 64}
INT8 = RECIPES["int8"].as_metadata()


def publishable(root: Path, checkpoint: dict[str, Any] | None = None, *, verified: bool = True, **int8: Any) -> Path:
    """Folders, reports/fp32.json against NeMo (a recorded run that says so) and reports/int8.json against fp32.

    Args:
        root: to be made.
        checkpoint: what the folders say of theirs.
        verified: with reports.
        int8: changes of the int8 folder, see :func:`tests.helpers.tiny_bundle.tiny_bundle`.
    """
    facts = checkpoint or CHECKPOINT
    tools = {"openvino": "2026.4.1", "nemotron-ov": "0.1.0"}
    fp32 = tiny_bundle(root / "fp32", checkpoint=facts, tools=tools)
    other = tiny_bundle(root / "int8", checkpoint=facts, **{"recipe": INT8, "precision": "INT8", "tools": tools} | int8)
    if verified:
        write_reports(root, fp32, other)
    return root


def write_reports(root: Path, fp32: Bundle, *others: Bundle) -> None:
    """Verify, and measure as `regenerate` reports it."""
    utterances = read_manifest(_manifest(root.parent / f"{root.name}-audio"))
    runs = root.parent / f"{root.name}-runs"  # so that FP32 transcribes once
    run = record_bundle(fp32, utterances, cache=runs)
    facts = {"name": "model.nemo", "runtime": "nemo-streaming", "files": {}}
    facts |= {"versions": {name: version(name) for name in ORACLE_PACKAGES["nemo"]}}
    nemo = run.side.model_copy(update=facts)
    by_nemo = run.model_copy(update={"side": nemo})
    _save(verify_bundle(fp32, by_nemo, utterances, cache=runs), root / "reports" / "fp32.json")
    for other in others:
        _save(verify_bundle(other, fp32, utterances, cache=runs), root / "reports" / f"{other.path.name}.json")
    rows = [
        {
            "recipe": bundle.path.name,
            "files": bundle.hashes,
            "encoder_step_ms": 12.5 + index,
            "times_real_time": 30.25 + index,
            "peak_rss_mb": 150.0 + index,
        }
        for index, bundle in enumerate((fp32, *others))
    ]
    machine = {"cpu": "Test CPU", "cores": 2, "flags": ["avx2"]}
    (root / "report.json").write_text(json.dumps({"folders": rows, "machine": machine}))


def _save(report: Report, file: Path) -> None:
    """Keep a report in which both sides have the manifest's text: tiny graphs give a word, too few to decide."""
    rows = [
        row.model_copy(update={side: _with_text(getattr(row, side), row.text) for side in ("target", "reference")})
        for row in report.rows
    ]
    report.model_copy(update={"rows": rows}).save(file)
    Report.load(file).save(file)


def _with_text(output: Output, text: str) -> Output:
    return output.model_copy(update={"text": f"{text} {output.text}"})


def _manifest(folder: Path) -> Path:
    """Two languages with 30 sentences each, enough for a verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(60):
        soundfile.write(folder / f"{index}.flac", speechlike(0.2, seed=index), 16000)
        language = ("en-US", "de-DE")[index % 2]
        entry = {"audio_filepath": f"{index}.flac", "text": f"{WORDS} {index}", "target_lang": language}
        lines.append(json.dumps(entry))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"
