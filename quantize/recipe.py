"""What a recipe can say: precision, compression, quantization and run-time options of each graph, and its limits.

Its compressions and quantizations are those of :mod:`quantize.steps`. A contradiction fails when the object is made,
with the rule and the remedy; nothing is corrected silently. Importing this module is cheap: neither NNCF nor OpenVINO
is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StrictInt,
    field_serializer,
    field_validator,
    model_validator,
)

from export.bundle import GRAPHS
from export.digest import digest
from quantize.modes import MODES, Mode
from quantize.steps import Frozen, Number, Quantization, WeightCompression

Precision = Literal["f32", "f16"]
RECIPE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _check_runtime_options(options: object) -> object:
    """Only what plugins read from a graph, see :data:`RUNTIME_OPTIONS`."""
    for key, value in options.items() if isinstance(options, Mapping) else ():
        if key not in RUNTIME_OPTIONS:
            raise ValueError(
                f"runtime option {key}: OpenVINO does not read it from a graph; set it where the graph is compiled, "
                f"or choose {', '.join(RUNTIME_OPTIONS)}"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"runtime option {key} {value!r}: {RUNTIME_OPTIONS[key]}")
    return options


ACTIVATION_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"

RUNTIME_OPTIONS = {
    ACTIVATION_GROUP: "use the number of activations that share a scale, or 0 for none",
}
"""Run-time options that a graph can carry, and what their values mean.

OpenVINO 2026.4's CPU plugin reads this one (and those of caches that this model has not) from a graph's ``rt_info``
and ignores all others there, inference precision and threads among them.
"""


def _as_steps(value: object) -> object:
    """One table is one step."""
    return (value,) if isinstance(value, Mapping | WeightCompression) else value or ()


class GraphRecipe(Frozen):
    """One graph.

    Attributes:
        precision: of its floating-point constants.
        compression: compressions of its weights, in order; each takes what those before it left in ``precision``. One
            table is as good as a list of one.
        quantization: of weights and activations.
        runtime_options: OpenVINO properties that travel in the graph, see :data:`RUNTIME_OPTIONS`; what a client
            sets itself wins.
    """

    precision: Precision = "f16"
    compression: Annotated[tuple[WeightCompression, ...], BeforeValidator(_as_steps)] = ()
    quantization: Quantization | None = None
    runtime_options: Annotated[dict[str, int], BeforeValidator(_check_runtime_options)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> GraphRecipe:
        if self.compression and self.quantization:
            raise ValueError(
                "compression and quantization both decide how the same weights are stored; leave one of them out"
            )
        if self.changes_weights and self.precision == "f32":
            what = f"mode {self.compression[0].mode}" if self.compression else "quantization of weights"
            raise ValueError(
                f"{what} keeps its scales and the weights it leaves out in f16; "
                "set precision to f16, or drop the compression"
            )
        return self

    @field_serializer("compression", mode="wrap")
    def _one_step_is_a_table(self, steps: tuple[WeightCompression, ...], dump: SerializerFunctionWrapHandler) -> Any:
        dumped = dump(steps)
        return dumped[0] if len(dumped) == 1 else dumped

    @property
    def changes_weights(self) -> bool:
        """Whether anything but precision and run-time options changes."""
        return bool(self.compression) or self.quantization is not None

    @property
    def needs_calibration(self) -> bool:
        """Whether it can only be applied with calibration data."""
        return self.quantization is not None or any(step.needs_calibration for step in self.compression)

    @property
    def kinds(self) -> list[Mode]:
        """How its weights are stored, apart from plain precision."""
        integer = self.quantization is not None
        return [step.kind for step in self.compression] + ([MODES["int8_sym"]] if integer else [])


class Tolerance(Frozen):
    """What a recipe may cost against the FP32 folder.

    Attributes:
        exact_match: the smallest share of utterances, 0 to 1, that keep FP32's tokens; near ties do not count.
        wer_delta: the most points of error rate (0 to 100), on average over the languages, by which the result may be
            worse.
        language_wer_delta: the same for each language alone, whose interval is wider; None for ``wer_delta``.
        wer_between: the largest error rate against FP32's own text, in percent, where there is no other text; None
            where the recipe cannot be judged without.
    """

    exact_match: Number = Field(ge=0.0, le=1.0)
    wer_delta: Number = Field(ge=0.0)
    language_wer_delta: Number | None = Field(default=None, ge=0.0)
    wer_between: Number | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Tolerance:
        if self.language_wer_delta is not None and self.language_wer_delta < self.wer_delta:
            raise ValueError(
                f"language_wer_delta {self.language_wer_delta:g} is below wer_delta {self.wer_delta:g}, which is an "
                "average over languages; set it to that or more, or leave it out"
            )
        return self

    @property
    def of_a_language(self) -> float:
        """What each language alone may be worse."""
        return self.wer_delta if self.language_wer_delta is None else self.language_wer_delta


def allowance(limits: Tolerance) -> tuple[str, str, str]:
    """What limits allow, as tables show it: identical tokens, error rate, distance to FP32's text."""
    return (
        f"≥ {100 * limits.exact_match:g} %",
        f"≤ {limits.wer_delta:g} / {limits.of_a_language:g} points",
        "" if limits.wer_between is None else f"≤ {limits.wer_between:g} %",
    )


class Recipe(Frozen):
    """How an FP32 bundle becomes another, for all four graphs, and how much that may cost."""

    name: str
    version: StrictInt = Field(ge=1)
    description: str
    tolerance: Tolerance
    preprocessor: GraphRecipe
    encoder: GraphRecipe
    decoder: GraphRecipe
    joint: GraphRecipe

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not RECIPE_NAME.fullmatch(name):
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
        """``FP32``, ``FP16``, ``INT8``, ``INT4``, ``NF4``, …: a bundle's label, that of its smallest weights."""
        kinds = [kind for part in self.graphs.values() for kind in part.kinds]
        if kinds:
            return min(kinds, key=lambda kind: kind.bits).label
        return "FP32" if all(part.precision == "f32" for part in self.graphs.values()) else "FP16"

    @property
    def needs_calibration(self) -> bool:
        """Whether it can only be applied with calibration data."""
        return any(part.needs_calibration for part in self.graphs.values())

    def without_runtime_options(self) -> Recipe:
        """The same recipe with nothing written into the graphs for plugins to read."""
        parts = {name: part.model_copy(update={"runtime_options": {}}) for name, part in self.graphs.items()}
        return self.model_copy(update=parts)

    @property
    def hash(self) -> str:
        """SHA-256 of everything but the description; fields that are not set do not enter it.

        Neither do limits that recipes have had since hashes were first recorded: they change no folder.
        """
        apart: Any = {"description": True, "tolerance": {"language_wer_delta", "wer_between"}}
        dumped = self.model_dump(mode="json", exclude=apart, exclude_defaults=True)
        content = {field: _pruned(value) for field, value in dumped.items()}
        return digest(content)

    def as_table(self) -> dict[str, Any]:
        """Every field that is set, as nested tables; what a file holds."""
        table: dict[str, Any] = _pruned(self.model_dump(mode="json"))
        return table

    def as_metadata(self) -> dict[str, Any]:
        """What travels in a bundle's ``metadata.json``: every field that is set, and the hash."""
        return {**self.as_table(), "hash": self.hash}


def _pruned(value: Any) -> Any:
    """Without fields that are None, empty or an empty table."""
    if isinstance(value, dict):
        pruned = {name: _pruned(item) for name, item in value.items()}
        return {name: item for name, item in pruned.items() if item is not None and item not in ({}, [])}
    return [_pruned(item) for item in value] if isinstance(value, list) else value
