"""Transcripts in the forms that other programs read: JSON lines, SubRip, WebVTT, CTM."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from scripts.transcribe.sentences import RecordingTranscript, SpokenWord, joined, sentences

LINE_CELLS, LINES, CUE_SECONDS, SHORTEST_SECONDS = 42, 2, 7.0, 1.0
"""Of a subtitle, as broadcasters ask: columns (two for a Chinese character), lines, how long and how short it stays."""


def row(recording: RecordingTranscript) -> dict[str, Any]:
    """A line of ``jsonl``, in NeMo's and the Open ASR leaderboard's words; ``text``, the reference, is unknown.

    ``partial`` stands there only where it is true.
    """
    return {
        "audio_filepath": recording.audio,
        "duration": round(recording.transcript.audio_seconds, 3),
        "time": round(recording.seconds, 3),
        "text": None,
        "pred_text": recording.transcript.text,
        "language": recording.transcript.language,
        "words": [
            {"word": word.text, "start": word.start, "end": word.end, "language": word.language}
            for word in recording.words
        ],
    } | ({"partial": True} if recording.partial else {})


def jsonl(recording: RecordingTranscript) -> str:
    """One line."""
    return json.dumps(row(recording), ensure_ascii=False) + "\n"


def srt(recording: RecordingTranscript) -> str:
    """SubRip: numbered subtitles."""
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_lines(words)}\n\n"
        for number, (start, end, words) in enumerate(_cues(recording.words), 1)
    )


def vtt(recording: RecordingTranscript) -> str:
    """WebVTT; each cue says its language."""
    cues = ["WEBVTT\n\n"]
    for start, end, words in _cues(recording.words):
        text, language = html.escape(_lines(words), quote=False), words[0].language
        spoken = f"<lang {language}>{text}</lang>" if language else text
        cues.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{spoken}\n\n")
    return "".join(cues)


def ctm(recording: RecordingTranscript, name: str, channel: int) -> str:
    """NIST's time-marked words: recording, channel, start, duration, word.

    Args:
        recording: the transcript.
        name: of the recording; see :func:`ctm_names`.
        channel: of the recording, from 1.
    """
    return "".join(
        f"{name} {channel} {word.start:.3f} {word.end - word.start:.3f} {_unspaced(word.text)}\n"
        for word in recording.words
    )


def ctm_names(audio: Sequence[str]) -> list[str]:
    """What recordings are called in CTM: their stems, or their paths where two have one stem; no spaces."""
    stems = [Path(path).stem if path != "-" else "stdin" for path in audio]
    return [_unspaced(stem if stems.count(stem) == 1 else path) for path, stem in zip(audio, stems, strict=True)]


def _unspaced(text: str) -> str:
    return re.sub(r"\s+", "_", text)


def _fits(words: list[SpokenWord]) -> bool:
    return words[-1].end - words[0].start <= CUE_SECONDS and len(_wrapped(words)) <= LINES


def _cues(words: Sequence[SpokenWord]) -> list[tuple[float, float, list[SpokenWord]]]:
    """Subtitles with their times; short ones stay a second, where the next one lets them."""
    cues = list(sentences(words, _fits))
    starts = [cue.start for cue in cues[1:]] + [float("inf")]
    return [
        (cue.start, max(cue.end, min(cue.start + SHORTEST_SECONDS, following)), cue.words)
        for cue, following in zip(cues, starts, strict=True)
    ]


def _wrapped(words: Sequence[SpokenWord]) -> list[str]:
    """Lines of at most :data:`LINE_CELLS` columns, but for a longer word."""
    lines: list[list[SpokenWord]] = []
    for word in words:
        if lines and cell_len(joined([*lines[-1], word])) <= LINE_CELLS:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [joined(line) for line in lines]


def _lines(words: Sequence[SpokenWord]) -> str:
    return "\n".join(_wrapped(words))


def _clock(seconds: float, point: str) -> str:
    """``hh:mm:ss,mmm``."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, whole = divmod(rest, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{whole:02d}{point}{milliseconds:03d}"
