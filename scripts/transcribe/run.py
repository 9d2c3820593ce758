"""A run over recordings, block by block; a recording that cannot be used does not end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from export.bundle import Bundle
from export.errors import UserError
from export.progress import Task, note, task
from scripts.transcribe.finished import Finished
from scripts.transcribe.interrupt import Interrupt
from scripts.transcribe.sentences import RecordingTranscript, words_of
from scripts.transcribe.sources import STANDARD_INPUT
from verify.data.audio import Audio, audio_blocks
from verify.data.pcm import Readable, pcm_blocks
from verify.data.sources import header_seconds
from verify.runtimes.generation1 import Generation1
from verify.runtimes.streaming import Recording, Recordings, Stream, Streaming
from verify.runtimes.transcript import Transcript

OnBlock = Callable[[Audio, Stream | None], None]
"""Called with a block of a recording and the stream that has taken it."""


class Observer(Protocol):
    """What observes a run."""

    def growing(self, audio: str, stream: Stream, progress: Task) -> None:
        """A recording's stream has taken another block."""

    def done(self, recording: RecordingTranscript) -> None:
        """A recording's transcript is there."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        transcripts: in the order of the recordings; those of an earlier run included.
        fresh: those that were made in this run.
        failed: recordings that could not be used, and why.
        interrupted: whether Ctrl-C ended it; some of ``transcripts`` may then be partial.
    """

    transcripts: list[RecordingTranscript] = field(default_factory=list)
    fresh: list[Transcript] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Transcriber:
    """A folder under one of the runtimes, and how recordings go into it.

    Attributes:
        bundle: the folder.
        recognizer: its runtime. The streaming one takes a recording block by block, or several recordings together; the
            clients' loops take it whole.
        language: prompt.
        flush: end each recording with silence (streaming only).
        channel: of recordings, from 1; None mixes all.
        rate: of raw samples on standard input in Hz; None for the folder's.
        standard_input: what ``-`` reads, unbuffered.
    """

    bundle: Bundle
    recognizer: Streaming | Recordings | Generation1
    language: str
    flush: bool = True
    channel: int | None = None
    rate: int | None = None
    standard_input: Readable | None = None

    def transcribe(self, audio: str, interrupt: Interrupt, on_block: OnBlock) -> RecordingTranscript:
        """A recording's transcript, alone; after Ctrl-C, that of what came before it.

        Args:
            audio: path, or ``-``.
            interrupt: who knows of a Ctrl-C.
            on_block: called with every block.

        Raises:
            UserError: the recording cannot be used.
            KeyboardInterrupt: Ctrl-C came before the first block.
        """
        start = time.perf_counter()
        through: list[str] = []
        blocks = _noting(self.blocks(audio), through, audio)
        if isinstance(self.recognizer, Streaming):
            transcript = self._stream(self.recognizer, blocks, interrupt, on_block)
        else:
            assert isinstance(self.recognizer, Generation1)  # noqa: S101  # the third kind takes several together
            transcript = self._whole(self.recognizer, blocks, interrupt, on_block)
        partial = audio not in (*through, STANDARD_INPUT)
        return self.with_words(audio, transcript, time.perf_counter() - start, partial=partial)

    def with_words(self, audio: str, transcript: Transcript, seconds: float, *, partial: bool) -> RecordingTranscript:
        """The transcript with its words."""
        words = words_of(self.bundle, transcript.tokens, transcript.frames)
        return RecordingTranscript(audio, transcript, words, seconds, partial)

    def blocks(self, audio: str) -> Iterator[Audio]:
        """The audio at the folder's rate, block by block as it is read."""
        rate = self.bundle.metadata.sample_rate
        if audio == STANDARD_INPUT and self.standard_input is not None:
            return pcm_blocks(self.standard_input, rate, rate=self.rate, channel=self.channel)
        return audio_blocks(Path(audio), rate, channel=self.channel)

    def _whole(
        self, recognizer: Generation1, blocks: Iterator[Audio], interrupt: Interrupt, on_block: OnBlock
    ) -> Transcript:
        signal: list[Audio] = []
        try:
            for block in blocks:
                signal.append(block)
                on_block(block, None)
        except KeyboardInterrupt:
            if not signal:
                raise
        transcripts = []
        with suppress(KeyboardInterrupt), interrupt.held():  # raised when the body is through
            transcripts.append(recognizer.transcribe(np.concatenate(signal), self.language))
        return transcripts[0]

    def _stream(
        self, recognizer: Streaming, blocks: Iterator[Audio], interrupt: Interrupt, on_block: OnBlock
    ) -> Transcript:
        stream, wall, begun = recognizer.stream(self.language), 0.0, False
        try:
            for block in blocks:
                start = time.perf_counter()
                begun = True
                with interrupt.held():  # a step that is cut short costs the stream all that it has recognized
                    stream.push(block)
                    wall += time.perf_counter() - start
                    on_block(block, stream)
        except KeyboardInterrupt:
            if not begun:
                raise
        start = time.perf_counter()
        with suppress(KeyboardInterrupt), interrupt.held():  # raised when the body is through
            stream.finish(flush=self.flush)
        wall += time.perf_counter() - start
        transcript = stream.transcript()
        return replace(transcript, timings=replace(transcript.timings, wall=wall))


def _noting(blocks: Iterator[Audio], through: list[str], audio: str) -> Iterator[Audio]:
    """The blocks of a recording, which is added to ``through`` when they have all been taken."""
    yield from blocks
    through.append(audio)


OnBlockOf = Callable[[str, Audio, Stream | None], None]
"""As :data:`OnBlock`, of the recording that is named."""

Result = tuple[str, RecordingTranscript | Exception, bool]
"""A recording, its transcript or why there is none, and whether the transcript is of an earlier run."""


def transcribe_all(
    transcriber: Transcriber, recordings: Sequence[str], observer: Observer, finished: Finished | None = None
) -> Outcome:
    """Transcribe recordings and give them to an observer in their order; those that cannot be used are named on stderr.

    Args:
        transcriber: what transcribes: one recording after another, or several together.
        recordings: see :func:`scripts.transcribe.sources.find_sources`.
        observer: called with what comes.
        finished: transcripts of an earlier run, to which this run's are added.

    Raises:
        OSError: a transcript cannot be written.
    """
    outcome, rate = Outcome(), transcriber.bundle.metadata.sample_rate
    known = [None if each == STANDARD_INPUT else header_seconds(Path(each)) for each in recordings]
    total = None if None in known else sum(seconds or 0.0 for seconds in known)
    many = f"transcribing {len(recordings)} recordings"
    with Interrupt() as interrupt, task(many if len(recordings) > 1 else "transcribing", total, audio=True) as progress:
        counting = threading.Lock()

        def on_block(audio: str, block: Audio, stream: Stream | None) -> None:
            with counting:
                progress.advance(len(block) / rate)
            if stream is not None:
                observer.growing(audio, stream, progress)

        run = _together if isinstance(transcriber.recognizer, Recordings) else partial(_in_turn, progress=progress)
        results = run(transcriber, recordings, interrupt, on_block, finished)
        with suppress(KeyboardInterrupt), closing(results):
            for audio, result, known_before in results:
                if isinstance(result, Exception):
                    reason = f"{audio}: {result.strerror or result}" if isinstance(result, OSError) else str(result)
                    outcome.failed.append((audio, " ".join(reason.split())))
                    note(f"error: {outcome.failed[-1][1]}")
                    continue
                with suppress(KeyboardInterrupt), interrupt.held(), progress.hidden():
                    if known_before:
                        progress.advance(result.transcript.audio_seconds)
                    else:
                        outcome.fresh.append(result.transcript)
                    outcome.transcripts.append(result)
                    observer.done(result)
        outcome.interrupted = interrupt.happened
    return outcome


def _in_turn(
    transcriber: Transcriber,
    recordings: Sequence[str],
    interrupt: Interrupt,
    on_block: OnBlockOf,
    finished: Finished | None,
    *,
    progress: Task,
) -> Generator[Result]:
    """One recording after another, until Ctrl-C."""
    for number, audio in enumerate(recordings, 1):
        if interrupt.happened:
            return
        if len(recordings) > 1:
            progress.rename(f"{number}/{len(recordings)} {Path(audio).name}")
        try:
            kept = finished.find(audio) if finished is not None else None
            if kept is None and finished is not None:
                finished.begin(audio)
            recording = kept or transcriber.transcribe(audio, interrupt, partial(on_block, audio))
        except (UserError, OSError) as error:
            yield audio, error, False
            continue
        if kept is None and finished is not None and not interrupt.happened:
            with suppress(KeyboardInterrupt), interrupt.held():
                finished.add(recording)
        yield audio, recording, kept is not None


def _together(
    transcriber: Transcriber,
    recordings: Sequence[str],
    interrupt: Interrupt,
    on_block: OnBlockOf,
    finished: Finished | None,
) -> Generator[Result]:
    """Several recordings at a time; after Ctrl-C, also the beginnings of those that were being transcribed."""
    assert isinstance(transcriber.recognizer, Recordings)  # noqa: S101
    through: set[int] = set()  # recordings that were read to their end

    def blocks(number: int) -> Iterator[Audio]:
        if finished is not None:
            finished.begin(recordings[number])
        for block in transcriber.blocks(recordings[number]):
            yield block
            on_block(recordings[number], block, None)
        through.add(number)

    with interrupt.held(), ExitStack() as stack:
        there = dict(_kept(recordings, finished))
        left = [number for number in range(len(recordings)) if number not in there]
        waiting = ((number, Recording(partial(blocks, number), transcriber.language)) for number in left)
        place = 0  # of the next one to yield
        results = transcriber.recognizer.transcribe(
            waiting, flush=transcriber.flush, stopped=lambda: interrupt.happened
        )
        stack.enter_context(closing(results))
        for number, outcome in results:
            audio = recordings[number]
            if isinstance(outcome, Transcript):
                recording = transcriber.with_words(audio, outcome, outcome.timings.wall, partial=number not in through)
                if finished is not None and not recording.partial:
                    finished.add(recording)
                there[number] = audio, recording, False
            else:
                there[number] = audio, outcome, False
            while place in there:
                yield there.pop(place)
                place += 1
        yield from (there[number] for number in sorted(there))


def _kept(recordings: Sequence[str], finished: Finished | None) -> Iterator[tuple[int, Result]]:
    """What an earlier run left, by number."""
    if finished is None:
        return
    for number, audio in enumerate(recordings):
        try:
            recording = finished.find(audio)
        except OSError as error:
            yield number, (audio, error, False)
            continue
        if recording is not None:
            yield number, (audio, recording, True)
