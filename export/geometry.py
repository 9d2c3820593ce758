"""How a stream is cut: lookahead, chunk, and the windows of mel frames that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """One streaming step of a cache-aware encoder.

    NeMo writes attention context as ``att_context_size = [left, right]`` in encoder frames; a step holds
    ``chunk_frames`` of them, in whole groups of ``right + 1`` frames that see each other.
    """

    left_context: int  # encoder frames of attention cache
    lookahead: int  # encoder frames of right context, NeMo's R
    chunk_frames: int  # encoder frames a step produces
    subsampling_factor: int  # mel frames per encoder frame
    pre_encode_cache: int  # mel frames carried from the previous chunk
    drop_extra_pre_encoded: int  # encoder frames that the carried mel frames make, dropped again
    hop_samples: int  # samples per mel frame
    sample_rate: int  # Hz

    @property
    def att_context_size(self) -> list[int]:
        """``[left, right]`` as NeMo's configuration writes it."""
        return [self.left_context, self.lookahead]

    @property
    def chunk_mel_frames(self) -> int:
        """Mel frames that are new in a step."""
        return self.chunk_frames * self.subsampling_factor

    @property
    def total_mel_frames(self) -> int:
        """Mel frames that the encoder graph takes: the carried ones and the new ones."""
        return self.pre_encode_cache + self.chunk_mel_frames

    @property
    def lead_mel_frames(self) -> int:
        """Zero mel frames before a stream's first ones that make the first step NeMo's own."""
        return self.drop_extra_pre_encoded * self.subsampling_factor

    @property
    def clean_chunk_frames(self) -> int:
        """Encoder frames of the shortest step, not below this one's, that NeMo's own streaming begins cleanly.

        A shorter step leaves frames of the lead in the second window, where NeMo's convolutions see them as zeros.
        """
        return clean_frames(self.chunk_frames, self.lookahead, self.drop_extra_pre_encoded)

    @property
    def whole_groups(self) -> bool:
        """Whether a chunk is whole lookahead groups, so that a step of several chunks sees what their steps do."""
        return self.chunk_frames % (self.lookahead + 1) == 0

    @property
    def chunk_samples(self) -> int:
        """Audio samples that are new in a step."""
        return self.chunk_mel_frames * self.hop_samples

    @property
    def hop_ms(self) -> float:
        """Time between two mel frames."""
        return 1000.0 * self.hop_samples / self.sample_rate

    @property
    def frame_ms(self) -> float:
        """Duration of one encoder frame."""
        return self.subsampling_factor * self.hop_ms

    @property
    def chunk_ms(self) -> float:
        """Duration of one step's new audio."""
        return self.chunk_frames * self.frame_ms


def dropped_frames(pre_encode_cache: int, subsampling_factor: int) -> int:
    """Encoder frames that so many carried mel frames make, which a step drops again."""
    return 1 + (pre_encode_cache - 1) // subsampling_factor


def clean_frames(chunk_frames: int, lookahead: int, dropped: int) -> int:
    """See :attr:`Geometry.clean_chunk_frames`."""
    group = lookahead + 1
    return max(chunk_frames, -(-dropped // group) * group)


DEFAULT_CHUNK_MS = 1120
"""The published folders' chunk; the default is the most whole lookahead groups that it holds."""


def chunk_frames_for(lookahead: int, frame_ms: float, chunk_ms: int | None) -> tuple[int, list[str]]:
    """Encoder frames a chunk holds, and warnings to store about the choice.

    Args:
        lookahead: right context in encoder frames.
        frame_ms: duration of an encoder frame.
        chunk_ms: wanted chunk, or None for the default.

    Raises:
        UserError: the chunk is not a whole number of frames or cannot hold ``lookahead + 1`` of them.
    """
    group = lookahead + 1
    if chunk_ms is None:
        fitting = int(DEFAULT_CHUNK_MS // (frame_ms * group)) * group
        return max(group, fitting), []
    frames, rest = divmod(chunk_ms, frame_ms)
    smallest = group * frame_ms
    if chunk_ms <= 0 or rest:
        raise UserError(
            f"--chunk-ms {chunk_ms}: a chunk is a whole number of {frame_ms:g} ms encoder frames; "
            f"use a multiple of {frame_ms:g}, at least {smallest:g}"
        )
    if frames < group:
        raise UserError(
            f"--chunk-ms {chunk_ms}: lookahead {lookahead} needs a chunk of at least {smallest:g} ms; "
            f"use --chunk-ms {smallest:g} or a smaller --lookahead"
        )
    warnings = []
    if frames % group:
        warnings.append(
            f"a chunk of {int(frames)} frames is no whole number of lookahead groups of {group}: the last "
            "frames of every chunk see less right context than the model was trained with"
        )
    return int(frames), warnings
