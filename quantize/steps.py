"""What a recipe does to a graph's weights and activations: the arguments of NNCF's two functions, checked.

Field names of :class:`WeightCompression` are those of ``nncf.compress_weights``, of :class:`Quantization` those of
``nncf.quantize``. A contradiction fails when the object is made, with the rule and the remedy; nothing is corrected
silently. Importing this module is cheap: neither NNCF nor OpenVINO is loaded.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator

from quantize.modes import INTEGER_8, MODES, BackupMode, CompressionMode, Mode

SensitivityMetric = Literal[
    "weight_quantization_error",
    "hessian_input_activation",
    "mean_activation_variance",
    "max_activation_variance",
    "mean_activation_magnitude",
]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""Finite, written as a number, whole or not; no text and no truth value stands for one."""

_DATA_AWARE = ("awq", "scale_estimation", "gptq", "lora_correction")


class Frozen(BaseModel):
    """An object of a recipe: nothing unknown in it, nothing changed later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _given(self, *names: str) -> list[str]:
        """Which of these fields are set to something."""
        return [name for name in names if getattr(self, name) not in (None, False)]


class IgnoredScope(Frozen):
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


class WeightCompression(Frozen):
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


class SmoothQuantAlphas(Frozen):
    """How much of an activation's range moves into the weights, 0 to 1; −1 switches smoothing off."""

    convolution: Number | None = None
    matmul: Number | None = None

    @field_validator("convolution", "matmul")
    @classmethod
    def _in_range(cls, alpha: float | None) -> float | None:
        if alpha is not None and alpha != -1 and not 0 <= alpha <= 1:
            raise ValueError(f"SmoothQuant alpha {alpha:g}: use 0 to 1, or -1 to switch smoothing off")
        return alpha


class Quantization(Frozen):
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
