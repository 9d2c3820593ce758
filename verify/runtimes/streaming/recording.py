"""A recording on its way into a recognizer: audio that is read as steps need it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.languages import DEFAULT_LANGUAGE
from verify.data.audio import Audio
from verify.runtimes.transcript import Transcript

if TYPE_CHECKING:
    from verify.runtimes.streaming.stream import Stream


@dataclass(frozen=True)
class Recording:
    """What is to be recognized.

    Attributes:
        blocks: opens the recording when its turn comes: blocks of audio, each [any] at the folder's sample rate.
        language: prompt.
    """

    blocks: Callable[[], Iterable[Audio]]
    language: str = DEFAULT_LANGUAGE


class Live:
    """A recording and its stream.

    Attributes:
        stream: the stream.
    """

    def __init__(self, stream: Stream, blocks: Callable[[], Iterable[Audio]]) -> None:
        self.stream = stream
        self._open = blocks
        self._begun = self._ended = False

    def feed(self, *, flush: bool, stop: bool) -> bool:
        """Read until a step is due, or to the end.

        Args:
            flush: see :meth:`Stream.finish`.
            stop: read no more: the recording ends here.

        Returns:
            False where it was stopped before anything was read.

        Raises:
            UserError: the recording cannot be read.
            OSError: the same.
        """
        if not self._begun:
            if stop:
                return False
            self._blocks = iter(self._open())
            self._begun = True
        while not self._ended and not self.stream.pending:
            block = None if stop else next(self._blocks, None)
            if block is None:
                self._ended = True
                self.stream.finish(flush=flush, run=False)
            else:
                self.stream.push(block, run=False)
        return True


def whole(outcome: Transcript | Exception) -> Transcript:
    """A transcript, or what was raised instead."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
