"""Many recordings at once: batches and longer steps, in several requests that share one copy of the weights."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from export.bundle import Bundle, Metadata
from export.host import physical_cores
from verify.runtimes.graph import Config
from verify.runtimes.streaming.recognizer import Key, Streaming
from verify.runtimes.streaming.recording import Recording
from verify.runtimes.transcript import Transcript

STEP_FRAMES = 56
"""Encoder frames of a step, all rows together. With fewer the weights are read more often; more gain next to nothing
and cost memory (docs/performance.md)."""

ROW_FRAMES = 14
"""Of them in a row, where recordings fill the other rows: half of it is lost at the end of each recording."""

MOST_ROWS = 16
"""Recordings in a step at most."""

MOST_REQUESTS = 4
"""Requests at most: each holds a step's tensors, 0.2 GB of them at full size."""


@dataclass(frozen=True)
class Shape:
    """How recordings go through the graphs together."""

    batch: int  # recordings in a step
    chunks: int  # of the folder's chunks that a step holds of each
    requests: int  # steps at a time, each with its share of the threads


def shape_for(metadata: Metadata, seconds: Sequence[float], threads: int, *, longer_steps: bool = True) -> Shape:
    """The shape that gives the most audio per second for recordings of these lengths; all give the same tokens.

    A step is filled with recordings first, which loses no more than one after another does: the rest of each one's last
    chunk. Few long recordings fill it with chunks.

    Args:
        metadata: the folder's.
        seconds: how long each recording is.
        threads: CPU threads.
        longer_steps: whether a step may hold several chunks of a recording, where the folder can.
    """
    longer_steps = longer_steps and metadata.longer_steps
    count = max(1, len(seconds))
    requests = max(1, min(threads, count, MOST_REQUESTS))
    frames = metadata.chunk_mel_frames // metadata.subsampling_factor
    room = max(1, STEP_FRAMES // frames)  # chunks of a step
    shortest = max(1, ROW_FRAMES // frames) if longer_steps else 1  # chunks of a row
    batch = max(1, min(room // shortest, -(-count // requests), MOST_ROWS))
    if not longer_steps:
        return Shape(batch, 1, requests)
    mean = 100 * sum(seconds) / count / metadata.chunk_mel_frames  # chunks of a recording
    return Shape(batch, max(1, min(room // batch, max(shortest, int(mean / 2)))), requests)


class Recordings:
    """A folder for recordings that are there already, on a CPU: what counts is audio per second, not when a text comes.

    Tokens, frames and texts are those of :class:`Streaming`. A transcript's times are shares of what all requests did
    together, so that they add up; ``timings.steps`` stay empty, since no chunk was timed alone. One short recording is
    alone, chunk by chunk, and timed so.

    Args:
        bundle: as in :class:`Streaming`.
        seconds: how long each of the recordings is, as far as is known; from it the shape of a step follows.
        threads: CPU threads of all requests together; None for the physical cores.
        config: OpenVINO properties that override :data:`verify.runtimes.graph.FP32_CONFIG`.
        nemo_start: as in :class:`Streaming`.
        shape: instead of what follows from ``seconds``.

    Raises:
        UserError: as in :class:`Streaming`.
    """

    def __init__(
        self,
        bundle: Bundle,
        seconds: Sequence[float],
        *,
        threads: int | None = None,
        config: Config | None = None,
        nemo_start: bool = False,
        shape: Shape | None = None,
    ) -> None:
        threads = threads or physical_cores()
        self.shape = shape or shape_for(bundle.metadata, seconds, threads, longer_steps=not nemo_start)
        together = {"NUM_STREAMS": str(self.shape.requests)} | dict(config or {})
        first = Streaming(
            bundle,
            batch=self.shape.batch,
            chunks=self.shape.chunks,
            threads=threads,
            config=together,
            nemo_start=nemo_start,
        )
        self.config = first.config
        self._clock = _SharedClock()
        first.clock = self._clock.now
        self._lanes = [first, *(first.another() for _ in range(self.shape.requests - 1))]

    def transcribe(
        self,
        recordings: Iterable[tuple[Key, Recording]],
        *,
        flush: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[Key, Transcript | Exception]]:
        """As :meth:`Streaming.transcribe_each`, which each request does with the next of these recordings.

        Recordings are read in the requests' threads, which go on until all are through or the generator is closed.
        """
        shared, shared_time = _Shared(iter(recordings)), self.shape != Shape(1, 1, 1)
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        abandoned = threading.Event()

        def run(lane: Streaming) -> None:
            try:
                with self._clock.running():
                    for found in lane.transcribe_each(
                        shared, flush=flush, stopped=lambda: abandoned.is_set() or stopped()
                    ):
                        results.put(found)
                results.put(None)
            except BaseException as error:  # raised where the results are taken
                results.put(error)

        threads = [threading.Thread(target=run, args=(lane,), name="recordings") for lane in self._lanes]
        for thread in threads:
            thread.start()
        try:
            left = len(threads)
            while left:
                found = results.get()
                if found is None:
                    left -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    key, outcome = found
                    yield key, _untimed(outcome) if shared_time and isinstance(outcome, Transcript) else outcome
        finally:
            abandoned.set()
            for thread in threads:
                thread.join()


def _untimed(transcript: Transcript) -> Transcript:
    return replace(transcript, timings=replace(transcript.timings, steps=()), together=True)


class _Shared(Iterator[Any]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __next__(self) -> Any:
        with self._lock:
            return next(self._items)


class _SharedClock:
    """Seconds, divided by how many requests run: what each of them takes adds up to what all took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running, self._at, self._value = 0, 0.0, 0.0

    def now(self) -> float:
        """Seconds so far."""
        with self._lock:
            return self._tick()

    @contextmanager
    def running(self) -> Iterator[None]:
        """One request more while the body runs."""
        with self._lock:
            self._tick()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._tick()
                self._running -= 1

    def _tick(self) -> float:
        at = time.perf_counter()
        self._value += (at - self._at) / max(1, self._running)
        self._at = at
        return self._value
