"""The generation-2 loop: generation 1's with a false zero frame, and the graph that takes it out again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.bundle import Bundle
from tests.helpers.tiny_bundle import CHUNK, DIM, FRAMES, LEAD, speech, speechlike, tiny_bundle
from verify.runtimes.generation1 import Generation1
from verify.runtimes.generation2 import Generation2
from verify.runtimes.graph import CLIENTS_CONFIG


class Silent:
    """An encoder of any window, whose output is zeros."""

    seconds, calls = 0.0, 0
    input_names: set[str] = set()  # noqa: RUF012

    def input(self, name: str, shape: Sequence[int]) -> NDArray[Any]:  # noqa: ARG002
        return np.zeros(shape, np.float32)

    def output(self, name: str) -> NDArray[Any]:
        return np.zeros((1, DIM, FRAMES) if name == "encoded" else 1, np.float32)

    def run(self) -> None:
        pass


@pytest.mark.parametrize("mel_frames", [CHUNK, CHUNK + 1])
def test_it_carries_a_frame_of_zeros_whatever_the_preprocessor_gives(tmp_path: Path, mel_frames: int) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", mel_frames=mel_frames)
    ours, others = (
        [step.mel.copy() for step in client(bundle).steps(speech(0.5))] for client in (Generation2, Generation1)
    )
    assert len(ours) == len(others) == 4
    for mel, reference in zip(ours, others, strict=True):
        np.testing.assert_array_equal(mel[:, :, LEAD:], reference[:, :, LEAD:])
        assert not mel[:, :, LEAD - 1].any()


def test_its_mel_is_f32_whatever_the_processor_takes(small_fp32: Bundle) -> None:
    """Its featurizer is plain C++. Where the processor has bf16, generation 1's graph computes in it."""
    plain, pinned = (
        next(iter(Generation2(small_fp32, config=config).steps(speech(0.5)))).mel for config in (CLIENTS_CONFIG, None)
    )
    np.testing.assert_array_equal(plain, pinned)


@pytest.mark.parametrize("fixture", ["small_fp32", "small_kv_fp32", "small_80ms_fp32"])
def test_the_graph_takes_the_false_frame_out(request: pytest.FixtureRequest, fixture: str) -> None:
    """Generation 2 gets generation 1's tokens from a rewritten encoder."""
    bundle: Bundle = request.getfixturevalue(fixture)
    audio = speechlike(6.0, 5)
    first, second = (client(bundle, threads=1).transcribe(audio, "de-DE") for client in (Generation1, Generation2))
    assert (second.tokens, second.frames) == (first.tokens, first.frames)
    assert len(first.tokens) > 3


def test_nemos_encoder_sees_the_false_frame(small_nemo_fp32: Bundle, small_fp32: Bundle) -> None:
    """Its preprocessor gives it to both generations."""
    audio = speechlike(6.0, 5)
    first, second = (client(small_nemo_fp32, threads=1).transcribe(audio) for client in (Generation1, Generation2))
    assert second.tokens == first.tokens
    assert first.tokens != Generation1(small_fp32, threads=1).transcribe(audio).tokens


def test_a_chunk_of_fewer_frames_than_are_carried_leads_with_what_it_has(tmp_path: Path) -> None:
    """The clients keep min(pre_encode_cache, frames) frames of a chunk, and the next one follows right behind."""
    lead, chunk = 20, CHUNK
    bundle = tiny_bundle(tmp_path / "bundle", pre_encode_cache=lead, total_mel_frames=lead + chunk)
    first, second = (step.mel[0].copy() for step in Generation1(bundle, encoder=Silent()).steps(speech(0.3)))
    np.testing.assert_array_equal(second[:, :chunk], first[:, lead:])
    assert second[:, chunk : 2 * chunk].any()
    assert not second[:, 2 * chunk :].any()
