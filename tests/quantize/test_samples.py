"""Stored calibration sets: read as a stream, refused when anything about them is wrong."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import Bundle
from export.errors import UserError
from quantize import samples as calibration
from quantize.samples import (
    INDEX,
    CalibrationData,
    GraphSamples,
    Index,
    Inputs,
    Origin,
    Shard,
    graph_hashes,
    source_facts,
    write_index,
    write_shards,
)
from tests.helpers.tiny_bundle import tiny_bundle

LANGUAGES = ("de-DE", "en-US")


def inputs(place: int) -> Inputs:
    rng = np.random.default_rng(place)
    return {"token": np.array([[place]], np.int32), "h_in": rng.normal(size=(1, 1, 100)).astype(np.float32)}


def index_of(graph: str, shards: list[Shard], samples: int) -> Index:
    origins = [
        Origin(language=LANGUAGES[place % 2], audio=0, runtime="streaming", prompt="auto", call=place)
        for place in range(samples)
    ]
    stored = {graph: GraphSamples(origins=origins, shards=shards)}
    return Index(seed=0, requested=samples, source={}, files={}, audio=[], excluded=0, graphs=stored)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "fp32")


@pytest.fixture
def stored(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten decoder samples, three a shard."""
    monkeypatch.setattr(calibration, "SHARD_BYTES", 1000)
    folder = tmp_path / "set"
    folder.mkdir()
    shards = write_shards(folder, "decoder", (inputs(place) for place in range(10)))
    facts = {"source": source_facts(bundle), "files": graph_hashes(bundle)}
    write_index(folder, index_of("decoder", shards, 10).model_copy(update=facts))
    return folder


def test_samples_come_back_as_they_went_in(stored: Path) -> None:
    data = CalibrationData.open(stored)
    assert (data.size("decoder"), data.size("encoder"), data.size("preprocessor")) == (10, 0, 0)
    assert list(data.samples("preprocessor")) == []
    for place, sample in enumerate(data.samples("decoder")):
        assert sample.keys() == {"token", "h_in"}
        for name, expected in inputs(place).items():
            assert sample[name].dtype == expected.dtype
            np.testing.assert_array_equal(sample[name], expected)
    assert [int(sample["token"][0, 0]) for sample in data.samples("decoder", 4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="decodr: no graph"):
        data.samples("decodr")


def test_a_shard_is_opened_when_it_is_reached(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CalibrationData.open(stored)
    opened: list[str] = []
    load: Callable[..., Any] = np.load

    def counting(file: Path, **options: Any) -> Any:
        opened.append(file.name)
        return load(file, **options)

    monkeypatch.setattr(np, "load", counting)
    samples = data.samples("decoder")
    assert opened == []
    for place in range(4):
        next(samples)
        assert len(opened) == 1 + place // 3
    assert opened == ["decoder-000.npz", "decoder-001.npz"]
    assert len(list(samples)) == 6
    assert len(opened) == 4


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """A hundred samples of 1 MB, written and read, in four shards' worth of memory."""
    tracemalloc.start()
    try:
        shards = write_shards(tmp_path, "encoder", ({"mel": np.full(250_000, n, np.float32)} for n in range(100)))
        data = CalibrationData(tmp_path, index_of("encoder", shards, 100))
        assert sum(int(sample["mel"][-1]) for sample in data.samples("encoder")) == 4950
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(shard.bytes for shard in shards) > 100_000_000
    assert peak < 4 * calibration.SHARD_BYTES


def test_the_hash_is_of_the_samples_in_order(stored: Path) -> None:
    data = CalibrationData.open(stored)
    seed = data.index.model_copy(update={"seed": 5})
    assert CalibrationData(stored, seed).sha256 == data.sha256, "it is not of how they were drawn"
    decoder = data.index.graphs["decoder"]
    turned = GraphSamples(origins=decoder.origins, shards=decoder.shards[::-1])
    assert CalibrationData(stored, data.index.model_copy(update={"graphs": {"decoder": turned}})).sha256 != data.sha256


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "decoder-001.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "decoder-001.npz").write_bytes(content)


def edit(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(content | changes))

    return apply


def forget_a_shard(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["graphs"]["decoder"]["shards"].pop()
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, r"decoder-001\.npz: differs from what was written; collect it again"),
        (lambda folder: (folder / "decoder-002.npz").unlink(), r"decoder-002\.npz: is missing; collect it again"),
        (lambda folder: (folder / INDEX).unlink(), r"holds no calibration\.json; give a folder that"),
        (lambda folder: (folder / INDEX).write_text("{"), r"calibration\.json: not usable \(.*; collect it again"),
        (lambda folder: (folder / INDEX).write_text("[]"), r"calibration\.json: not usable \(.*; collect it again"),
        (edit(seed="x"), r"calibration\.json: not usable \(.*seed.*; collect it again"),
        (edit(format_version=2), r"format_version 2 is newer than 1; upgrade nemotron-ov"),
        (forget_a_shard, r"its decoder samples are not as many as it says; collect it again"),
    ],
    ids=["bit", "shard", "no-index", "half-index", "no-object", "value", "newer", "count"],
)
def test_damage_is_one_line(stored: Path, damage: Callable[[Path], object], message: str) -> None:
    CalibrationData.open(stored)
    damage(stored)
    with pytest.raises(UserError, match=message) as caught:
        CalibrationData.open(stored)
    assert "\n" not in str(caught.value)


def test_a_set_fits_the_folders_of_its_checkpoint_and_geometry(stored: Path, bundle: Bundle, tmp_path: Path) -> None:
    data = CalibrationData.open(stored)
    data.check_fits(bundle)
    data.check_fits(tiny_bundle(tmp_path / "again"))
    old = {"graph": "fused"} | {name: fact for name, fact in data.index.source.items() if name != "encoder"}
    replace(data, index=data.index.model_copy(update={"source": old})).check_fits(bundle)
    others = {
        "checkpoint": tiny_bundle(tmp_path / "other", checkpoint={"sha256": "d" * 64}),
        "att_context_size": tiny_bundle(tmp_path / "lookahead", att_context_size=[4, 1]),
        "lead_mel_frames": tiny_bundle(tmp_path / "lead", lead_mel_frames=16),
    }
    for fact, other in others.items():
        with pytest.raises(UserError, match=f"collected from a folder whose {fact} is .*calibrate {other.path}"):
            data.check_fits(other)
    (bundle.path / "nemotron_vocab.json").write_text('{"0": "a"}')
    with pytest.raises(UserError, match="whose vocabulary is"):
        data.check_fits(Bundle.open(bundle.path))
