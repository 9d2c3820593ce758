"""By how much the best token led where two transcripts part.

Greedy decoding visits cells of the lattice: an encoder frame and the number of tokens before it. In each the best
symbol, blank among them, leads the runner-up by a margin. Where the margin is as small as rounding, another symbol says
nothing about a build.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from export.bundle import Bundle
from export.languages import prompt_language
from export.progress import task
from verify.compare import first_divergence
from verify.data.manifest import Utterance, load_utterance
from verify.runtimes.graph import Graph, Observer
from verify.runtimes.names import Runtime, open_runtime
from verify.runtimes.transcript import MAX_SYMBOLS, Transcript
from verify.shards import prompt_of

Cell = tuple[int, int]
"""Encoder frame from the start of the stream, tokens before it."""


def divergent_cell(one: Transcript, other: Transcript) -> Cell | None:
    """The cell in which the first token that differs was chosen; None where the tokens are the same.

    Before it both paths hold the same tokens, at other frames perhaps: in an equal cell both saw the same.
    """
    position = first_divergence(one.tokens, other.tokens)
    if position is None:
        return None
    return min(each.frames[position] for each in (one, other) if position < len(each.frames)), position


class MarginObserver(Observer):
    """Follows the greedy search of one stream by what its joint is asked, and keeps each cell's margin.

    Works for every runtime of ours at batch 1: the joint looks at one frame, or at several of which those behind the
    first emission are looked at again.
    """

    def __init__(self, blank: int) -> None:
        self._blank = blank
        self.restart()

    def restart(self) -> None:
        """A new utterance begins."""
        self.margins: dict[Cell, float] = {}
        self._frame = self._tokens = self._symbols = 0

    def after(self, graph: Graph) -> None:
        """See :class:`verify.runtimes.graph.Observer`."""
        if graph.name != "joint":
            return
        logits = graph.output("logits")
        for row in logits.reshape(-1, logits.shape[-1]):
            best = int(row.argmax())
            second, first = np.partition(row, -2)[-2:]
            self.margins[self._frame, self._tokens] = float(first) - float(second)
            if best == self._blank:
                self._frame, self._symbols = self._frame + 1, 0
                continue
            self._tokens, self._symbols = self._tokens + 1, self._symbols + 1
            if self._symbols == MAX_SYMBOLS:
                self._frame, self._symbols = self._frame + 1, 0
            return


def margins_at(
    bundle: Bundle,
    cells: Mapping[int, Cell],
    utterances: Sequence[Utterance],
    *,
    runtime: Runtime,
    language: str,
    threads: int | None = None,
    nemo_start: bool = False,
) -> dict[int, float]:
    """A folder's margins in these cells, one of each utterance, from running it again.

    Args:
        bundle: the FP32 folder, which computes in FP32.
        cells: number of the utterance to its cell.
        utterances: the manifest.
        runtime: by which the paths were made; other arguments as in :func:`verify.runs.record_bundle`.
        language: as there.
        threads: as there.
        nemo_start: as there.

    Returns:
        Logits by number of the utterance; cells that the folder does not visit are missing.
    """
    if not cells:
        return {}
    language = prompt_language(language, bundle.metadata.prompt_dictionary)
    observer = MarginObserver(bundle.metadata.blank_idx)
    recognizer = open_runtime(bundle, runtime, threads=threads, observer=observer, nemo_start=nemo_start)
    found: dict[int, float] = {}
    with task(f"margins of {bundle.path.name} where tokens differ", len(cells)) as progress:
        for number, cell in cells.items():
            utterance = utterances[number]
            observer.restart()
            audio = load_utterance(utterance, bundle.metadata.sample_rate)
            recognizer.transcribe(audio, prompt_of(utterance, language))
            if math.isfinite(observer.margins.get(cell, math.nan)):  # logits that are no numbers tell nothing
                found[number] = observer.margins[cell]
            progress.advance()
    return found
