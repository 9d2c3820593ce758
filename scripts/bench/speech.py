"""Tokens at a given rate whatever the weights say, so that builds of random weights have the same work to do."""

from __future__ import annotations

import numpy as np

from verify.runtimes.graph import Graph, Observer


class SteadySpeech(Observer):
    """Overwrites the joint's answers: a token at every frame in which the count of tokens so far becomes a whole one.

    For loops of one stream, in which every frame is looked at in order and again after a token, as in
    :class:`verify.runtimes.generation1.Generation1` and :class:`verify.runtimes.streaming.greedy.Greedy`.

    Args:
        blank: id.
        tokens_per_frame: below 1.
    """

    def __init__(self, blank: int, tokens_per_frame: float) -> None:
        self._blank = blank
        self._rate = tokens_per_frame
        self._frame = 0
        self._emitted = False  # at this frame

    def after(self, graph: Graph) -> None:
        """See :class:`verify.runtimes.graph.Observer`."""
        if graph.name != "joint":
            return
        logits = graph.output("logits")  # [1, frames, 1, pieces + 1]
        for frame in range(logits.shape[1]):
            speaks = not self._emitted and self._due()
            logits[0, frame, 0, self._blank] = -np.inf if speaks else np.inf
            self._emitted = speaks
            if speaks:
                return  # what lies behind it is looked at again
            self._frame += 1

    def _due(self) -> bool:
        return int((self._frame + 1) * self._rate) > int(self._frame * self._rate)
