"""Transcribing: in one process, or in shards on the machines of a cluster, by the same function.

A shard is a part of the utterances. :func:`transcribe_shard` is what runs on one, here and on the machines of
:mod:`verify.cluster`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.progress import note, task
from verify.data.audio import audio_seconds
from verify.data.identity import require_unchanged, utterance_sha256
from verify.data.manifest import Utterance, load_utterance
from verify.data.selection import spread_seconds
from verify.runtimes.graph import Config
from verify.runtimes.names import Runtime, open_runtime
from verify.runtimes.streaming import Recording, Recordings
from verify.runtimes.streaming.recording import whole
from verify.runtimes.streaming.recordings import Shape
from verify.runtimes.transcript import Recognizer, Transcript
from verify.unfinished import Unfinished

MANIFEST_LANGUAGE = "manifest"
"""Instead of a language: prompt every utterance with its own ``target_lang``."""

TIMED_SECONDS = 60.0
"""Audio that is transcribed chunk by chunk where the rest is not, so that a report's times of chunks are a client's."""

Numbered = tuple[int, Utterance]
"""An utterance with its place in the manifest."""


@dataclass(frozen=True)
class Build:
    """A folder and how it is run: all that another process needs to know.

    Attributes:
        bundle: the folder.
        runtime: a name of :data:`verify.runtimes.names.RUNTIMES`.
        language: prompt, or :data:`MANIFEST_LANGUAGE` for each utterance's own.
        device: OpenVINO device.
        threads: CPU threads; None for the physical cores.
        config: OpenVINO properties.
        nemo_start: see :class:`verify.runtimes.streaming.Streaming`.
    """

    bundle: Bundle
    runtime: Runtime
    language: str = MANIFEST_LANGUAGE
    device: str = "CPU"
    threads: int | None = None
    config: Config | None = None
    nemo_start: bool = False

    @property
    def together(self) -> bool:
        """Whether recordings can be transcribed together."""
        return self.runtime == "streaming" and self.device == "CPU"

    def open(self) -> Recognizer:
        """For one recording after another, chunk by chunk."""
        options: dict[str, Any] = {"device": self.device, "threads": self.threads, "config": self.config}
        return open_runtime(self.bundle, self.runtime, nemo_start=self.nemo_start, **options)

    def open_together(self, seconds: Sequence[float], shape: Shape | None = None) -> Recordings:
        """For recordings of these lengths at once."""
        options: dict[str, Any] = {"threads": self.threads, "config": self.config, "nemo_start": self.nemo_start}
        return Recordings(self.bundle, seconds, shape=shape, **options)


class Machines(Protocol):
    """Where shards are transcribed, if not in this process."""

    def transcribe(
        self, build: Build, utterances: Sequence[Numbered], seconds: Sequence[float]
    ) -> Generator[tuple[int, Transcript]]:
        """Every utterance's transcript by its number, as they come.

        Args:
            build: what transcribes.
            utterances: in the order in which they are to begin.
            seconds: how long each of them is.
        """
        ...


def transcribe_shard(
    recognizer: Recognizer | Recordings, utterances: Sequence[Numbered], *, sample_rate: int, language: str
) -> Generator[tuple[int, Transcript]]:
    """Transcripts by number, as they come.

    Args:
        recognizer: what transcribes: one after another, or several together.
        utterances: the shard.
        sample_rate: the model's, in Hz.
        language: prompt for all of them, or :data:`MANIFEST_LANGUAGE` for each utterance's own.

    Raises:
        UserError: an audio file cannot be used.
    """
    if not isinstance(recognizer, Recordings):
        for number, utterance in utterances:
            audio = load_utterance(utterance, sample_rate)
            yield number, recognizer.transcribe(audio, prompt_of(utterance, language))
        return
    waiting = (
        (number, Recording(partial(_whole, utterance, sample_rate), prompt_of(utterance, language)))
        for number, utterance in utterances
    )
    with closing(recognizer.transcribe(waiting)) as results:
        for number, outcome in results:
            yield number, whole(outcome)


def _whole(utterance: Utterance, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """An utterance in one block."""
    yield load_utterance(utterance, sample_rate)


def transcribe_manifest(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    sample_rate: int,
    language: str = MANIFEST_LANGUAGE,
    title: str = "transcribing",
    unfinished: Unfinished | None = None,
    check: Callable[[], object] = lambda: None,
) -> list[Transcript]:
    """Every utterance's transcript, in order, with progress.

    Args:
        recognizer: the runtime.
        utterances: what to transcribe.
        sample_rate: the model's, in Hz.
        language: prompt for all of them, or :data:`MANIFEST_LANGUAGE` for each utterance's own.
        title: what the progress says.
        unfinished: what an earlier run got through, to which this run's transcripts are added.
        check: called before a transcript is taken; what it raises ends the run.

    Raises:
        UserError: an audio file cannot be used.
    """

    def each(numbers: Sequence[int]) -> Generator[tuple[int, Transcript]]:
        return transcribe_shard(
            recognizer, [(number, utterances[number]) for number in numbers], sample_rate=sample_rate, language=language
        )

    return _collected(each, utterances, title, unfinished, check)


def transcribe_build(
    build: Build,
    utterances: Sequence[Utterance],
    *,
    title: str,
    unfinished: Unfinished | None = None,
    machines: Machines | None = None,
) -> list[Transcript]:
    """A folder's transcripts, as many audio seconds a second as it can; arguments as in :func:`transcribe_manifest`.

    Where there is much audio, :data:`TIMED_SECONDS` of it go one after another in one-chunk steps, since only so a
    chunk's time means something. The others go together (:class:`Recordings`), the longest first, or to ``machines``;
    then what is timed, half of the audio at most, runs here before anything is sent.
    """
    rate = build.bundle.metadata.sample_rate
    if machines is None and not build.together:
        return transcribe_manifest(
            build.open(), utterances, sample_rate=rate, language=build.language, title=title, unfinished=unfinished
        )
    lengths = [each.duration or audio_seconds(each.audio_filepath) for each in utterances]
    half = sum(lengths) / 2
    if machines is not None or half >= TIMED_SECONDS:
        timed = spread_seconds(utterances, min(half, TIMED_SECONDS))
    else:
        timed = list(utterances)
    alone = {id(each) for each in timed}

    def both(numbers: Sequence[int]) -> Generator[tuple[int, Transcript]]:
        first = [(number, utterances[number]) for number in numbers if id(utterances[number]) in alone]
        others = [(number, utterances[number]) for number in numbers if id(utterances[number]) not in alone]
        others.sort(key=lambda each: -lengths[each[0]])
        seconds = [lengths[number] for number, _ in others]
        if first:
            yield from transcribe_shard(build.open(), first, sample_rate=rate, language=build.language)
            gc.collect()  # before the graphs are compiled anew
        if others and machines is not None:
            yield from machines.transcribe(build, others, seconds)
        elif others:
            together = build.open_together(seconds)
            yield from transcribe_shard(together, others, sample_rate=rate, language=build.language)

    return _collected(both, utterances, title, unfinished)


def _collected(
    transcribe: Callable[[Sequence[int]], Generator[tuple[int, Transcript]]],
    utterances: Sequence[Utterance],
    title: str,
    unfinished: Unfinished | None,
    check: Callable[[], object] = lambda: None,
) -> list[Transcript]:
    """Transcripts in the utterances' order, those of an earlier run and those that ``transcribe`` gives by number."""
    if unfinished:
        note(f"{title}: {len(unfinished)} transcripts of a run that was stopped are used")
    identities = [] if unfinished is None else [utterance_sha256(each) for each in utterances]
    found: dict[int, Transcript] = {}
    for number, identity in enumerate(identities):
        kept = unfinished.find(identity) if unfinished is not None else None
        if kept is not None:
            found[number] = kept
    left = [number for number in range(len(utterances)) if number not in found]
    with task(title, total=len(utterances)) as progress, closing(transcribe(left)) as transcripts:
        progress.advance(len(found))
        for number, transcript in transcripts:
            check()
            if unfinished is not None:
                require_unchanged([utterances[number]], [identities[number]])
                unfinished.add(identities[number], transcript)
            found[number] = transcript
            progress.advance()
    return [found[number] for number in range(len(utterances))]


def prompt_of(utterance: Utterance, language: str) -> str:
    """The language that prompts an utterance: its own for :data:`MANIFEST_LANGUAGE`."""
    return utterance.target_lang if language == MANIFEST_LANGUAGE else language
