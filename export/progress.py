"""Progress on stderr: a rich bar on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # paths hold brackets


class Task:
    """One piece of long work; :meth:`advance` after each of its ``total`` parts, or seconds of audio."""

    def __init__(self, title: str, total: float | None, progress: Progress | None, *, audio: bool = False) -> None:
        self.title = title
        self.total = total
        self.done: float = 0
        self._audio = audio
        self._progress = progress
        self._last_line = time.monotonic()
        self._id = progress.add_task(title, total=total) if progress else None

    def advance(self, parts: float = 1) -> None:
        """Count ``parts`` more as done; a plain line at most every ten seconds without a terminal."""
        self.done += parts
        if self._progress is not None and self._id is not None:
            self._progress.advance(self._id, parts)
        elif time.monotonic() - self._last_line >= 10.0:
            self._last_line = time.monotonic()
            console.print(f"{self.title}: {_so_far(self.done, self.total, self._audio)}", soft_wrap=True)

    @property
    def on_terminal(self) -> bool:
        """Whether there is a bar, which people see."""
        return self._progress is not None

    def rename(self, title: str) -> None:
        """Say what is being done now."""
        self.title = title
        if self._progress is not None and self._id is not None:
            self._progress.update(self._id, description=title)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar away while the body writes to the terminal."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


class _AudioTime(ProgressColumn):
    """Audio so far and in all."""

    def render(self, task: RichTask) -> Text:
        return Text(_so_far(task.completed, task.total, audio=True))


def _so_far(done: float, total: float | None, audio: bool) -> str:
    written = clock if audio else (lambda parts: f"{parts:g}")
    return written(done) + (f"/{written(total)}" if total else "") + (" of audio" if audio else "")


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def task(title: str, total: float | None = None, *, audio: bool = False) -> Iterator[Task]:
    """Show ``title`` while the body runs, with its duration at the end.

    Args:
        title: what is being done, as a participle ("exporting encoder").
        total: how many calls of :meth:`Task.advance` to expect, or seconds of audio; None shows a spinner.
        audio: count seconds of audio, not parts.
    """
    start = time.monotonic()
    if console.is_terminal:
        counted = MofNCompleteColumn() if total is not None else TextColumn("")
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _AudioTime() if audio else counted,
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield Task(title, total, progress, audio=audio)
    else:
        console.print(f"{title} …", soft_wrap=True)
        yield Task(title, total, None, audio=audio)
    console.print(f"{title}: done in {time.monotonic() - start:.1f} s", soft_wrap=True)


def note(message: str) -> None:
    """Print one line on stderr."""
    console.print(message, soft_wrap=True)
