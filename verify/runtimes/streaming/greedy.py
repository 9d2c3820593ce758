"""Greedy RNN-T decoding of a batch: same tokens as frame by frame, with fewer calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verify.runtimes.transcript import MAX_SYMBOLS

if TYPE_CHECKING:
    from verify.runtimes.graph import Graph
    from verify.runtimes.streaming.stream import Stream

Timer = Callable[[str, "dict[int, Stream]"], None]
"""Runs the graph of this name and shares its time among the streams in it."""

JOINT_FRAMES = 16
"""Frames of all rows together that one call of the joint looks at, one a row at least.

Those behind an emission are looked at in vain; with fewer, a quiet step takes more calls. At full size a call of one
thread takes 2.2 ms and 0.16 a frame (f16 weights), or 0.2 and 0.08 (INT8); speech emits at every third or fourth frame.
"""


class Greedy:
    """The prediction network's state of every row, and the search.

    The network runs only after an emission, and the joint looks at several frames at once: the first that is not
    blank emits, and what lies behind it is looked at again.
    """

    def __init__(self, decoder: Graph, joint: Graph, blank: int, run: Timer) -> None:
        self._decoder, self._joint, self._run = decoder, joint, run
        self._token = decoder.input("token")  # [batch, 1]
        decoder.input("token_length")[:] = 1
        self._states = {name: decoder.input(f"{name}_in") for name in ("h", "c")}  # [layers, batch, hidden]
        self._blank = blank
        self._token[:] = self._blank
        decoder.run()
        self._decoder_out = decoder.output("decoder_out").copy()  # [batch, hidden, 1], each row's input of the joint
        for name, state in self._states.items():
            state[:] = decoder.output(f"{name}_out")

    def row(self, row: int) -> list[NDArray[Any]]:
        """A row's state."""
        return [self._decoder_out[row], *(state[:, row] for state in self._states.values())]

    def decode(self, members: dict[int, Stream], encoded: NDArray[np.float32], lengths: NDArray[np.int32]) -> None:
        """Emit the tokens of encoded [batch, d, T], of which ``lengths`` [batch] frames count, for the rows given."""
        frame = dict.fromkeys(members, 0)
        symbols = dict.fromkeys(members, 0)
        active = [row for row in members if lengths[row]]
        while active:
            emitting: dict[int, int] = {}
            for row, tokens in zip(active, self._look(encoded, lengths, frame, active, members), strict=True):
                not_blank = np.flatnonzero(tokens != self._blank)
                skipped = int(not_blank[0]) if len(not_blank) else len(tokens)
                if skipped:
                    frame[row], symbols[row] = frame[row] + skipped, 0
                if len(not_blank):
                    emitting[row] = int(tokens[skipped])
            for row, token in emitting.items():
                members[row].emit(token, frame[row])
                symbols[row] += 1
                if symbols[row] == MAX_SYMBOLS:
                    frame[row], symbols[row] = frame[row] + 1, 0
            if emitting:
                self._predict(emitting, members)
            active = [row for row in active if frame[row] < lengths[row]]
        for row, stream in members.items():
            stream.encoder_frames += int(lengths[row])

    def _look(
        self,
        encoded: NDArray[np.float32],
        lengths: NDArray[np.int32],
        frame: dict[int, int],
        active: list[int],
        members: dict[int, Stream],
    ) -> list[NDArray[np.intp]]:
        """For each active row the likeliest tokens of its next frames; the lowest id on a tie."""
        left = {row: int(lengths[row]) - frame[row] for row in active}
        width = max(1, min(JOINT_FRAMES // len(active), max(left.values())))
        seen = [min(width, left[row]) for row in active]
        frames = np.zeros((len(active), encoded.shape[1], width), np.float32)
        for place, (row, count) in enumerate(zip(active, seen, strict=True)):
            frames[place, :, :count] = encoded[row, :, frame[row] : frame[row] + count]
        joint = self._joint
        joint.give("encoder", frames)
        joint.give("decoder", self._decoder_out[active])
        self._run("joint", {row: members[row] for row in active})
        best = joint.output("logits")[:, :, 0].argmax(axis=2)  # [active, width]
        return [tokens[:count] for tokens, count in zip(best, seen, strict=True)]

    def _predict(self, emitting: dict[int, int], members: dict[int, Stream]) -> None:
        """Advance the prediction network by a token in these rows; it runs on all of them, at little cost."""
        rows = list(emitting)
        for row, token in emitting.items():
            self._token[row] = token
        self._run("decoder", {row: members[row] for row in rows})
        decoder = self._decoder
        self._decoder_out[rows] = decoder.output("decoder_out")[rows]
        for name, state in self._states.items():
            state[:, rows] = decoder.output(f"{name}_out")[:, rows]
