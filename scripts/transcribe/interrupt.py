"""Ctrl-C that waits for a step of the recognizer to end, so that the tokens before it are not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupt:
    """While this context lasts, Ctrl-C raises ``KeyboardInterrupt`` between steps, never in one.

    Attributes:
        happened: whether there was a Ctrl-C.
    """

    def __init__(self) -> None:
        self.happened = False
        self._holding = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Take over SIGINT, unless the process ignores it (``nohup``, a shell's ``&``)."""
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give SIGINT back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The body runs to its end; a Ctrl-C in it raises afterwards, after the outermost of several such bodies."""
        before, outer = self.happened, self._holding
        self._holding = True
        try:
            yield
        finally:
            self._holding = outer
        if self.happened and not before and not outer:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.happened = True
        if not self._holding:
            raise KeyboardInterrupt
