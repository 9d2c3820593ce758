"""One live signal: audio in, tokens, text and words out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Metadata
from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE, language_key
from verify.data.audio import Audio, audio_problem
from verify.runtimes.streaming.signal import SignalBuffer, Window
from verify.runtimes.streaming.words import Word, group_words
from verify.runtimes.transcript import Timings, Transcript, decode, written

if TYPE_CHECKING:
    # The one circle of imports, of types only: a stream is a handle on its recognizer, which makes and steps it.
    from verify.runtimes.streaming.recognizer import Streaming

FLUSH_SECONDS = 1.0
"""Silence that ends a flushed stream, beyond the lookahead: time for the last word and its language tag."""


class Stream:
    """One live signal: push audio in blocks of any size, read text at any time, finish.

    Memory is bounded (a step's audio, a row of caches) but for each step's seconds, 8 bytes, and the tokens and their
    frames, some 4 a second, which :meth:`take` hands out and forgets. A stream is one caller's: several threads may
    each use their own.
    """

    def __init__(self, recognizer: Streaming, language: str) -> None:
        self._recognizer = recognizer
        self._geometry = recognizer.geometry
        self._begin(language)

    def _begin(self, language: str) -> None:
        meta, geometry = self._recognizer.bundle.metadata, self._geometry
        self._language = language
        self.prompt = _prompt(meta, language)
        self._signal = SignalBuffer(geometry)
        self._finished = False
        self.failure: BaseException | None = None  # that of a step it was in: its tokens are incomplete
        self.busy = False  # a step with it is running
        self.saved: list[NDArray[Any]] | None = None  # its state while another stream has its row
        self.encoder_frames = 0
        self._emitted: list[tuple[int, int]] = []
        self._detected: str | None = None
        self._pushed = 0
        self._spent: dict[str, Any] = {}
        self._steps = array("d")  # seconds of each

    def push(self, samples: Audio, *, run: bool = True) -> None:
        """Take a block of audio.

        Args:
            samples: [any] floats at the folder's rate, ±1.
            run: recognize every step that it completes before returning; False leaves that to
                :meth:`Streaming.step`, so that several streams go in one batch.

        Raises:
            ValueError: the samples are no audio, and nothing was taken; or the stream is finished.
            UserError: a step with this stream in it failed; :meth:`reset` begins anew.
        """
        samples = _checked(samples)
        with self._recognizer.turn:
            self.require_whole()
            if self._finished:
                raise ValueError("the stream is finished; reset it or open another one")
            self._append(samples)
            self._pushed += len(samples)
        if run:
            self._recognizer.run(self)

    def finish(self, *, flush: bool = True, run: bool = True) -> None:
        """The signal is over.

        Args:
            flush: append silence for the lookahead and :data:`FLUSH_SECONDS`; without it the tokens are NeMo's.
            run: as in :meth:`push`.

        Raises:
            UserError: as in :meth:`push`.
        """
        meta = self._recognizer.bundle.metadata
        with self._recognizer.turn:
            self.require_whole()
            if not self._finished:
                if flush:
                    frames = (meta.lookahead + 1) * meta.subsampling_factor
                    silence = frames * self._geometry.hop + int(FLUSH_SECONDS * meta.sample_rate)
                    self._append(np.zeros(silence, np.float32))
                self._finished = True
                self._signal.end()
                self._recognizer.offer(self)
                if self.over:
                    self._recognizer.release(self)
        if run:
            self._recognizer.run(self)

    def reset(self, language: str | None = None) -> None:
        """Begin a new signal; everything of the last one is dropped.

        Args:
            language: prompt; None keeps the last one.
        """
        with self._recognizer.turn:
            self._recognizer.release(self)
            self._begin(self._language if language is None else language)

    @property
    def tokens(self) -> list[int]:
        """Tokens so far, language tags included."""
        return [token for token, _ in self._emitted.copy()]

    @property
    def frames(self) -> list[int]:
        """Encoder frame of each of :attr:`tokens`, counted from the start of the signal."""
        return [frame for _, frame in self._emitted.copy()]

    def result(self) -> tuple[str, str | None]:
        """Text so far (without what was taken) and the detected language."""
        recognizer = self._recognizer
        text, detected = decode(self.tokens, recognizer.bundle.vocabulary, recognizer.tags)
        return text, self._detected or detected

    def words(self) -> list[Word]:
        """Words so far (without those taken) with their times."""
        return [word for word in self._words(self._emitted.copy())[0] if word.text]

    def take(self) -> list[Word]:
        """The words that are complete, to be forgotten: all but the last one, and that too once finished."""
        emitted, over = self._emitted, self.over
        words, before_last = self._words(emitted)
        known = len(emitted) if over else before_last
        if self._detected is None:
            recognizer = self._recognizer
            tokens = [token for token, _ in emitted[:known]]
            self._detected = decode(tokens, recognizer.bundle.vocabulary, recognizer.tags)[1]
        del emitted[:known]
        return [word for word in (words if over else words[:-1]) if word.text]

    def transcript(self) -> Transcript:
        """All so far; times are this stream's share of the steps it was in, calls the rows it had in them.

        Raises:
            UserError: as in :meth:`push`.
        """
        self.require_whole()
        text, detected = self.result()
        emitted = self._emitted.copy()
        seconds = self._pushed / self._recognizer.bundle.metadata.sample_rate
        tokens, frames = [token for token, _ in emitted], [frame for _, frame in emitted]
        return Transcript(tokens, frames, text, detected, seconds, Timings(**self._spent, steps=tuple(self._steps)))

    @property
    def pending(self) -> bool:
        """Whether a step of it is due or running."""
        with self._recognizer.turn:
            return self.busy or self.ready

    @property
    def over(self) -> bool:
        """Whether no step will ever come."""
        with self._recognizer.turn:
            return (self._finished or self.failure is not None) and not self.pending

    # What follows is the recognizer's side, with its turn held.

    def require_whole(self) -> None:
        """Raise where a step with this stream in it has failed."""
        if self.failure is not None:
            raise UserError(f"a step of this stream failed ({self.failure}); reset it") from self.failure

    @property
    def ready(self) -> bool:
        """Whether the audio of a step is there."""
        return self.failure is None and self._signal.due() > 0

    def window(self) -> Window:
        """Take the next step's audio; there is one where the stream is ready."""
        return self._signal.window()

    def emit(self, token: int, frame: int) -> None:
        """A token at a frame of the step."""
        self._emitted.append((token, self.encoder_frames + frame))

    def charge(self, name: str, seconds: float) -> None:
        """A share of a graph's time."""
        self._spent[name] = self._spent.get(name, 0.0) + seconds
        if name != "wall":
            self._spent[f"{name}_calls"] = self._spent.get(f"{name}_calls", 0) + 1

    def stepped(self, seconds: float, members: int) -> None:
        """A step of so many streams, which each waited for all of it."""
        self.charge("wall", seconds / members)
        self._steps.append(seconds)

    def _append(self, samples: Audio) -> None:
        self._signal.append(samples)
        self._recognizer.offer(self)

    def _words(self, emitted: Sequence[tuple[int, int]]) -> tuple[list[Word], int]:
        recognizer = self._recognizer
        texts = written([token for token, _ in emitted], recognizer.bundle.vocabulary, recognizer.tags)
        placed = [(place, frame) for place, (_, frame) in enumerate(emitted)]
        return group_words(placed, texts.__getitem__, self._geometry.subsampling / 100)


def _prompt(meta: Metadata, language: str) -> int:
    """The prompt's row; 0 where there is none to choose."""
    if meta.prompt_dictionary is None:
        if language != DEFAULT_LANGUAGE:
            raise UserError(f"language {language}: {meta.model} takes no language; leave it out")
        return 0
    try:
        return meta.prompt_dictionary[language_key(language, meta.prompt_dictionary)]
    except ValueError as error:
        raise UserError(f"language: {error}; choose another, or {DEFAULT_LANGUAGE}") from error


def _checked(samples: Audio) -> Audio:
    """The samples as an array, if they can be recognized."""
    array = np.asarray(samples)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"audio of shape {list(array.shape)} {array.dtype}: give floats of ±1 of shape [samples]")
    problem = audio_problem(array)
    if problem:
        raise ValueError(f"the block of audio {problem}; leave it out or scale it")
    return array.astype(np.float32, copy=False)
