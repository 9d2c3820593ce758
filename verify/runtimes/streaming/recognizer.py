"""A folder as a streaming recognizer: any number of streams, stepped together in batches."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import expected_ports
from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE
from verify.data.audio import Audio
from verify.runtimes.graph import Config, Graph, Observer, properties
from verify.runtimes.streaming.greedy import Greedy
from verify.runtimes.streaming.recording import Live, Recording, whole
from verify.runtimes.streaming.signal import MARGIN, StepGeometry
from verify.runtimes.streaming.stream import Stream
from verify.runtimes.transcript import Transcript

Key = TypeVar("Key")

CACHES = ("cache_channel", "cache_time", "cache_len")


class Streaming:
    """A folder as a streaming recognizer; any number of :meth:`stream` at a time, from any threads.

    The graphs are compiled for ``batch`` rows, and a step costs all of them, whoever is in it. A stream has a row
    from its first step to its end; where there are more streams than rows, the state of one that waits is copied out
    and in again. Nobody waits for others: a step begins as soon as one stream is ready, and takes along all that are
    ready then, so that streams pushed from several threads gather while a step runs. To fill a batch on purpose,
    push with ``run=False`` and call :meth:`step`, or hand whole recordings to :meth:`transcribe_all`.

    Args:
        bundle: a folder whose graph knows how streams begin (``--encoder rewritten``).
        batch: rows of a step.
        chunks: of the folder's chunks that a step holds. More give the same tokens later, for recordings: the
            attention's mask lets no frame see beyond its group of lookahead + 1 frames, whatever the step.
        device: OpenVINO device of encoder, decoder and joint; the preprocessor runs on the CPU, and so does
            the joint where the device is an NPU.
        threads: CPU threads; None leaves the choice to OpenVINO.
        config: OpenVINO properties that override :data:`verify.runtimes.graph.FP32_CONFIG`.
        observer: told of every run of a graph.
        nemo_start: begin as NeMo does in steps of this folder's chunk. In 80 ms steps NeMo's second window sees the
            padding before the signal as eight frames of zeros, and its text begins with errors; False takes the
            padding for padding, as NeMo does in longer steps.

    Raises:
        UserError: the folder's graph cannot begin a stream as NeMo does, or cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        batch: int = 1,
        chunks: int = 1,
        device: str = "CPU",
        threads: int | None = None,
        config: Config | None = None,
        observer: Observer | None = None,
        nemo_start: bool = False,
    ) -> None:
        import openvino as ov

        meta = bundle.metadata
        if not meta.lead_mel_frames:
            raise UserError(
                f"{bundle.path}: its {meta.encoder} encoder cannot begin a stream as NeMo does; "
                "use --runtime generation1, or export with --encoder rewritten"
            )
        if batch < 1:
            raise UserError(f"batch {batch}: use 1 or more streams a step")
        if chunks < 1:
            raise UserError(f"chunks {chunks}: use 1 or more chunks a step")
        if chunks > 1 and nemo_start:
            raise UserError(f"chunks {chunks}: NeMo's own start is that of one chunk a step; leave out chunks")
        if chunks > 1 and not meta.longer_steps:
            raise UserError(
                f"{bundle.path}: its encoder takes one chunk a step; export again with whole lookahead groups a chunk, "
                "or leave out chunks"
            )
        self.bundle = bundle
        self.batch = batch
        self.config = properties(threads, config, device)
        self.clock: Callable[[], float] = time.perf_counter  # seconds; what the streams' times are counted in
        self.geometry = StepGeometry(meta, chunks)
        self._says_short_lead = meta.knows_short_leads and not nemo_start
        self.tags = frozenset(meta.lang_tag_token_ids)

        core = ov.Core()

        def load(name: str, device: str, shapes: dict[str, list[int]]) -> Graph:
            wanted = properties(threads, config, device)
            return Graph.load(core, bundle, name, device, wanted, shapes=shapes, lean=True, observer=observer)

        samples: dict[str, list[int]] = {"audio": [batch, self.geometry.samples], "audio_length": [batch]}
        rows = 1 if batch == 1 else -1
        self._begin(
            load("preprocessor", "CPU", samples),
            load("encoder", device, step_shapes(bundle, "encoder", batch, chunks)),
            load("decoder", device, step_shapes(bundle, "decoder", batch)),
            load(
                "joint",
                "CPU" if device.startswith("NPU") else device,  # takes as many frames as there are, an NPU fixed shapes
                {"encoder": [rows, meta.encoder_dim, -1], "decoder": [rows, meta.decoder_hidden, 1]},
            ),
        )

    def another(self) -> Streaming:
        """A recognizer on the same compiled graphs, with rows and requests of its own: both can step at the same time.

        The graphs' requests run together where they are compiled for it (OpenVINO's ``NUM_STREAMS``).
        """
        other = copy.copy(self)
        other._begin(*(graph.another() for graph in (self.preprocessor, self.encoder, self.decoder, self.joint)))
        return other

    def _begin(self, preprocessor: Graph, encoder: Graph, decoder: Graph, joint: Graph) -> None:
        """Empty rows on these graphs."""
        meta, batch = self.bundle.metadata, self.batch
        self.turn = threading.Condition()  # held for a moment: streams' audio, the queue, who steps
        self._queue: dict[Stream, None] = {}  # those with a step due, in the order they became so
        self._stepping = False
        self._rows: list[Stream | None] = [None] * batch
        self._used = [0] * batch  # when a row was last in a step
        self._steps = 0
        self.preprocessor, self.encoder, self.decoder, self.joint = preprocessor, encoder, decoder, joint
        self._audio = self.preprocessor.input("audio")
        self._audio_length = self.preprocessor.input("audio_length")
        self._mel = self.encoder.input("mel")  # the carried frames stay at each row's head
        self._mel_length = self.encoder.input("mel_length")
        self._prompt = self.encoder.input("prompt_id") if "prompt_id" in self.encoder.input_names else None
        self.encoder.carry(CACHES)
        self._greedy = Greedy(self.decoder, self.joint, meta.blank_idx, self._timed)
        # Row 0 is as every stream begins.
        self.encoder.output("cache_len")[0] = -meta.lead_mel_frames
        self._beginning = [array.copy() for array in self._row(0)]

    def stream(self, language: str = DEFAULT_LANGUAGE) -> Stream:
        """A new stream.

        Args:
            language: see :func:`export.languages.language_key`.

        Raises:
            UserError: the folder has no such language, or takes none.
        """
        return Stream(self, language)

    def transcribe(self, audio: Audio, language: str = DEFAULT_LANGUAGE, *, flush: bool = False) -> Transcript:
        """Recognize one utterance; see :class:`verify.runtimes.transcript.Recognizer`.

        Args:
            audio: [samples] at the folder's sample rate.
            language: prompt.
            flush: end with silence; without it the tokens are NeMo's.
        """
        start = time.perf_counter()
        transcript = self.transcribe_all([audio], language, flush=flush)[0]
        return replace(transcript, timings=replace(transcript.timings, wall=time.perf_counter() - start))

    def transcribe_all(
        self, audios: Sequence[Audio], languages: Sequence[str] | str = DEFAULT_LANGUAGE, *, flush: bool = False
    ) -> list[Transcript]:
        """Recognize utterances in full batches; the longest begin first, so that few rows stay empty at the end.

        Args:
            audios: of shape [samples] each, at the folder's sample rate.
            languages: a prompt each, or one for all.
            flush: as in :meth:`transcribe`.

        Returns:
            In the order given. ``timings`` are an utterance's share of the steps it was in: seconds add up to those
            of the whole, calls count each row.

        Raises:
            ValueError: as many languages are not given as audios, or one is no audio.
            UserError: a step failed.
        """
        prompts = [languages] * len(audios) if isinstance(languages, str) else languages
        if len(prompts) != len(audios):
            raise ValueError(f"{len(prompts)} languages for {len(audios)} utterances")
        order = sorted(range(len(audios)), key=lambda index: -len(audios[index]))
        recordings = ((index, Recording(partial(iter, [audios[index]]), prompts[index])) for index in order)
        done = dict(self.transcribe_each(recordings, flush=flush))
        return [whole(done[index]) for index in range(len(audios))]

    def transcribe_each(
        self,
        recordings: Iterator[tuple[Key, Recording]],
        *,
        flush: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Key, Transcript | Exception]]:
        """Recognize recordings, ``batch`` of them at a time; another takes the row of each that ends.

        Args:
            recordings: each with what it is called here; taken as rows become free. Of their audio a step's is held.
            flush: as in :meth:`transcribe`.
            stopped: asked before every step; once it says so, no more audio is taken: the recordings that have begun
                end with the tokens recognized until then, and no others begin.

        Yields:
            Transcripts as they come; a ``UserError`` or ``OSError`` where a recording cannot be read.

        Raises:
            ValueError: a block is no audio.
            UserError: a step failed, or a language is unknown.
        """
        live: dict[Key, Live] = {}
        more = True
        try:
            while more or live:
                while more and len(live) < self.batch:
                    following = None if stopped() else next(recordings, None)
                    more = following is not None
                    if following is not None:
                        key, recording = following
                        live[key] = Live(self.stream(recording.language), recording.blocks)
                for key in list(live):
                    try:
                        begun = live[key].feed(flush=flush, stop=stopped())
                    except (UserError, OSError) as error:
                        self.drop(live.pop(key).stream)
                        yield key, error
                    else:
                        if not begun:
                            self.drop(live.pop(key).stream)
                try:
                    self.step()
                except Exception:
                    if any(each.stream.failure is not None for each in live.values()):
                        raise  # else it was a step of other callers' streams, who will get it
                for key in [key for key, each in live.items() if each.stream.over]:
                    yield key, live.pop(key).stream.transcript()
        finally:
            for each in live.values():  # those that an error leaves behind shall not go on
                self.drop(each.stream)

    def drop(self, stream: Stream) -> None:
        """Take no more steps of a stream."""
        with self.turn:
            self.release(stream)

    def step(self) -> int:
        """Run one step of up to ``batch`` streams that have one due; how many there were, none if none has."""
        with self.turn:
            while self._stepping:
                self.turn.wait()
            return self._step()

    def run(self, stream: Stream) -> None:
        """Run steps until none of this stream is due; other streams' steps go along.

        Raises:
            UserError: a step with this stream in it failed; those of others are raised for them.
        """
        with self.turn:
            while stream.pending:
                if self._stepping:
                    self.turn.wait()
                    continue
                try:
                    self._step()
                except Exception:
                    if stream.failure is not None:
                        raise
            stream.require_whole()

    def offer(self, stream: Stream) -> None:
        """Queue a stream if it has a step due; to be called with :attr:`turn` held."""
        if stream.ready and not stream.busy:
            self._queue[stream] = None

    def release(self, stream: Stream) -> None:
        """Take a stream's row and its place in the queue; to be called with :attr:`turn` held."""
        while stream.busy:
            self.turn.wait()
        self._queue.pop(stream, None)
        if stream in self._rows:
            self._rows[self._rows.index(stream)] = None

    def _step(self) -> int:
        """One step, with :attr:`turn` held at the beginning and the end, and free in between.

        Where it fails, nobody knows how far its streams came: each has the failure, until it is reset. Others are
        as they were, since only members' state is written.
        """
        start = self.clock()
        streams = list(self._queue)[: self.batch]
        if not streams:
            return 0
        self._steps += 1
        self._stepping = True
        for stream in streams:
            del self._queue[stream]
            stream.busy = True
        try:
            members = {self._seat(stream, streams): stream for stream in streams}
            leads = {row: self._take_window(row, stream) for row, stream in members.items()}
            self.turn.release()
            try:
                self._encode(members, leads)
                self._greedy.decode(members, self.encoder.output("encoded"), self.encoder.output("encoded_length"))
                seconds = self.clock() - start
                for stream in streams:
                    stream.stepped(seconds, len(streams))
            finally:
                self.turn.acquire()
        except BaseException as error:
            for stream in streams:
                stream.failure = error
            raise
        finally:
            self._stepping = False
            for stream in streams:
                stream.busy = False
                self.offer(stream)
                if stream.over:
                    self.release(stream)
            self.turn.notify_all()
        return len(streams)

    def _seat(self, stream: Stream, members: Sequence[Stream]) -> int:
        """A stream's row: the one it has, a free one, or that of who waits longest, whose state is kept."""
        if stream in self._rows:
            row = self._rows.index(stream)
        else:
            others = [row for row, holder in enumerate(self._rows) if holder not in members]
            row = min(others, key=lambda row: (self._rows[row] is not None, self._used[row]))
            holder = self._rows[row]
            if holder is not None:
                holder.saved = [array.copy() for array in self._row(row)]
            for array, value in zip(self._row(row), stream.saved or self._beginning, strict=True):
                np.copyto(array, value)
            stream.saved = None
            self._rows[row] = stream
        self._used[row] = self._steps
        return row

    def _row(self, row: int) -> list[NDArray[Any]]:
        """Everything that a stream carries from step to step."""
        caches = [self.encoder.output(name)[row : row + 1] for name in CACHES]
        return [self._mel[row, :, : self.geometry.carried], *caches, *self._greedy.row(row)]

    def _take_window(self, row: int, stream: Stream) -> int:
        """Move a stream's audio into the batch; how many frames come before its signal."""
        window = stream.window()
        self._audio[row, : len(window.samples)] = window.samples
        self._audio_length[row] = len(window.samples)
        self._mel_length[row] = window.mel_length
        if self._prompt is not None:
            self._prompt[row] = stream.prompt
        return window.lead

    def _encode(self, members: dict[int, Stream], leads: dict[int, int]) -> None:
        """Audio to ``encoded``; rows of others keep their state."""
        carried = self.geometry.carried
        self._timed("preprocessor", members)
        mel = self.preprocessor.output("mel")  # [batch, features, MARGIN + new or more], zero past the audio's end
        cache_len = self.encoder.output("cache_len")
        for row, lead in leads.items():
            self._mel[row, :, carried:] = mel[row, :, MARGIN : MARGIN + self.geometry.new]
            self._mel[row, :, :lead] = 0.0
            if lead and self._says_short_lead:
                cache_len[row] = -lead
        self._timed("encoder", members)
        waiting = [row for row, holder in enumerate(self._rows) if holder is not None and row not in members]
        for name in CACHES if waiting else ():
            self.encoder.output(f"{name}_out")[waiting] = self.encoder.output(name)[waiting]
        self.encoder.swap()
        for row in members:
            self._mel[row, :, :carried] = self._mel[row, :, -carried:].copy()

    def _timed(self, graph: str, members: dict[int, Stream]) -> None:
        """Run a graph and share its time among the streams in it."""
        start = self.clock()
        getattr(self, graph).run()
        seconds = (self.clock() - start) / len(members)
        for stream in members.values():
            stream.charge("mel" if graph == "preprocessor" else graph, seconds)


def step_shapes(bundle: Bundle, graph: str, batch: int, chunks: int = 1) -> dict[str, list[int]]:
    """The input shapes of a graph for ``batch`` rows and ``chunks`` a step; LSTM states hold rows on axis 1."""
    shapes = {}
    for port in expected_ports(bundle.metadata)[graph].inputs:
        axis = 1 if port.name in ("h_in", "c_in") else 0
        shapes[port.name] = [batch if index == axis else size for index, size in enumerate(port.shape)]
    if "mel" in shapes:
        shapes["mel"][2] = bundle.metadata.pre_encode_cache + chunks * bundle.metadata.chunk_mel_frames
    return shapes
