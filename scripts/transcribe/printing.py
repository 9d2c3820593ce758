"""Transcripts on stdout as they come, and on a terminal the sentence that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

import typer
from rich.cells import cell_len

from export.bundle import Bundle
from export.progress import Task, console
from scripts.transcribe.formats import ctm, ctm_names, jsonl, srt, vtt
from scripts.transcribe.sentences import RecordingTranscript, sentences, words_of
from scripts.transcribe.sources import STANDARD_INPUT
from verify.runtimes.streaming import Stream

_BAR_CELLS = 60
"""Of a progress bar beside that sentence."""


class Printer:
    """Writes transcripts in one of the forms; the text of standard input sentence by sentence, as they end.

    Args:
        bundle: the folder that transcribes.
        recordings: all of the run.
        form: ``text``, ``json``, ``jsonl``, ``srt``, ``vtt`` or ``ctm``; for ``json`` nothing is written here.
        out: where to.
        channel: of the recordings, as CTM counts it.
    """

    def __init__(self, bundle: Bundle, recordings: Sequence[str], form: str, out: TextIO, channel: int = 1) -> None:
        self._bundle = bundle
        self._form = form
        self._out = out
        self._several = len(recordings) > 1
        self._names = dict(zip(recordings, ctm_names(recordings), strict=True))
        self._channel = channel
        self._closed = 0  # tokens of the live stream that are text on stdout, up to a language tag
        self._since = 0  # words after those that are on stdout too
        self._written = 0  # words on stdout

    def growing(self, audio: str, stream: Stream, progress: Task) -> None:
        """Write the text of standard input, sentence by sentence, and show the one that goes on."""
        if audio != STANDARD_INPUT:
            return
        tokens, frames = stream.tokens[self._closed :], stream.frames[self._closed :]
        words = words_of(self._bundle, tokens, frames)
        found = list(sentences(words[self._since :]))
        ended, current = found[:-1], found[-1:]
        if ended and self._form == "text" and not self._several:
            with progress.hidden():
                self._write("".join(f"{each.text}\n" for each in ended))
            count = sum(len(each.words) for each in ended)
            self._since, self._written = self._since + count, self._written + count
            self._close(tokens, frames)
        if current and progress.on_terminal:
            progress.rename(_tail(current[0].text, console.width - _BAR_CELLS))

    def done(self, recording: RecordingTranscript) -> None:
        """Write a transcript, or what is not written of it."""
        if self._form == "text" and recording.audio == STANDARD_INPUT and not self._several:
            self._write("".join(f"{each.text}\n" for each in sentences(recording.words[self._written :])))
        elif self._form == "text":
            self._write(self._line(recording))
        elif self._form == "ctm":
            self._write(ctm(recording, self._names[recording.audio], self._channel))
        elif self._form != "json":
            self._write({"jsonl": jsonl, "srt": srt, "vtt": vtt}[self._form](recording))

    def _line(self, recording: RecordingTranscript) -> str:
        """The text, after the file's name and language where there are several files."""
        if not self._several:
            return f"{recording.transcript.text}\n"
        name = typer.style(recording.audio, bold=True) if self._out.isatty() else recording.audio
        language = f" [{recording.transcript.language}]" if recording.transcript.language else ""
        return f"{name}{language} {recording.transcript.text}\n"

    def _close(self, tokens: Sequence[int], frames: Sequence[int]) -> None:
        """Look no more at tokens whose words are all on stdout: a stream of hours costs no more than its end."""
        tags = self._bundle.metadata.lang_tag_token_ids
        for place in [place for place, token in enumerate(tokens, 1) if token in tags][::-1]:
            before = len(words_of(self._bundle, tokens[:place], frames[:place]))
            if before <= self._since:
                self._closed, self._since = self._closed + place, self._since - before
                return

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _tail(text: str, cells: int) -> str:
    """The end of a text that fits into so many columns, at least its last word."""
    if cell_len(text) <= cells:
        return text
    kept = text.split()
    while len(kept) > 1 and cell_len(" ".join(kept)) > cells - 2:
        del kept[0]
    return f"… {' '.join(kept)}"
