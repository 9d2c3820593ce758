"""What a recipe can say: precision and weight compression of each graph, and how much it may cost.

Field names below :class:`WeightCompression` are those of ``nncf.compress_weights``. A contradiction fails when the
object is made, with the rule and the remedy; nothing is corrected silently. Importing this module is cheap: neither
NNCF nor OpenVINO is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from export.bundle import GRAPHS

CompressionMode = Literal["int8_sym", "int8_asym", "int4_sym", "int4_asym"]
BackupMode = Literal["none", "int8_sym", "int8_asym"]
Precision = Literal["f32", "f16"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IgnoredScope(_Frozen):
    """Nodes whose weights stay in the graph's precision; every rule must match something in the graph.

    ``names`` are those of operations. ``patterns`` are matched from the start of an operation's or a constant's name,
    as ``re.match`` does, so most begin with ``.*``. ``types`` are OpenVINO's operation types.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"ignored_scope pattern {pattern!r} is no regular expression ({error})") from error
        return patterns

    @property
    def empty(self) -> bool:
        """Whether nothing is ignored."""
        return not (self.names or self.patterns or self.types)


class WeightCompression(_Frozen):
    """Arguments of ``nncf.compress_weights``; None leaves NNCF's default."""

    mode: CompressionMode
    group_size: int | None = None
    ratio: float | None = Field(default=None, ge=0.0, le=1.0)
    all_layers: bool | None = None
    backup_mode: BackupMode | None = None
    ignored_scope: IgnoredScope = IgnoredScope()

    @model_validator(mode="after")
    def _consistent(self) -> WeightCompression:
        if self.mode.startswith("int8"):
            given = [name for name in ("group_size", "ratio", "all_layers", "backup_mode") if self._given(name)]
            if given:
                raise ValueError(
                    f"mode {self.mode} compresses every layer per channel and takes no {', '.join(given)}; "
                    "leave them out or choose an int4 mode"
                )
        if self.group_size is not None and self.group_size != -1 and self.group_size < 1:
            raise ValueError(
                f"group_size {self.group_size}: use a positive number of weights, or -1 for a whole channel"
            )
        if self.backup_mode is not None and self.all_layers and self.ratio in (None, 1.0):
            raise ValueError(
                f"backup_mode {self.backup_mode} has no layer to apply to with all_layers and ratio 1; "
                "leave it out, or lower ratio"
            )
        return self

    def _given(self, name: str) -> bool:
        return getattr(self, name) is not None

    @property
    def bits(self) -> int:
        """Bits of a compressed weight."""
        return int(self.mode[3])


class GraphRecipe(_Frozen):
    """One graph: the precision of its floating-point constants, and the compression of its weights."""

    precision: Precision = "f16"
    compression: WeightCompression | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GraphRecipe:
        if self.compression is not None and self.precision == "f32":
            raise ValueError(
                f"mode {self.compression.mode} keeps its scales and the weights it leaves out in f16; "
                "set precision to f16, or drop the compression"
            )
        return self


class Tolerance(_Frozen):
    """What a recipe may cost against the FP32 folder.

    ``exact_match`` is the smallest share of utterances with identical tokens, ``wer_delta`` the most points of word
    error rate (0 to 100) by which the result may be worse.
    """

    exact_match: float = Field(ge=0.0, le=1.0)
    wer_delta: float = Field(ge=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Tolerance:
        if self.exact_match == 1.0 and self.wer_delta > 0.0:
            raise ValueError(
                f"wer_delta {self.wer_delta:g} cannot be used up when exact_match 1 asks for identical tokens; "
                "set wer_delta to 0 or lower exact_match"
            )
        return self


class Recipe(_Frozen):
    """How an FP32 bundle becomes another, for all four graphs, and how much that may cost."""

    name: str
    version: int = Field(ge=1)
    description: str
    preprocessor: GraphRecipe
    encoder: GraphRecipe
    decoder: GraphRecipe
    joint: GraphRecipe
    tolerance: Tolerance

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: use lower-case letters, digits and single hyphens, as in int8-full")
        return name

    def graph(self, name: str) -> GraphRecipe:
        """The part for one of :data:`export.bundle.GRAPHS`."""
        part: GraphRecipe = getattr(self, name)
        return part

    @property
    def graphs(self) -> dict[str, GraphRecipe]:
        """Graph name to its part, in the bundle's order."""
        return {name: self.graph(name) for name in GRAPHS}

    @property
    def precision(self) -> str:
        """``FP32``, ``FP16``, ``INT8`` or ``INT4``: the label in a bundle's metadata, that of its smallest weights."""
        bits = [part.compression.bits for part in self.graphs.values() if part.compression]
        if bits:
            return f"INT{min(bits)}"
        return "FP32" if all(part.precision == "f32" for part in self.graphs.values()) else "FP16"

    @property
    def hash(self) -> str:
        """SHA-256 of everything but the description; fields that are not set do not enter it."""
        content = self.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()

    def as_metadata(self) -> dict[str, Any]:
        """What travels in a bundle's ``metadata.json``: every field that is set, and the hash."""
        return {**self.model_dump(mode="json", exclude_none=True), "hash": self.hash}
