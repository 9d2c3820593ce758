"""A stream's audio between what comes in and what a step takes: blocks of any size in, windows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.bundle import Metadata
from verify.data.audio import Audio

MARGIN = 2
"""Mel frames before a step's own ones in its audio: a frame's window and its pre-emphasis reach so far back."""


class StepGeometry:
    """Sizes of a step of ``chunks`` of a folder's chunks, in samples and mel frames."""

    def __init__(self, metadata: Metadata, chunks: int = 1) -> None:
        self.hop = metadata.sample_rate // 100
        self.carried = metadata.pre_encode_cache
        self.lead = metadata.lead_mel_frames
        self.chunk = metadata.chunk_mel_frames
        self.new = chunks * self.chunk
        self.subsampling = metadata.subsampling_factor
        half_window = 200 * self.hop // 160  # 25 ms windows at a hop of 10 ms
        self.samples = (self.new + MARGIN - 1) * self.hop + half_window  # all that a step's frames are made of


@dataclass(frozen=True)
class Window:
    """What a stream gives to one step."""

    samples: Audio  # from MARGIN frames before the step's first new mel frame on
    lead: int  # mel frames at its head, carried ones included, that come before the signal
    mel_length: int  # carried and new frames that count


class SignalBuffer:
    """The audio that no step has taken yet, from the next step's margin on.

    Blocks are joined when a step needs them, so that any number of small ones costs what their samples do.
    """

    def __init__(self, geometry: StepGeometry) -> None:
        self._geometry = geometry
        # The frames before the signal's first are masked.
        self._head: Audio = np.zeros((geometry.lead - geometry.carried + MARGIN) * geometry.hop, np.float32)
        self._blocks: list[Audio] = []
        self._length = len(self._head)
        self._steps = 0
        self._ended = False

    def append(self, samples: Audio) -> None:
        """More audio, [any]; it is kept as it is, not copied."""
        self._blocks.append(samples)
        self._length += len(samples)

    def end(self) -> None:
        """No more audio will come."""
        self._ended = True

    def due(self) -> int:
        """New mel frames of the next step, those of the lead included; 0 where none is due.

        An ended signal has a frame for each whole hop, and the zero frame with which NeMo ends it; NeMo leaves out a
        rest of a chunk that is too short for one encoder frame, and so does a step of several chunks.
        """
        geometry = self._geometry
        if self._length >= geometry.samples:
            return geometry.new
        if not self._ended:
            return 0
        frames = min(self._length // geometry.hop - MARGIN + 1, geometry.new)
        fewest = geometry.subsampling if self._steps else geometry.lead - geometry.carried + 1
        rest = frames % geometry.chunk
        if frames > geometry.chunk and rest < geometry.subsampling:
            frames -= rest
        return frames if frames >= fewest else 0

    def window(self) -> Window:
        """Take the next step's audio; there is one where a step is due."""
        geometry, due = self._geometry, self.due()
        if len(self._head) < geometry.samples and self._blocks:
            self._head = np.concatenate([self._head, *self._blocks])
            self._blocks.clear()
        lead = max(0, geometry.lead - self._steps * geometry.new)
        samples = self._head[: geometry.samples]
        rest = self._head[geometry.new * geometry.hop :]
        self._length -= len(self._head) - len(rest)
        # Copied when little is left, so that it is not a view of a long array.
        self._head = rest if len(rest) >= geometry.samples else rest.copy()
        self._steps += 1
        return Window(samples, lead, geometry.carried + due)
