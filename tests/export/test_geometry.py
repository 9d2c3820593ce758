"""Lookahead and chunk: what fits together, and what is refused."""

from __future__ import annotations

import pytest

from export.errors import UserError
from export.geometry import Geometry, chunk_frames_for

FRAME_MS = 80.0


@pytest.mark.parametrize(("lookahead", "frames"), [(0, 14), (1, 14), (3, 12), (6, 14), (13, 14), (20, 21)])
def test_default_chunk_is_the_most_whole_groups_in_1120_ms(lookahead: int, frames: int) -> None:
    assert chunk_frames_for(lookahead, FRAME_MS, None) == (frames, [])


@pytest.mark.parametrize("chunk_ms", [0, -80, 100, 1121])
def test_chunk_must_be_whole_frames(chunk_ms: int) -> None:
    with pytest.raises(UserError, match=f"--chunk-ms {chunk_ms}: .*multiple of 80"):
        chunk_frames_for(0, FRAME_MS, chunk_ms)


def test_chunk_must_hold_the_lookahead() -> None:
    with pytest.raises(UserError, match="needs a chunk of at least 1120 ms"):
        chunk_frames_for(13, FRAME_MS, 560)


def test_partial_group_is_allowed_and_recorded() -> None:
    frames, warnings = chunk_frames_for(3, FRAME_MS, 1120)
    assert frames == 14
    assert "no whole number of lookahead groups of 4" in warnings[0]


def test_windows_of_the_published_geometry() -> None:
    step = Geometry(56, 0, 14, 8, 9, 2, 160, 16_000)
    assert (step.chunk_mel_frames, step.total_mel_frames, step.chunk_samples) == (112, 121, 17_920)
    assert (step.frame_ms, step.chunk_ms, step.att_context_size) == (80.0, 1120.0, [56, 0])


@pytest.mark.parametrize(("lookahead", "window"), [(0, 17), (1, 25), (3, 41), (6, 65), (13, 121)])
def test_windows_of_one_lookahead_group_are_nemos(lookahead: int, window: int) -> None:
    frames, _ = chunk_frames_for(lookahead, FRAME_MS, 80 * (lookahead + 1))
    assert Geometry(56, lookahead, frames, 8, 9, 2, 160, 16_000).total_mel_frames == window
