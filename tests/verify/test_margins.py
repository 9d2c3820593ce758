"""Where two transcripts part, and by how much the best token led there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundle import Bundle
from tests.helpers.tiny_bundle import speech, tiny_bundle, transcript
from verify.data.manifest import Utterance
from verify.margins import Cell, MarginObserver, divergent_cell, margins_at
from verify.pipeline import verify_bundle
from verify.runtimes.names import RUNTIMES, Runtime
from verify.scoring.divergence import read_reference_paths, record_reference_paths
from verify.shards import MANIFEST_LANGUAGE


@pytest.mark.parametrize(
    ("one", "other", "cell"),
    [
        (([1, 2], [0, 4]), ([1, 2], [0, 4]), None),
        (([1, 2], [0, 4]), ([1, 3], [0, 4]), (4, 1)),  # another token
        (([1, 2], [0, 4]), ([1, 2], [0, 5]), None),  # the same, a frame later
        (([1, 2, 3], [0, 4, 8]), ([1, 2, 9], [0, 5, 8]), (8, 2)),  # and that excuses no other token after it
        (([1, 2], [0, 6]), ([1, 3], [0, 5]), (5, 1)),
        (([1, 2], [0, 4]), ([1], [0]), (4, 1)),  # blank in its place
        (([], []), ([7], [3]), (3, 0)),
        (([], []), ([], []), None),
    ],
)
def test_divergent_cell(
    one: tuple[list[int], list[int]], other: tuple[list[int], list[int]], cell: Cell | None
) -> None:
    first, second = (transcript(tokens, "", None, frames) for tokens, frames in (one, other))
    assert divergent_cell(first, second) == divergent_cell(second, first) == cell


@pytest.fixture
def spoken(tmp_path: Path) -> Utterance:
    import soundfile

    soundfile.write(tmp_path / "0.flac", speech(3.0), 16000)
    return Utterance(audio_filepath=tmp_path / "0.flac", target_lang="en-US")


def test_margins_are_those_of_the_logits(tmp_path: Path, spoken: Utterance) -> None:
    """Against the logits of a second implementation of the greedy search."""
    bundle = tiny_bundle(tmp_path / "a")
    record_reference_paths(bundle, [spoken], tmp_path / "paths")
    (path,) = read_reference_paths(tmp_path / "paths")
    best = np.sort(path.logits, axis=1)
    cells = [(int(frame), int(before)) for frame, before in path.cells]
    expected = dict(zip(cells, best[:, -1] - best[:, -2], strict=True))
    assert len(expected) > len(path.tokens) > 0
    for cell, lead in list(expected.items())[:10]:
        found = margins_at(bundle, {0: cell}, [spoken], runtime="generation1", language=MANIFEST_LANGUAGE)
        assert found[0] == pytest.approx(lead, abs=1e-5)
    nowhere = margins_at(bundle, {0: (10**6, 0)}, [spoken], runtime="generation1", language=MANIFEST_LANGUAGE)
    assert nowhere == {}


@pytest.mark.parametrize("runtime", ["generation1", "generation2", "streaming"])
def test_the_search_is_followed_in_every_runtime(demo_fp32: Bundle, runtime: Runtime) -> None:
    """Whether the joint looks at one frame or at many: every token was the best one of its cell."""
    from verify.data.audio import load_audio
    from verify.data.manifest import default_manifest, read_manifest

    spoken = read_manifest(default_manifest())[3]
    observer = MarginObserver(demo_fp32.metadata.blank_idx)
    recognizer = RUNTIMES[runtime](demo_fp32, observer=observer)
    for _ in range(2):  # the second utterance begins anew
        observer.restart()
        found = recognizer.transcribe(load_audio(spoken.audio_filepath, 16000), spoken.target_lang)
    emitted = {(frame, before) for before, frame in enumerate(found.frames)}
    assert len(emitted) > 10
    assert emitted <= observer.margins.keys()
    frames = max(frame for frame, _ in observer.margins) + 1
    assert len(observer.margins) == frames + len(emitted), "one cell a frame ends in blank, one a token does not"


def test_every_difference_has_a_margin(tmp_path: Path, spoken: Utterance) -> None:
    target, reference = tiny_bundle(tmp_path / "a", encoder_gain=0.2), tiny_bundle(tmp_path / "b")
    report = verify_bundle(target, reference, [spoken])
    (divergence,) = report.first_divergences
    (row,) = report.rows
    paths = [transcript(side.tokens, "", None, side.frames) for side in (row.target, row.reference)]
    cell = divergent_cell(*paths)
    assert cell is not None
    of = [
        margins_at(each, {0: cell}, [spoken], runtime="generation1", language=MANIFEST_LANGUAGE).get(0)
        for each in (reference, target)
    ]
    assert of[0] != of[1], "else it would not matter whose margin is shown"
    assert divergence.margin == row.margin == of[0]


def test_only_fp32_excuses(tmp_path: Path, spoken: Utterance) -> None:
    """A quantized reference leads by little where FP32 may not."""
    target, reference = tiny_bundle(tmp_path / "a", encoder_gain=0.2), tiny_bundle(tmp_path / "b")
    metadata = reference.metadata.model_copy(update={"recipe": {"name": "int8", "hash": "0"}})
    report = verify_bundle(target, Bundle(reference.path, metadata), [spoken])
    assert [each.margin for each in report.first_divergences] == [None]
