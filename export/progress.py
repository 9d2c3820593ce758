"""Progress on stderr: a rich bar on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # paths hold brackets


class Task:
    """One piece of long work; :meth:`advance` after each of its ``total`` parts."""

    def __init__(self, title: str, total: int | None, progress: Progress | None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._progress = progress
        self._last_line = time.monotonic()
        self._id = progress.add_task(title, total=total) if progress else None

    def advance(self, parts: int = 1) -> None:
        """Count ``parts`` more as done; a plain line at most every ten seconds without a terminal."""
        self.done += parts
        if self._progress is not None and self._id is not None:
            self._progress.advance(self._id, parts)
        elif time.monotonic() - self._last_line >= 10.0:
            self._last_line = time.monotonic()
            console.print(f"{self.title}: {self.done}" + (f"/{self.total}" if self.total else ""), soft_wrap=True)


@contextmanager
def task(title: str, total: int | None = None) -> Iterator[Task]:
    """Show ``title`` while the body runs, with its duration at the end.

    Args:
        title: what is being done, as a participle ("exporting encoder").
        total: how many calls of :meth:`Task.advance` to expect; None shows a spinner.
    """
    start = time.monotonic()
    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn() if total is not None else TextColumn(""),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield Task(title, total, progress)
    else:
        console.print(f"{title} …", soft_wrap=True)
        yield Task(title, total, None)
    console.print(f"{title}: done in {time.monotonic() - start:.1f} s", soft_wrap=True)


def note(message: str) -> None:
    """Print one line on stderr."""
    console.print(message, soft_wrap=True)
