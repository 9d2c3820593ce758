"""The folder that clients load: four graphs, ``metadata.json`` and ``nemotron_vocab.json``.

Names and keys are the clients' (eddy-audio, two generations); a client binds tensors by name, allocates its
caches from the metadata, and ignores keys it does not know, so this toolkit's own facts travel in the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.digest import FileState, file_facts, file_state
from export.errors import UserError
from export.progress import note
from export.removal import FolderKind

GRAPHS = ("preprocessor", "encoder", "decoder", "joint")
METADATA = "metadata.json"
VOCABULARY = "nemotron_vocab.json"
FORMAT_VERSION = 2
"""2: the metadata records its own hash; folders of version 1 are read."""

_PROLOG = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^<>]*\?>)?\s*<net\b")

Check = Literal["sizes", "hashes"]
"""How far a folder's files are compared with what its metadata recorded of them."""


BUNDLE = FolderKind(
    "an exported or quantized folder",
    METADATA,
    re.compile(rf"nemotron_({'|'.join(GRAPHS)})\.(xml|bin)|{re.escape(VOCABULARY)}"),
)


def graph_file(graph: str) -> str:
    """File name of a graph's ``.xml``; the weights lie beside it as ``.bin``."""
    return f"nemotron_{graph}.xml"


FILES = tuple(
    sorted([METADATA, VOCABULARY, *(f"nemotron_{graph}.{kind}" for graph in GRAPHS for kind in ("xml", "bin"))])
)
"""Every file of a folder."""


def with_encoder_name(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a folder as they are written now, where ``"encoder": "rewritten"`` was once ``"graph": "fused"``."""
    if "graph" not in facts or "encoder" in facts:
        return facts
    rest = {name: value for name, value in facts.items() if name != "graph"}
    return rest | {"encoder": "rewritten" if facts["graph"] == "fused" else facts["graph"]}


def _allocatable(shape: list[int]) -> list[int]:
    if prod(shape) > LARGEST:
        raise ValueError(f"holds {prod(shape):,} numbers")
    return shape


LARGEST = 1_000_000_000
"""No size in a folder's metadata is beyond this, nor is a cache: clients allocate by them before anything runs."""

Size = Annotated[int, Field(ge=0, le=LARGEST)]
CacheShape = Annotated[list[Size], Field(min_length=4, max_length=4), AfterValidator(_allocatable)]


class Metadata(BaseModel):
    """``metadata.json``: first the keys that clients read, then this toolkit's own."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    # Read by the published clients.
    model: str
    model_class: str
    precision: str
    sample_rate: Size
    mel_features: Size
    chunk_mel_frames: Size
    pre_encode_cache: Size
    total_mel_frames: Size
    blank_idx: Size
    vocab_size: Size
    decoder_hidden: Size
    decoder_layers: Size
    encoder_dim: Size
    att_context_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    cache_channel_shape: CacheShape
    cache_time_shape: CacheShape
    lang_tag_token_ids: list[Size]
    num_prompts: Size | None = None
    default_prompt_id: Size | None = None
    prompt_dictionary: dict[str, Size] | None = None

    # This toolkit's.
    format_version: int = FORMAT_VERSION
    encoder: str = "rewritten"  # of export.pipeline.ENCODERS
    profile: str = "custom"  # of export.profiles, by what the settings are
    cache: str = "channel"  # what cache_channel holds: the layers' inputs, or their keys and values ("kv")
    lookahead: Size = 0
    chunk_ms: float = 0.0
    chunk_samples: Size = 0
    subsampling_factor: Annotated[int, Field(ge=1, le=64)] = 8
    lead_mel_frames: Size = 0  # > 0: a first step with so many zero frames and cache_len = -lead is NeMo's own
    knows_short_leads: bool = False  # and cache_len = -(what is left of the lead) is the next step in short chunks
    longer_steps: bool = False  # the encoder's mel axis can be reshaped to any number of whole chunks
    recipe: dict[str, Any] = Field(default_factory=dict)
    vocabulary: dict[str, Any] = Field(default_factory=dict)  # what was pruned; export.vocabulary reads and writes it
    checkpoint: dict[str, Any] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    constants: dict[str, dict[str, dict[str, int]]] = Field(default_factory=dict)
    parity: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    files: dict[str, dict[str, Any]] = Field(default_factory=dict)
    metadata_sha256: str = ""  # of this file with nothing in this place; see write_metadata

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, data: Any) -> Any:
        return with_encoder_name(data) if isinstance(data, dict) else data

    @property
    def channel_cache_shape(self) -> list[int]:
        """NeMo's shape of ``cache_channel``, whatever the graph's cache holds."""
        return [*self.cache_channel_shape[:3], self.encoder_dim]

    @property
    def has_prompt(self) -> bool:
        """Whether the encoder takes ``prompt_id``."""
        return self.prompt_dictionary is not None


@dataclass(frozen=True)
class Bundle:
    """A finished folder."""

    path: Path
    metadata: Metadata
    _hashed: dict[str, tuple[FileState, dict[str, Any]]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, check: Check | None = None) -> Bundle:
        """Read and check a folder's metadata and file list.

        Args:
            path: the folder.
            check: :meth:`check_sizes` or :meth:`check_hashes` too. What judges, quantizes or publishes a folder checks
                hashes, once in a run.

        Raises:
            UserError: not a bundle, unreadable, incomplete, damaged, or written by a newer format.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give a folder with {METADATA} and the four graphs")
        try:
            metadata = Metadata.model_validate_json((path / METADATA).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path}: holds no {METADATA}; give a folder that `nemotron-ov export` wrote") from error
        except OSError as error:
            raise UserError(
                f"{path / METADATA}: cannot be read ({error.strerror or error}); regenerate the folder"
            ) from error
        except (ValidationError, UnicodeDecodeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path / METADATA}: not usable ({reason}); regenerate the folder") from error
        if metadata.format_version > FORMAT_VERSION:
            raise UserError(
                f"{path / METADATA}: format_version {metadata.format_version} is newer than {FORMAT_VERSION}; "
                "upgrade nemotron-ov"
            )
        bundle = cls(path, metadata)
        missing = [name for name in FILES if not (path / name).is_file()]
        if missing:
            raise UserError(f"{path}: {', '.join(missing)} missing; the folder is incomplete, regenerate it")
        for graph in GRAPHS:
            _check_prolog(bundle.graph_path(graph))
        if check is not None:
            {"sizes": bundle.check_sizes, "hashes": bundle.check_hashes}[check]()
        return bundle

    def graph_path(self, graph: str) -> Path:
        """Path of a graph's ``.xml``."""
        return self.path / graph_file(graph)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Pieces in id order."""
        file = self.path / VOCABULARY
        try:
            pieces = json.loads(file.read_text(encoding="utf-8"))
            ordered = [pieces[str(index)] for index in range(len(pieces))]
            if not all(isinstance(piece, str) for piece in ordered):
                raise TypeError("a piece is no text")
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise UserError(f"{file}: not a flat object of ids 0…n-1 ({error}); regenerate the folder") from error
        return ordered

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file of the folder that clients load, by name: the identity that reports record.

        A file is read once, as by :meth:`file_facts`.
        """
        return {name: str(self._facts(self.path / name)["sha256"]) for name in FILES}

    @property
    def size_bytes(self) -> int:
        """Bytes of the folder's own files, whatever else lies beside them."""
        return sum((self.path / name).stat().st_size for name in FILES)

    @classmethod
    def whole(cls, path: Path) -> Bundle | None:
        """The folder, if it is one, complete, and no file of it has changed since it was written."""
        try:
            return cls.open(path, check="hashes")
        except UserError:
            return None

    def check_sizes(self) -> None:
        """Compare every file's size with what the metadata recorded; reads no file.

        Raises:
            UserError: the files that differ.
        """
        self._refuse_damaged(self._wrong_sizes())

    def check_hashes(self) -> None:
        """Compare every file's size and SHA-256 with what the metadata recorded; reads every file once.

        Raises:
            UserError: the files that differ, or one that cannot be read.
        """
        if not self.metadata.files:
            note(f"warning: {self.path}: records no hashes, so nobody knows whether it is as it was written")
        self._refuse_damaged(self._wrong_sizes() or self.damaged_files())

    def file_facts(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every file that the contract or the metadata names, as it is on the disk.

        A file is read once, and again where the system says that it was written since.
        """
        names = sorted({*FILES, *self.metadata.files} - {METADATA})
        return {name: self._facts(self.path / name) for name in names if (self.path / name).is_file()}

    def _facts(self, file: Path) -> dict[str, Any]:
        try:
            state = file_state(file)
            known = self._hashed.get(file.name)
            if known is None or known[0] != state:
                self._hashed[file.name] = known = (state, file_facts(file))
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error}); regenerate the folder") from error
        return known[1]

    def damaged_files(self) -> list[str]:
        """Names of files whose size or SHA-256 differs from what the metadata recorded; the metadata's own included."""
        found = self.file_facts()
        damaged = [name for name, facts in self.metadata.files.items() if found.get(name) != facts]
        return damaged if self._metadata_is_as_written() else [METADATA, *damaged]

    def _metadata_is_as_written(self) -> bool:
        """By its own hash, which files of version 1 do not have."""
        recorded = self.metadata.metadata_sha256
        if not recorded:
            return self.metadata.format_version < 2
        try:
            text = (self.path / METADATA).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / METADATA}: cannot be read ({error.strerror or error})") from error
        return recorded == hashlib.sha256(text.replace(recorded.encode(), b"")).hexdigest()

    def _wrong_sizes(self) -> list[str]:
        recorded = {name: (self.path / name, facts.get("bytes")) for name, facts in self.metadata.files.items()}
        return [name for name, (file, size) in recorded.items() if not file.is_file() or file.stat().st_size != size]

    def _refuse_damaged(self, names: list[str]) -> None:
        if names:
            raise UserError(f"{self.path}: {', '.join(names)} differ from what was written; regenerate the folder")


def _check_prolog(graph: Path) -> None:
    """Refuse a graph whose XML begins with anything but its model: document types, and with them entities.

    Raises:
        UserError: it does, or it cannot be read.
    """
    try:
        with graph.open("rb") as file:
            beginning = file.read(400)
    except OSError as error:
        raise UserError(f"{graph}: cannot be read ({error.strerror or error}); regenerate the folder") from error
    if not _PROLOG.match(beginning):
        raise UserError(f"{graph}: does not begin as OpenVINO's graphs do; regenerate the folder")


def write_vocabulary(directory: Path, vocabulary: tuple[str, ...] | list[str]) -> None:
    """Write ``nemotron_vocab.json``: ``{"0": piece, …}``."""
    pieces = {str(index): piece for index, piece in enumerate(vocabulary)}
    (directory / VOCABULARY).write_text(json.dumps(pieces, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def write_metadata(directory: Path, metadata: Metadata, known: Mapping[str, dict[str, Any]] | None = None) -> Metadata:
    """Write ``metadata.json`` last, with the size and hash of every other file, and its own; returns what was written.

    Its own is of the text in which that hash is empty, so that any changed byte is found.

    Args:
        directory: the folder.
        metadata: without these facts.
        known: files' facts by name where the caller has them, as :func:`export.digest.file_facts`.
    """
    known = known or {}
    names = sorted(file.name for file in directory.iterdir() if file.name != METADATA)
    files = {name: known.get(name) or file_facts(directory / name) for name in names}
    changes = {"files": files, "format_version": FORMAT_VERSION, "metadata_sha256": ""}
    complete = metadata.model_copy(update=changes)
    absent = {"num_prompts", "default_prompt_id", "prompt_dictionary"} if not metadata.has_prompt else set()
    text = complete.model_dump_json(indent=2, exclude=absent) + "\n"
    own = hashlib.sha256(text.encode()).hexdigest()
    head, key, tail = text.rpartition('"metadata_sha256": "')
    (directory / METADATA).write_text(f"{head}{key}{own}{tail}", encoding="utf-8")
    return complete.model_copy(update={"metadata_sha256": own})
