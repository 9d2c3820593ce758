"""Stored calibration samples: real inputs of the graphs, collected once, read as a stream by every recipe.

A set is a folder: ``calibration.json`` (:class:`Index`) and shards, ``encoder-000.npz`` …, that hold each input's
samples stacked along a new first axis. Samples lie in the order in which :meth:`CalibrationData.samples` gives them,
languages in turn, so that every prefix is as balanced as the whole. :mod:`verify.collect` collects them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.bundle import GRAPHS, VOCABULARY, Bundle, Metadata, graph_file, with_encoder_name
from export.digest import digest, file_facts
from export.errors import UserError

FORMAT_VERSION = 1
INDEX = "calibration.json"
CALIBRATED = ("encoder", "decoder", "joint")
"""Graphs with samples; the preprocessor stays in f32 in every recipe."""

SHARD_BYTES = 8_000_000
"""A shard ends with the sample that reaches this size; a full-size encoder step alone is 6 MB."""

Inputs = dict[str, NDArray[Any]]
"""Arrays by the names, shapes and types of the contract, batch 1; the joint's hold one frame."""


class Origin(BaseModel):
    """Where a sample was met."""

    model_config = ConfigDict(frozen=True)

    language: str  # of the recording; samples are balanced over it
    audio: int  # place in Index.audio
    runtime: str  # streaming or generation1
    prompt: str  # what the encoder was told: the language, or auto
    call: int  # how often the graph had run before in this stream
    snr_db: float | None = None  # of noise that was added; None for the recording as it is


class Shard(BaseModel):
    """A file of samples."""

    file: str
    samples: int
    bytes: int
    sha256: str


class GraphSamples(BaseModel):
    """All samples of a graph, in order."""

    origins: list[Origin] = Field(default_factory=list)
    shards: list[Shard] = Field(default_factory=list)


class Index(BaseModel):
    """``calibration.json``."""

    format_version: int = FORMAT_VERSION
    seed: int
    requested: int  # encoder samples asked for
    source: dict[str, Any]  # what check_fits compares, see source_facts
    files: dict[str, str]  # SHA-256 of the source folder's graphs
    audio: list[dict[str, str]]  # name, language and SHA-256 of every recording that was run, of its decoded samples
    excluded: int  # recordings left out because they belong to an evaluation manifest
    evaluation: list[dict[str, str]] = Field(default_factory=list)  # name and SHA-256 of every such manifest
    tools: dict[str, str] = Field(default_factory=dict)
    graphs: dict[str, GraphSamples] = Field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationData:
    """A finished set, checked; samples are read when they are asked for."""

    path: Path
    index: Index
    unusable: Mapping[str, str] = field(default_factory=dict)  # recordings that could not be run, and why; not stored

    @classmethod
    def open(cls, path: str | Path) -> CalibrationData:
        """Read the index and check every shard's size and hash.

        Raises:
            UserError: not a calibration set, not whole, changed since it was written, or of a newer format.
        """
        path = Path(path)
        file, remedy = path / INDEX, "collect it again with `nemotron-ov calibrate`"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            newer = content["format_version"] if content["format_version"] > FORMAT_VERSION else None
            index = None if newer else Index.model_validate(content)
        except OSError as error:
            raise UserError(f"{path}: holds no {INDEX}; give a folder that `nemotron-ov calibrate` wrote") from error
        except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{file}: not usable ({' '.join(str(error).split())[:200]}); {remedy}") from error
        if index is None:
            raise UserError(f"{file}: format_version {newer} is newer than {FORMAT_VERSION}; upgrade nemotron-ov")
        for graph, stored in index.graphs.items():
            if sum(shard.samples for shard in stored.shards) != len(stored.origins):
                raise UserError(f"{file}: its {graph} samples are not as many as it says; {remedy}")
            for shard in stored.shards:
                if not (path / shard.file).is_file():
                    raise UserError(f"{path / shard.file}: is missing; {remedy}")
                if file_facts(path / shard.file) != {"bytes": shard.bytes, "sha256": shard.sha256}:
                    raise UserError(f"{path / shard.file}: differs from what was written; {remedy}")
        return cls(path, index)

    @cached_property
    def sha256(self) -> str:
        """Hash of all samples in their order: equal sets calibrate equally."""
        shards = {graph: [shard.sha256 for shard in stored.shards] for graph, stored in self.index.graphs.items()}
        return digest(shards)

    @property
    def audio_sha256(self) -> list[str]:
        """Hashes of the decoded samples of every recording that was run, and of every file it is a part of, sorted."""
        return sorted({each[name] for each in self.index.audio for name in ("sha256", "file_sha256") if name in each})

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    def size(self, graph: str) -> int:
        """How many samples there are of a graph; none of the preprocessor."""
        return len(self.origins(graph))

    def origins(self, graph: str) -> list[Origin]:
        """Where each sample was met, in the order of :meth:`samples`.

        Raises:
            ValueError: there is no such graph.
        """
        if graph not in GRAPHS:
            raise ValueError(f"{graph}: no graph; give one of {', '.join(GRAPHS)}")
        return self.index.graphs[graph].origins if graph in self.index.graphs else []

    def samples(self, graph: str, count: int | None = None) -> Iterator[Inputs]:
        """A graph's inputs by name, one sample after another; a shard at a time is in memory.

        Args:
            graph: encoder, decoder or joint (the preprocessor has no samples).
            count: at most so many, from the first on, which are balanced over languages as all are.

        Raises:
            ValueError: there is no such graph.
            UserError: a file cannot be read any more.
        """
        return islice(self._stored(self.size(graph), graph), count)

    def _stored(self, size: int, graph: str) -> Iterator[Inputs]:
        for shard in self.index.graphs[graph].shards if size else []:
            file = self.path / shard.file
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    stacked = {name: arrays[name] for name in arrays.files}
            except (OSError, ValueError, BadZipFile) as error:
                raise UserError(f"{file}: cannot be read ({error}); collect the set again") from error
            for place in range(shard.samples):
                yield {name: array[place] for name, array in stacked.items()}

    def check_fits(self, bundle: Bundle) -> None:
        """Check that the samples are inputs of this folder's graphs.

        Raises:
            UserError: the folder comes from another checkpoint, or its steps or ids differ.
        """
        actual = source_facts(bundle)
        for name, wanted in with_encoder_name(self.index.source).items():
            if actual.get(name) != wanted:
                raise UserError(
                    f"{self.path}: was collected from a folder whose {name} is {wanted}, in {bundle.path} it is "
                    f"{actual.get(name)}; run `nemotron-ov calibrate {bundle.path} …` for this folder"
                )


def source_facts(bundle: Bundle) -> dict[str, Any]:
    """What samples depend on: the checkpoint, how the graphs step, and what their ids mean."""
    meta: Metadata = bundle.metadata
    checkpoint = meta.checkpoint.get("sha256") or file_facts(bundle.graph_path("encoder").with_suffix(".bin"))["sha256"]
    steps = {
        name: getattr(meta, name)
        for name in (
            *("encoder", "att_context_size", "chunk_mel_frames", "total_mel_frames", "lead_mel_frames"),
            *("cache_channel_shape", "cache_time_shape"),
        )
    }
    steps |= {"configuration": meta.checkpoint["config_sha256"]} if meta.checkpoint.get("config_sha256") else {}
    return {"checkpoint": checkpoint, **steps, "vocabulary": file_facts(bundle.path / VOCABULARY)["sha256"]}


def graph_hashes(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of every graph's files, from the metadata where it knows them."""
    names = [name for graph in GRAPHS for name in (graph_file(graph), graph_file(graph).replace(".xml", ".bin"))]
    return {name: (bundle.metadata.files.get(name) or file_facts(bundle.path / name))["sha256"] for name in names}


def write_shards(directory: Path, graph: str, samples: Iterable[Inputs]) -> list[Shard]:
    """Store samples in their order; one shard at a time is in memory."""
    shards: list[Shard] = []
    waiting: list[Inputs] = []

    def flush() -> None:
        file = directory / f"{graph}-{len(shards):03d}.npz"
        np.savez(file, **{name: np.stack([inputs[name] for inputs in waiting]) for name in waiting[0]})  # type: ignore[arg-type]
        shards.append(Shard(file=file.name, samples=len(waiting), **file_facts(file)))
        waiting.clear()

    for inputs in samples:
        waiting.append(inputs)
        if sum(array.nbytes for each in waiting for array in each.values()) >= SHARD_BYTES:
            flush()
    if waiting:
        flush()
    return shards


def write_index(directory: Path, index: Index) -> None:
    """Write ``calibration.json``, last."""
    (directory / INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
