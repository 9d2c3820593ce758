"""What a recipe can say: precision, compression, quantization and run-time options of each graph, and its limits.

Field names of :class:`WeightCompression` are those of ``nncf.compress_weights``, of :class:`Quantization` those of
``nncf.quantize``. A contradiction fails when the object is made, with the rule and the remedy; nothing is corrected
silently. Importing this module is cheap: neither NNCF nor OpenVINO is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    field_serializer,
    field_validator,
    model_validator,
)

from export.bundle import GRAPHS
from quantize.modes import INTEGER_8, MODES, BackupMode, CompressionMode, Mode

Precision = Literal["f32", "f16"]
SensitivityMetric = Literal[
    "weight_quantization_error",
    "hessian_input_activation",
    "mean_activation_variance",
    "max_activation_variance",
    "mean_activation_magnitude",
]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""Finite, written as a number, whole or not; no text and no truth value stands for one."""

RECIPE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DATA_AWARE = ("awq", "scale_estimation", "gptq", "lora_correction")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def _given(self, *names: str) -> list[str]:
        """Which of these fields are set to something."""
        return [name for name in names if getattr(self, name) not in (None, False)]


class IgnoredScope(_Frozen):
    """Nodes that stay in the graph's precision.

    ``names`` are those of operations. ``patterns`` are matched from the start of an operation's or a constant's name,
    as ``re.match`` does, so most begin with ``.*``. ``types`` are OpenVINO's operation types. ``layers`` are conformer
    layers by number, −1 the last: a recipe knows no checkpoint's number of layers. Every rule must match
    something in the graph, unless ``must_match`` (NNCF's ``validate``) is false.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    layers: tuple[StrictInt, ...] = ()
    must_match: StrictBool = True

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
        return not (self.names or self.patterns or self.types or self.layers)


class WeightCompression(_Frozen):
    """Arguments of ``nncf.compress_weights``; None leaves NNCF's default."""

    mode: CompressionMode
    group_size: StrictInt | None = None
    ratio: Number | None = Field(default=None, gt=0.0, le=1.0)
    all_layers: StrictBool | None = None
    backup_mode: BackupMode | None = None
    group_size_fallback_mode: Literal["error", "ignore", "adjust"] | None = None
    sensitivity_metric: SensitivityMetric | None = None
    awq: StrictBool | None = None
    scale_estimation: StrictBool | None = None
    gptq: StrictBool | None = None
    lora_correction: StrictBool | None = None
    subset_size: StrictInt | None = Field(default=None, ge=1)
    ignored_scope: IgnoredScope = IgnoredScope()

    @model_validator(mode="after")
    def _consistent(self) -> WeightCompression:
        for problem in (self._int8_problem(), self._group_size_problem(), self._mixing_problem(), self._data_problem()):
            if problem:
                raise ValueError(problem)
        return self

    def _int8_problem(self) -> str | None:
        takes = {"mode", "ignored_scope"}
        given = [name for name in type(self).model_fields if name not in takes and getattr(self, name) is not None]
        if self.mode in INTEGER_8 and given:
            return (
                f"mode {self.mode} compresses every layer per channel without data and takes no {', '.join(given)}; "
                "leave them out or choose an int4 mode"
            )
        return None

    def _group_size_problem(self) -> str | None:
        size, only = self.group_size, self.kind.group_size
        if size is not None and size != -1 and size < 1:
            return f"group_size {size}: use a positive number of weights, or -1 for a whole channel"
        if size is not None and only is not None and size != only:
            return f"mode {self.mode} knows groups of {only} only, not group_size {size}; leave group_size out"
        if only is not None and self.group_size_fallback_mode == "adjust":
            return f"mode {self.mode} knows groups of {only} only; set group_size_fallback_mode to ignore"
        return None

    def _mixing_problem(self) -> str | None:
        if self.sensitivity_metric is not None and self.ratio in (None, 1.0):
            return (
                f"sensitivity_metric {self.sensitivity_metric} chooses the layers that a ratio below 1 leaves out; "
                "set ratio, or leave sensitivity_metric out"
            )
        if self.group_size_fallback_mode is not None and self.group_size == -1:
            return "group_size_fallback_mode has nothing to do with whole channels; leave it or group_size -1 out"
        return None

    def _data_problem(self) -> str | None:
        asked = self._given(*_DATA_AWARE)
        if asked and not self.kind.data_aware:
            return f"mode {self.mode} takes no {', '.join(asked)}; leave them out or choose int4_sym, int4_asym or nf4"
        if self.gptq and self.lora_correction:
            return "gptq and lora_correction exclude each other; choose one"
        if self.subset_size is not None and not self.needs_calibration:
            return (
                f"subset_size {self.subset_size} counts calibration samples, and this compression uses none; leave it "
                "out, or set awq, scale_estimation, gptq, lora_correction or a sensitivity_metric of activations"
            )
        return None

    @property
    def kind(self) -> Mode:
        """How the mode stores weights."""
        return MODES[self.mode]

    @property
    def backup(self) -> Mode | None:
        """How weights are stored that the mode leaves to its backup; None keeps them."""
        mode = self.backup_mode or self.kind.default_backup
        return None if mode == "none" else MODES[mode]

    @property
    def needs_calibration(self) -> bool:
        """Whether NNCF must see activations."""
        return bool(self._given(*_DATA_AWARE)) or self.sensitivity_metric not in (None, "weight_quantization_error")


class SmoothQuantAlphas(_Frozen):
    """How much of an activation's range moves into the weights, 0 to 1; −1 switches smoothing off."""

    convolution: Number | None = None
    matmul: Number | None = None

    @field_validator("convolution", "matmul")
    @classmethod
    def _in_range(cls, alpha: float | None) -> float | None:
        if alpha is not None and alpha != -1 and not 0 <= alpha <= 1:
            raise ValueError(f"SmoothQuant alpha {alpha:g}: use 0 to 1, or -1 to switch smoothing off")
        return alpha


class Quantization(_Frozen):
    """Arguments of ``nncf.quantize``, weights and activations in INT8; None leaves NNCF's default.

    ``smooth_quant_alphas`` and ``overflow_fix`` are those of ``nncf.AdvancedQuantizationParameters``. Calibration data
    are always needed.
    """

    preset: Literal["performance", "mixed"] | None = None
    model_type: Literal["transformer"] | None = None
    smooth_quant_alphas: SmoothQuantAlphas | None = None
    overflow_fix: Literal["enable", "first_layer_only", "disable"] | None = None
    fast_bias_correction: StrictBool | None = None
    subset_size: StrictInt | None = Field(default=None, ge=1)
    ignored_scope: IgnoredScope = IgnoredScope()

    @model_validator(mode="after")
    def _consistent(self) -> Quantization:
        if self.smooth_quant_alphas is not None and self.model_type is None:
            raise ValueError(
                "smooth_quant_alphas act on transformers only; set model_type to transformer, or leave them out"
            )
        return self


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


class GraphRecipe(_Frozen):
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


class Tolerance(_Frozen):
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


class Recipe(_Frozen):
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
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()

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
