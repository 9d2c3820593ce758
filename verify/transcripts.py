"""Transcripts for other tools: the lines that the Open ASR leaderboard's scorer and NeMo's Speech Data Explorer read.

Files are named as the leaderboard's ``eval_utils.py`` writes and parses them, and texts are as they were recognized:
both tools normalize themselves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from export.errors import UserError
from export.folders import write_atomically
from verify.report import Report
from verify.runs import Side
from verify.scoring.models import SIDES, Output


def write_transcripts(report: Report, directory: Path) -> list[Path]:
    """Write all sides' transcripts as JSON lines, a file for each side and language; earlier ones are replaced.

    A line has ``audio_filepath, duration, time`` (seconds), ``text`` and ``pred_text``, and ``offset`` where the
    utterance is a part of its file.

    Returns:
        The files, the target's first; those of a witness last.

    Raises:
        UserError: one cannot be written, or two languages would be one file.
    """
    written = []
    names = _names(report)
    languages: dict[str, str] = {}
    for language in report.per_language:
        other = languages.setdefault(_plain(language), language)
        if other != language:
            raise UserError(f"--transcripts: {other} and {language} would be one file; call them alike in the manifest")
    for side, name in zip((*SIDES, *(["witness"] if report.witness else [])), names, strict=True):
        for language in report.per_language:
            lines = []
            for row in report.rows:
                output: Output | None = getattr(row, side)
                if row.language != language or output is None:
                    continue
                line = {
                    "audio_filepath": row.audio_filepath or row.audio,
                    "duration": row.audio_seconds,
                    "time": output.seconds,
                    "text": row.text,
                    "pred_text": output.text,
                }
                lines.append(json.dumps(line | ({"offset": row.offset} if row.offset else {}), ensure_ascii=False))
            data = f"{_plain(language)}-{report.manifest_sha256[:8]}"  # other audio is another data set
            file = directory / f"MODEL_nemotron-{name}_DATASET_{data}_test.jsonl"
            write_atomically(file, "\n".join(lines) + "\n")
            written.append(file)
    return written


def _names(report: Report) -> list[str]:
    """What the sides are called in names of files; never the same."""
    names: list[str] = []
    for role, side in (("target", report.target), ("reference", report.reference), ("witness", report.witness)):
        if side is not None:
            names.append(f"{_name(side)}-{role}" if _name(side) in names else _name(side))
    return names


def _name(side: Side) -> str:
    """With the folder above, so that ``r0/int8`` and ``r13/int8`` are not one."""
    return side.oracle or _plain("-".join(Path(side.name).parts[-2:]) or side.runtime)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+|_+", "-", text).strip("-.") or "unnamed"
